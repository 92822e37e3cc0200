"""Open an exported folder with transformers and sentence-transformers.

Run by test_clients.py under an interpreter that has both, and torch:

    PEERS/bin/python tests/clients/open_export.py FOLDER TEXTS.json OUT.npz
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


def with_transformers(folder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Ids and hidden states, and the tensors that the file lacks or has too many of."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    inputs = AutoTokenizer.from_pretrained(folder)(
        texts, padding=True, truncation=True, return_tensors="pt"
    )
    model, told = AutoModel.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        hidden = model.eval()(**inputs).last_hidden_state
    wrong = [*told["missing_keys"], *told["unexpected_keys"], *told["mismatched_keys"]]
    return {
        "ids": inputs["input_ids"].numpy(),
        "mask": inputs["attention_mask"].numpy().astype(bool),
        "hidden": hidden.numpy(),
        "wrong": np.array(sorted(map(str, wrong)), dtype=str),
    }


def with_sentence_transformers(folder: str, texts: list[str]) -> dict[str, np.ndarray]:
    """Embeddings of the texts by themselves, as queries and as passages."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(folder, device="cpu")
    return {
        "plain": model.encode(texts),
        "query": model.encode_query(texts),
        "passage": model.encode_document(texts),
        "max_length": np.array(model.max_seq_length),
        "similarity": np.array(model.similarity_fn_name),
    }


def main() -> None:
    """Write what both say into one file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("texts", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    texts = json.loads(args.texts.read_text(encoding="utf-8"))
    found: dict[str, Any] = {
        **with_transformers(args.folder, texts),
        **with_sentence_transformers(args.folder, texts),
    }
    np.savez(args.out, **found)


if __name__ == "__main__":
    main()
