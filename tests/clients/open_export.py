"""Open exported folders with transformers, sentence-transformers and FlagEmbedding.

Run by the tests under an interpreter that has them, and torch:

    PEERS/bin/python tests/clients/open_export.py JOBS.json OUT

JOBS.json is a list of objects with `folder`, `texts`, `pairs` (for FlagEmbedding; null
leaves it out) and `pooling` (FlagEmbedding's name of it); OUT gets NUMBER.npz for each.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


def with_transformers(folder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Ids and hidden states, and the tensors that the file lacks or has too many of.

    Computed in float32, whatever the weights are.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
    dtype = str(model.dtype)
    with torch.no_grad():
        hidden = model.eval().float()(**inputs).last_hidden_state
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    return {
        "ids": inputs["input_ids"].numpy(),
        "mask": inputs["attention_mask"].numpy().astype(bool),
        "hidden": hidden.numpy(),
        "wrong": np.array(sorted(map(str, wrong)), dtype=str),
        "dtype": np.array(dtype),
    }


def with_sentence_transformers(folder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Embeddings of the texts by themselves, as queries and as passages."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu").float()
    return {
        "plain": model.encode(texts),
        "query": model.encode_query(texts),
        "passage": model.encode_document(texts),
        "max_length": np.array(model.max_seq_length),
        "similarity": np.array(model.similarity_fn_name),
        "modules": np.array([type(module).__name__ for module in model]),
    }


def with_flag_embedding(
    folder: str, texts: list[str], pairs: list[list[str]], pooling: str
) -> dict[str, np.ndarray]:
    """Dense, sparse and multi-vector embeddings, and the five scores of pairs."""
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(
        folder, pooling_method=pooling, use_fp16=False, devices="cpu"
    )
    length = model.tokenizer.model_max_length
    found = model.encode(
        texts,
        max_length=length,
        return_dense=True,
        return_sparse=True,
        return_colbert_vecs=True,
    )
    sparse = [
        {token: float(weight) for token, weight in row.items()}
        for row in found["lexical_weights"]
    ]
    vectors = found["colbert_vecs"]
    scores = {}
    for name, weights in (("equal", None), ("weighted", [0.4, 0.2, 0.4])):
        said = model.compute_score(
            [tuple(pair) for pair in pairs],
            batch_size=1,  # so without padding
            max_query_length=length,
            max_passage_length=length,
            weights_for_different_modes=weights,
        )
        scores |= {f"{name} {key}": np.array(said[key]) for key in said}
    return {
        "flag_dense": found["dense_vecs"],
        "flag_sparse": np.array(json.dumps(sparse)),
        "flag_vectors": np.concatenate(vectors),
        "flag_counts": np.array([len(rows) for rows in vectors]),
        **scores,
    }


def main() -> None:
    """Write what they say, one file a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    for number, job in enumerate(json.loads(args.jobs.read_text(encoding="utf-8"))):
        folder, texts = job["folder"], job["texts"]
        found: dict[str, Any] = {
            **with_transformers(folder, texts),
            **with_sentence_transformers(folder, texts),
        }
        if job["pairs"] is not None:
            found |= with_flag_embedding(folder, texts, job["pairs"], job["pooling"])
        np.savez(args.out / f"{number}.npz", **found)


if __name__ == "__main__":
    main()
