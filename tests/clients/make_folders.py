"""Tiny random models of every family as the clients themselves save them today.

Run by the tests under an interpreter that has them, and torch:

    PEERS/bin/python tests/clients/make_folders.py TEXTS.json PAIRS.json CHAT.json OUT

OUT gets, for each family, plain-NAME by transformers and st-NAME by
sentence-transformers, cross-NAME by CrossEncoder, causal-NAME by transformers, and
expected.npz with what the clients say about the texts and the pairs: "FOLDER", for st
"FOLDER query" as well. Tokenizers and sizes are those of the golden folders.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

GOLDEN = Path(__file__).parent.parent / "golden"
# Family -> pooling of sentence-transformers.
POOLING = {
    "bert": "mean",
    "roberta": "mean",
    "m3": "cls",
    "qwen2": "mean",
    "qwen3": "lasttoken",
}
PROMPTS = {"query": "find: ", "document": "text: "}


def made(kind: Any, name: str, seed: int, folder: Path, **changes: Any) -> Any:
    """A random model with the config of a golden folder, saved with its tokenizer."""
    import tiny
    from transformers import AutoConfig, AutoTokenizer

    config = AutoConfig.from_pretrained(GOLDEN / name, **changes)
    model = tiny.randomise(kind.from_config(config).float(), seed=seed)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(GOLDEN / name)
    tokenizer.save_pretrained(folder)
    return model, tokenizer


def plain(name: str, texts: list[str], out: Path) -> np.ndarray:
    """By transformers; a folder that says nothing of its pooling has mean."""
    import torch
    from transformers import AutoModel

    model, tokenizer = made(AutoModel, name, 11, out / f"plain-{name}")
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        states = model(**inputs).last_hidden_state
    mask = inputs["attention_mask"][..., None]
    vectors = (states * mask).sum(1) / mask.sum(1)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


def sentence(
    name: str, texts: list[str], out: Path, *, dense: bool
) -> dict[str, np.ndarray]:
    """By sentence-transformers, of the folder of `plain`."""
    import torch
    from sentence_transformers import SentenceTransformer, models

    encoder = models.Transformer(str(out / f"plain-{name}"))
    width = encoder.auto_model.config.hidden_size
    modules: list[Any] = [encoder, models.Pooling(width, pooling_mode=POOLING[name])]
    if dense:
        modules.append(models.Dense(width, width, activation_function=torch.nn.Tanh()))
    modules.append(models.Normalize())
    model = SentenceTransformer(modules=modules, prompts=PROMPTS, device="cpu")
    saved = f"st-{name}-dense" if dense else f"st-{name}"
    model.save_pretrained(str(out / saved))
    return {
        saved: model.encode_document(texts),
        f"{saved} query": model.encode_query(texts),
    }


def main() -> None:
    """Write all folders, and what the clients say."""
    sys.path.append(str(GOLDEN))
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("texts", "pairs", "chat", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    texts, pairs, chat = (
        json.loads(path.read_text(encoding="utf-8"))
        for path in (args.texts, args.pairs, args.chat)
    )
    from open_reranker import with_causal
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    expected: dict[str, Any] = {}
    for name in POOLING:
        expected[f"plain-{name}"] = plain(name, texts, args.out)
        expected |= sentence(name, texts, args.out, dense=False)
    expected |= sentence("bert", texts, args.out, dense=True)
    for seed, name in enumerate(("bert", "xlmr")):
        base, kind = args.out / f"base-{name}", AutoModelForSequenceClassification
        made(kind, f"reranker_{name}", 20 + seed, base, num_labels=1)
        client = CrossEncoder(str(base), device="cpu")
        client.save_pretrained(str(args.out / f"cross-{name}"))
        expected[f"cross-{name}"] = client.predict(pairs, activation_fn=sigmoid())
    for seed, name in enumerate(("qwen3", "qwen3_untied")):
        folder = args.out / f"causal-{name}"
        made(AutoModelForCausalLM, f"reranker_{name}", 30 + seed, folder)
        found = with_causal(str(folder), pairs, chat)
        expected[f"causal-{name}"] = found["probability"]
    np.savez(args.out / "expected.npz", **expected)


def sigmoid() -> Any:
    """The activation of a score between 0 and 1."""
    import torch

    return torch.nn.Sigmoid()


if __name__ == "__main__":
    main()
