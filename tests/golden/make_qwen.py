"""Make tests/golden/qwen3 and tests/golden/qwen2: tiny Qwen3-Embedding and KaLM.

Run from the root of the repository, in an environment with torch, transformers,
sentencepiece and sentence-transformers; the library itself needs none of them:

    HF_HUB_OFFLINE=1 PEERS/bin/python tests/golden/make_qwen.py

The same versions give the same files. Made with torch 2.13.0, transformers 5.23.0 and
sentence-transformers 6.2.0. qwen3 has the layout of Qwen/Qwen3-Embedding-4B: weights in
two files with an index, <|endoftext|> appended by the tokenizer, padding at the left,
the last token as embedding. qwen2 has that of KaLM-embedding-multilingual-mini: one
file, padding at the right, nothing appended, the mean as embedding. Tensors have no
"model." before their names, as published.

expected.npz of both (n texts, l = 80 tokens, d = 16 hidden):

- texts [n], prompt []: what stands before a query; documents have none
- ids, mask [n l]: a padded batch of the texts as documents, cut at 80 tokens
- hidden [n l d]: last hidden states of that batch, 0 where the mask is False
- hidden_alone [n l d]: those of each text alone, unpadded, put in the same places
- hidden_bidirectional [n l d]: those of the batch when every token sees every other
- document, query [n d]: embeddings by sentence-transformers, normalised
- document_8, query_8 [n 8]: their first 8 numbers, normalised again
- document_bidirectional [n d]: pooled and normalised from hidden_bidirectional

In qwen2 the empty text would give no token at all, so its texts leave that one out.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
WIDTH = 16
MAX_LENGTH = 80
COMMON = {
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": WIDTH,
    "initializer_range": 0.02,
    "intermediate_size": 32,
    "max_position_embeddings": MAX_LENGTH,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "transformers_version": "4.51.3",
    "use_cache": True,
    "use_sliding_window": False,
}
QWEN3 = COMMON | {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "head_dim": 8,  # not 16 / 4
    "max_window_layers": 2,
    "model_type": "qwen3",
    "rope_scaling": None,
    "torch_dtype": "float32",
}
QWEN2 = COMMON | {
    "architectures": ["Qwen2Model"],
    "max_window_layers": 2,
    "model_type": "qwen2",
    "torch_dtype": "float32",
}


def states(folder: Path, batch: Any, *, causal: bool = True) -> Any:
    """Last hidden states by transformers."""
    import torch
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.from_pretrained(folder)
    config.is_causal = causal
    # The eager kernel, since the others may take their own idea of causality.
    model = AutoModel.from_pretrained(
        folder, config=config, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        found = model(**batch).last_hidden_state
        if not causal:  # the same with a mask made by hand
            allowed = batch["attention_mask"].bool()[:, None, None, :]
            mask = torch.zeros(allowed.shape).masked_fill(~allowed, -1e30)
            length = allowed.shape[-1]
            mask = mask.expand(-1, 1, length, length)
            by_hand = model(batch["input_ids"], attention_mask=mask).last_hidden_state
            real = batch["attention_mask"].bool()
            torch.testing.assert_close(found[real], by_hand[real])
    return found


def expect(folder: Path, texts: list[str], prompt: str, *, pooling: str) -> None:
    """Write expected.npz."""
    import tiny
    import torch
    from sentence_transformers import SentenceTransformer
    from torch.nn.functional import normalize
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    batch = tiny.padded(tokenizer, texts, MAX_LENGTH)
    real = batch["attention_mask"].bool()
    expected = tiny.arrays(batch, states(folder, batch))
    alone = np.zeros_like(expected["hidden"])
    for row, text in enumerate(texts):
        one = tiny.padded(tokenizer, [text], MAX_LENGTH)
        alone[row, real[row].numpy()] = states(folder, one)[0].numpy()
    expected["hidden_alone"] = alone
    both = states(folder, batch, causal=False)
    expected["hidden_bidirectional"] = tiny.arrays(batch, both)["hidden"]
    if pooling == "lasttoken":  # padding is at the left
        pooled = both[:, -1]
    else:
        pooled = (both * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    expected["document_bidirectional"] = normalize(pooled, dim=-1).numpy()
    model = SentenceTransformer(str(folder), device="cpu")
    assert model.max_seq_length == MAX_LENGTH
    for name, start in (("document", ""), ("query", prompt)):
        for dim in (None, 8):
            expected[name + (f"_{dim}" if dim else "")] = model.encode(
                texts,
                prompt=start,
                batch_size=len(texts),
                truncate_dim=dim,
                normalize_embeddings=True,
            )
    if pooling == "lasttoken":
        last = normalize(torch.tensor(alone[:, -1]), dim=-1).numpy()
        np.testing.assert_allclose(last, expected["document"], atol=1e-5)
        by_name = model.encode(texts, prompt_name="query", batch_size=len(texts))
        np.testing.assert_allclose(by_name, expected["query"], atol=1e-5)
    np.savez_compressed(
        folder / "expected.npz",
        texts=np.array(texts),
        prompt=np.array(prompt),
        **expected,
    )


def make_folder(
    name: str, config: dict, shard: str, seed: int, **tokenizer_options: Any
) -> Path:
    """Tokenizer, configuration and weights; shard is the most that one file holds."""
    import tiny
    from transformers import AutoConfig, AutoModel

    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = tiny.write_qwen_tokenizer(
        folder, max_length=MAX_LENGTH, **tokenizer_options
    )
    config = config | {"eos_token_id": tokenizer.eos_token_id}
    config |= {"bos_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    tiny.write_json(folder / "config.json", config)
    opened = AutoConfig.from_pretrained(folder)
    assert opened.rope_parameters["rope_theta"] == 1_000_000
    model = tiny.randomise(AutoModel.from_config(opened), seed=seed, std=0.3)
    model.save_pretrained(folder, max_shard_size=shard)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    # Over the newer form, which save_pretrained wrote.
    tiny.write_json(folder / "config.json", config)
    return folder


def main() -> None:
    """Write both folders."""
    import tiny

    folder = make_folder(
        "qwen3", QWEN3, "30kB", 3, eos="<|im_end|>", append=True, padding_side="left"
    )
    assert len(list(folder.glob("model-*.safetensors"))) == 2
    prompts = {"query": f"Instruct: {tiny.TASK}\nQuery:", "document": ""}
    tiny.write_sentence_transformers(
        folder, pooling="lasttoken", width=WIDTH, max_length=None, prompts=prompts
    )
    expect(folder, tiny.TEXTS, prompts["query"], pooling="lasttoken")

    folder = make_folder(
        "qwen2",
        QWEN2,
        "1GB",
        4,
        eos="<|endoftext|>",
        append=False,
        padding_side="right",
    )
    tiny.write_sentence_transformers(
        folder, pooling="mean", width=WIDTH, max_length=MAX_LENGTH, prompts={}
    )
    texts = [text for text in tiny.TEXTS if text]
    prompt = f"Instruct: {tiny.TASK} \n Query: "
    expect(folder, texts, prompt, pooling="mean")


if __name__ == "__main__":
    main()
