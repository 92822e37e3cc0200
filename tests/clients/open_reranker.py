"""Score pairs with exported rerankers in transformers and the other clients.

Run by the tests under an interpreter that has them, and torch:

    PEERS/bin/python tests/clients/open_reranker.py JOBS.json OUT

JOBS.json is a list of objects with `folder`, `pairs` and, for a causal language model,
`chat`, which is prefix, body and suffix, the body with {query} and {passage}; OUT gets
NUMBER.npz for each.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


def with_classifiers(folder: str, pairs: list[list[str]]) -> dict[str, np.ndarray]:
    """Logits by transformers and FlagEmbedding, and probabilities by CrossEncoder."""
    import torch
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    kind = AutoModelForSequenceClassification
    model, told = kind.from_pretrained(folder, output_loading_info=True)
    inputs = tokenizer(pairs, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**inputs).logits[:, 0]
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    flag = FlagReranker(
        folder,
        use_fp16=False,
        devices="cpu",
        max_length=tokenizer.model_max_length,
    )
    return {
        "wrong": np.array(sorted(map(str, wrong)), dtype=str),
        "logits": logits.numpy(),
        "probability": CrossEncoder(folder, device="cpu").predict(pairs),
        "flag_logits": np.array(flag.compute_score(pairs)),
        "flag_probability": np.array(flag.compute_score(pairs, normalize=True)),
    }


def with_causal(
    folder: str, pairs: list[list[str]], chat: list[str]
) -> dict[str, np.ndarray]:
    """Probability of yes after the chat, by the way of Qwen3-Reranker's model card."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="left")
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    prefix, body, suffix = chat

    def ids(text: str) -> list[int]:
        return tokenizer(text, add_special_tokens=False)["input_ids"]

    rows = [
        ids(prefix) + ids(body.format(query=query, passage=passage)) + ids(suffix)
        for query, passage in pairs
    ]
    batch = tokenizer.pad({"input_ids": rows}, padding=True, return_tensors="pt")
    with torch.no_grad():
        logits = model.eval()(**batch).logits[:, -1]
    both = logits[:, tokenizer.convert_tokens_to_ids(["no", "yes"])]
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    return {
        "wrong": np.array(sorted(map(str, wrong)), dtype=str),
        "logits": (both[:, 1] - both[:, 0]).numpy(),
        "probability": torch.log_softmax(both, dim=1)[:, 1].exp().numpy(),
    }


def main() -> None:
    """Write what they say, one file a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for number, job in enumerate(json.loads(args.jobs.read_text(encoding="utf-8"))):
        folder, pairs = job["folder"], job["pairs"]
        found: dict[str, Any] = (
            with_causal(folder, pairs, job["chat"])
            if job["chat"]
            else with_classifiers(folder, pairs)
        )
        np.savez(args.out / f"{number}.npz", **found)


if __name__ == "__main__":
    main()
