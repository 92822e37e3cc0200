"""Make tests/golden/reranker_*: tiny rerankers and what the real clients say of them.

Run from the root of the repository, in an environment with torch, transformers,
sentencepiece, sentence-transformers and FlagEmbedding; the library needs none of them:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_reranker.py

The same versions give the same files. Made with torch 2.13.0, transformers 5.23.0,
sentence-transformers 6.2.0 and FlagEmbedding 1.4.2.

- reranker_xlmr: layout of BAAI/bge-reranker-v2-m3, scored by FlagEmbedding
- reranker_bert: layout of cross-encoder/ms-marco-MiniLM-L6-v2, scored by CrossEncoder
- reranker_qwen3: layout of Qwen/Qwen3-Reranker-0.6B, scored as its model card does
- reranker_qwen3_untied: the same with an own lm_head, as Qwen3-Reranker-8B

expected.npz of all (n pairs, l tokens):

- pairs [n 2]: query and passage
- max_length []: tokens of a pair, all special ones counted
- ids, mask [n l]: inputs as the client built them, padded at the right, Qwen's at the
  left

reranker_xlmr: score [n] is the raw logit, score_normalized [n] its sigmoid. Queries are
cut at 3/4 of max_length, and then the passage so that the pair fits. With transformers
5, FlagEmbedding 1.4.2 goes from ids back to text and again to ids, which loses a space
at the cut and the separator before an empty passage (pairs 2 and 8). So ids and score
are of ids joined as its code joined them with transformers 4; score_retokenized [n] is
what it says now.
reranker_bert: types [n l], token types; score [n], the raw logit.
reranker_qwen3*: instruction []; yes, no [n]: the two logits at the last position; score
[n] = softmax over both, of yes; yes_id, no_id []. The pair alone is cut, prefix and
suffix of the chat stay whole.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("what is a cell?", "Ärzte messen 37 °C, naïve café"),
    ("a", ""),
    ("", "the unit of life"),
    ("the cell", "the cell"),
    ("細胞", "細胞は生命の単位です"),
    ("zebra quiz", "the zebra, the quiz and the cell"),
    ("what is life?", "the unit of life is a cell, and what is life? " * 30),
    ("the unit of life is a cell, and what is life? " * 30, "the cell"),
    ("what is the cell of life? " * 30, "the unit of life is a cell? " * 30),
]
FITTING = 7


def save(model: Any, folder: Path, config: dict) -> None:
    """Weights as safetensors, and config.json in its published form."""
    import tiny

    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    (folder / "generation_config.json").unlink(missing_ok=True)
    tiny.write_json(folder / "config.json", config)


def write(folder: Path, pairs: list, length: int, batch: Any, **more: Any) -> None:
    """Write expected.npz; more are arrays or lists of floats."""
    import tiny

    found: dict[str, Any] = {
        name: value if isinstance(value, np.ndarray) else np.array(value, np.float32)
        for name, value in more.items()
    }
    np.savez_compressed(
        folder / "expected.npz",
        pairs=np.array(pairs),
        max_length=np.array(length, np.int32),
        **tiny.arrays(batch),
        **found,
    )


def encoder_config(kind: str, name: str, vocab_size: int, **more: Any) -> dict:
    """config.json of a reranker with one logit."""
    return {
        "architectures": [name],
        "attention_probs_dropout_prob": 0.1,
        "classifier_dropout": None,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 24,
        "id2label": {"0": "LABEL_0"},
        "initializer_range": 0.02,
        "intermediate_size": 48,
        "label2id": {"LABEL_0": 0},
        "model_type": kind,
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "transformers_version": "4.38.1",
        "use_cache": True,
        "vocab_size": vocab_size,
        **more,
    }


def make_xlmr() -> None:
    """Scores by FlagReranker."""
    import tiny
    from FlagEmbedding import FlagReranker
    from FlagEmbedding.inference.reranker.encoder_only import base
    from transformers import AutoConfig, AutoModelForSequenceClassification

    folder, length = HERE / "reranker_xlmr", 64
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = tiny.write_xlmr_tokenizer(folder, max_length=80)
    config = encoder_config(
        "xlm-roberta",
        "XLMRobertaForSequenceClassification",
        len(tokenizer),
        bos_token_id=0,
        eos_token_id=2,
        layer_norm_eps=1e-05,
        max_position_embeddings=82,
        output_past=True,
        pad_token_id=1,
        type_vocab_size=1,
    )
    tiny.write_json(folder / "config.json", config)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(folder)
    )
    save(tiny.randomise(model, seed=5, std=0.2), folder, config)

    built = []
    by_client: Any = base.prepare_for_model_compat

    def join(_: Any, first: list[int], second: list[int], **options: Any) -> Any:
        """What `prepare_for_model` did before transformers 5 dropped it."""
        second = second[: options["max_length"] - 4 - len(first)]
        built.append([0, *first, 2, 2, *second, 2])
        return {"input_ids": built[-1], "attention_mask": [1] * len(built[-1])}

    client = FlagReranker(str(folder), use_fp16=False, devices="cpu")
    retokenized = client.compute_score(PAIRS, max_length=length)
    base.prepare_for_model_compat = join
    scores = client.compute_score(PAIRS, max_length=length)
    batch = tokenizer.pad({"input_ids": built}, return_tensors="pt")
    normalized = client.compute_score(PAIRS, max_length=length, normalize=True)
    base.prepare_for_model_compat = by_client
    write(
        folder,
        PAIRS,
        length,
        batch,
        score=scores,
        score_normalized=normalized,
        score_retokenized=retokenized,
    )


def make_bert() -> None:
    """Scores by CrossEncoder."""
    import tiny
    import torch
    from sentence_transformers import CrossEncoder
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers import BertTokenizer as Fast

    folder, length = HERE / "reranker_bert", 64
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghilmnoprstuwxyz0137"
    words = ["the", "cell", "is", "of", "unit", "life", "what", "細", "胞", "?", ","]
    pieces = [*letters, *(f"##{letter}" for letter in letters)]
    tokens = [*special, *words, *pieces]
    tokenizer = Fast(vocab={token: id for id, token in enumerate(tokens)})
    assert isinstance(
        tokenizer.backend_tokenizer.post_processor, processors.TemplateProcessing
    )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("\n".join(tokens) + "\n", encoding="utf-8")
    roles = ("unk", "sep", "pad", "cls", "mask")
    names = {f"{role}_token": f"[{role.upper()}]" for role in roles}
    tiny.write_json(folder / "special_tokens_map.json", names)
    settings = {
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "model_max_length": length,
        "strip_accents": None,
        "tokenize_chinese_chars": True,
        "tokenizer_class": "BertTokenizer",
    }
    tiny.write_json(folder / "tokenizer_config.json", settings | names)
    config = encoder_config(
        "bert",
        "BertForSequenceClassification",
        len(tokens),
        gradient_checkpointing=False,
        layer_norm_eps=1e-12,
        max_position_embeddings=length,
        pad_token_id=0,
        sentence_transformers={
            "activation_fn": "torch.nn.modules.linear.Identity",
            "version": "4.1.0",
        },
        type_vocab_size=2,
    )
    tiny.write_json(folder / "config.json", config)
    model = AutoModelForSequenceClassification.from_config(
        AutoConfig.from_pretrained(folder)
    )
    save(tiny.randomise(model, seed=6, std=0.2), folder, config)
    client = CrossEncoder(str(folder), device="cpu")
    pairs = PAIRS[:FITTING]
    scores = client.predict(pairs, activation_fn=torch.nn.Identity())
    batch = client.tokenizer(
        [list(pair) for pair in pairs], padding=True, return_tensors="pt"
    )
    types = batch["token_type_ids"].numpy().astype(np.int32)
    write(folder, pairs, length, batch, types=types, score=scores)


def make_qwen3(*, tied: bool) -> None:
    """Scores as the model card of Qwen3-Reranker computes them."""
    import tiny
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = HERE / ("reranker_qwen3" if tied else "reranker_qwen3_untied")
    shutil.rmtree(folder, ignore_errors=True)
    prefix, suffix = tiny.CHAT
    tokenizer = tiny.write_qwen_tokenizer(
        folder, eos="<|im_end|>", append=False, max_length=512, padding_side="left"
    )
    config = {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "head_dim": 8,
        "hidden_act": "silu",
        "hidden_size": 16,
        "initializer_range": 0.02,
        "intermediate_size": 32,
        "max_position_embeddings": 512,
        "max_window_layers": 2,
        "model_type": "qwen3",
        "num_attention_heads": 4,
        "num_hidden_layers": 2,
        "num_key_value_heads": 2,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": tied,
        "torch_dtype": "float32",
        "transformers_version": "4.51.3",
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": len(tokenizer),
    }
    tiny.write_json(folder / "config.json", config)
    model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    # With this seed scores lie on both sides of 1/2.
    save(tiny.randomise(model, seed=8), folder, config)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()

    start = tokenizer(prefix, add_special_tokens=False)["input_ids"]
    end = tokenizer(suffix, add_special_tokens=False)["input_ids"]
    length = len(start) + len(end) + 96
    bodies = [
        f"<Instruct>: {tiny.TASK}\n<Query>: {query}\n<Document>: {passage}"
        for query, passage in PAIRS
    ]
    inputs = tokenizer(
        bodies,
        padding=False,
        truncation="longest_first",
        return_attention_mask=False,
        max_length=length - len(start) - len(end),
    )
    joined = [start + ids + end for ids in inputs["input_ids"]]
    batch = tokenizer.pad({"input_ids": joined}, padding=True, return_tensors="pt")
    yes_id, no_id = tokenizer.convert_tokens_to_ids(["yes", "no"])
    with torch.no_grad():
        logits = model(**batch).logits[:, -1]
    both = torch.stack([logits[:, no_id], logits[:, yes_id]], dim=1)
    scores = torch.nn.functional.log_softmax(both, dim=1)[:, 1].exp()
    write(
        folder,
        PAIRS,
        length,
        batch,
        instruction=np.array(tiny.TASK),
        yes=both[:, 1].numpy(),
        no=both[:, 0].numpy(),
        score=scores.numpy(),
        yes_id=np.array(yes_id, np.int32),
        no_id=np.array(no_id, np.int32),
    )


def main() -> None:
    """Write all four folders."""
    make_xlmr()
    make_bert()
    make_qwen3(tied=True)
    make_qwen3(tied=False)


if __name__ == "__main__":
    main()
