"""Make tests/golden/m3: a tiny random BGE-M3 and what FlagEmbedding says about it.

Run from the root of the repository, in an environment with torch, transformers,
sentencepiece and FlagEmbedding; the library itself needs none of them:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_m3.py

The same versions give the same files. Made with torch 2.13.0, transformers 5.23.0 and
FlagEmbedding 1.4.2. The folder has the layout of BAAI/bge-m3: pytorch_model.bin, no
safetensors, the heads in sparse_linear.pt and colbert_linear.pt.

expected.npz (n texts, t vectors, d = 16 hidden, v = 8 of a narrower head, s scored
pairs; MAX is 16 and 512, so `ids_16` and `ids_512`):

- texts [n]
- ids_MAX, mask_MAX [n l]: ids, padded to the longest at the right; l = MAX
- hidden_16 [n l d]: last hidden states by transformers, 0 where the mask is False
- dense_MAX, mean_MAX [n d]: dense_vecs with CLS and with mean pooling, normalised
- sparse_MAX_text, sparse_MAX_id, sparse_MAX_weight [k]: lexical_weights, one row per
  text and token id, sorted by both
- colbert_16 [t d]: colbert_vecs of all texts, one after the other
- colbert_16_offsets [n + 1]: text i is colbert_16[offsets[i] : offsets[i + 1]]
- colbert_512_row [r], colbert_512 [r d]: of the longest text at 512, every 16th vector
  and the last; colbert_512_row says which
- small_weight [v d], small_bias [v]: another colbert_linear (colbert_dim 8), and
  small_16 [t v]: its vectors, with the offsets of colbert_16
- pairs [s 2]: texts of compute_score, at 512 and one pair a batch, so without padding
- score_colbert, score_sparse, score_dense [s], and score_sparse_dense,
  score_colbert_sparse_dense [s]: equal weights; weighted_sparse_dense,
  weighted_colbert_sparse_dense [s]: [0.4, 0.2, 0.4] for dense, sparse and colbert
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "m3"
WIDTH = 16
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("what is a cell?", "Ärzte messen 37 °C, naïve café"),
    ("the cell, the cell", "the cell and the cell and the unit of the cell"),
    ("a", ""),
    ("", "the unit of life"),
    ("細胞", "細胞は生命の単位です"),
    ("what is life?", "the unit of life is a cell, and what is life? " * 60),
]


def make_config(vocab_size: int) -> dict[str, Any]:
    """config.json as published, but small."""
    return {
        "_name_or_path": "",
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": WIDTH,
        "initializer_range": 0.02,
        "intermediate_size": 32,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": 602,
        "model_type": "xlm-roberta",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.33.0",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": vocab_size,
    }


def encode(folder: Path, texts: list[str], max_length: int, **options: Any) -> Any:
    """What FlagEmbedding's client says."""
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu", **options)
    return model.encode(
        texts,
        max_length=max_length,
        batch_size=len(texts),
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )


def sparse_rows(weights: list[dict[str, float]], name: str) -> dict[str, np.ndarray]:
    """A list of dictionaries as three columns."""
    rows = [
        (text, int(token), weight)
        for text, found in enumerate(weights)
        for token, weight in sorted(found.items(), key=lambda item: int(item[0]))
    ]
    text, token, weight = zip(*rows, strict=True)
    return {
        f"{name}_text": np.array(text, np.int32),
        f"{name}_id": np.array(token, np.int32),
        f"{name}_weight": np.array(weight, np.float32),
    }


def main() -> None:
    """Write the folder."""
    import tiny
    import torch
    from FlagEmbedding import BGEM3FlagModel
    from transformers import AutoConfig, AutoModel

    shutil.rmtree(FOLDER, ignore_errors=True)
    # <mask> is no word, but BGE-M3 gives it a weight; the wide letters are normalised.
    texts = [*tiny.TEXTS, "the <mask> divides, <mask> the \uff21\uff21\uff41"]
    tokenizer = tiny.write_xlmr_tokenizer(FOLDER, max_length=512)
    tiny.write_json(FOLDER / "config.json", make_config(len(tokenizer)))
    tiny.write_sentence_transformers(
        FOLDER, pooling="cls", width=WIDTH, max_length=512, prompts={}
    )
    config = AutoConfig.from_pretrained(FOLDER)
    model = tiny.randomise(AutoModel.from_config(config), seed=1, std=0.2)
    torch.save(model.state_dict(), FOLDER / "pytorch_model.bin")
    heads = {}
    for seed, (name, width) in enumerate(
        {"sparse_linear": 1, "colbert_linear": WIDTH, "small": 8}.items()
    ):
        linear = tiny.randomise(torch.nn.Linear(WIDTH, width), seed=30 + seed)
        heads[name] = linear.state_dict()
    for name in ("sparse_linear", "colbert_linear"):
        torch.save(heads[name], FOLDER / f"{name}.pt")

    expected: dict[str, Any] = {"texts": np.array(texts)}
    for length in (16, 512):
        batch = tiny.padded(tokenizer, texts, length)
        with torch.no_grad():
            opened = AutoModel.from_pretrained(FOLDER).eval()
            states = opened(**batch).last_hidden_state
        found = tiny.arrays(batch, states if length == 16 else None)
        expected |= {f"{name}_{length}": value for name, value in found.items()}
        said = encode(FOLDER, texts, length)
        mean = encode(FOLDER, texts, length, pooling_method="mean")
        expected[f"dense_{length}"] = said["dense_vecs"]
        expected[f"mean_{length}"] = mean["dense_vecs"]
        expected |= sparse_rows(said["lexical_weights"], f"sparse_{length}")
        vectors = said["colbert_vecs"]
        if length == 16:
            expected["colbert_16"] = np.concatenate(vectors)
            counts = [0, *(len(rows) for rows in vectors)]
            expected["colbert_16_offsets"] = np.cumsum(counts).astype(np.int32)
        else:
            longest = max(vectors, key=len)
            rows = np.unique([*range(0, len(longest), 16), len(longest) - 1])
            expected["colbert_512_row"] = rows.astype(np.int32)
            expected["colbert_512"] = longest[rows]

    small = heads["small"]
    expected["small_weight"] = small["weight"].numpy()
    expected["small_bias"] = small["bias"].numpy()
    with tempfile.TemporaryDirectory() as other:
        shutil.copytree(FOLDER, other, dirs_exist_ok=True)
        torch.save(small, Path(other) / "colbert_linear.pt")
        said = encode(Path(other), texts, 16, colbert_dim=8)
        expected["small_16"] = np.concatenate(said["colbert_vecs"])

    client = BGEM3FlagModel(str(FOLDER), use_fp16=False, devices="cpu")
    expected["pairs"] = np.array(PAIRS)
    for start, weights in (("score", None), ("weighted", [0.4, 0.2, 0.4])):
        said = client.compute_score(
            PAIRS,
            batch_size=1,
            max_query_length=512,
            max_passage_length=512,
            weights_for_different_modes=weights,
        )
        for name, scores in said.items():
            if start == "score" or "+" in name:
                key = f"{start}_{name.replace('+', '_')}"
                expected[key] = np.array(scores, np.float32)
    np.savez_compressed(FOLDER / "expected.npz", **expected)


if __name__ == "__main__":
    main()
