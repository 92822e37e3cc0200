"""Small test sets of every kind, and a small model with three heads."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from m3jax.data.prompts import Prompts
from m3jax.inference.embedder import Embedder
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer, write_jsonl

WORDS = " ".join(TEXTS).replace(",", "").split()


def embedder(*, heads: bool = True) -> Embedder:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.vocab_size, layers=1)
    if heads:
        config = dataclasses.replace(
            config, sparse=True, multivec=8, special_ids=tokenizer.special_ids
        )
    module = EmbeddingModule(config)
    params = init(module, jax.random.key(0))
    return Embedder(module, params, tokenizer, Prompts("query: ", "passage: "), 32)


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(2, 7))) for _ in range(count)]


def write_beir(folder: Path, seed: int = 0, *, unanswered: bool = False) -> Path:
    (folder / "qrels").mkdir(parents=True)
    corpus, queries = sentences(30, seed), sentences(6, seed + 1)
    rows = [{"_id": f"p{i}", "text": text} for i, text in enumerate(corpus)]
    write_jsonl(folder / "corpus.jsonl", rows)
    rows = [{"_id": f"q{i}", "text": text} for i, text in enumerate(queries)]
    write_jsonl(folder / "queries.jsonl", rows)
    lines = ["query-id\tcorpus-id\tscore"]
    lines += [f"q{i}\tp{3 * i}\t{0 if unanswered and i == 0 else 1}" for i in range(6)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")
    return folder


def write_sts(path: Path, seed: int = 0) -> Path:
    pairs = zip(sentences(9, seed), sentences(9, seed + 1), strict=True)
    grades = [0, 1, 2, 3, 4, 5, 5, 4, 2]
    rows = [
        {"sentence1": a, "sentence2": b, "score": grade}
        for (a, b), grade in zip(pairs, grades, strict=True)
    ]
    return write_jsonl(path, rows)


def write_labelled(folder: Path) -> Path:
    folder.mkdir()
    for part, count in (("train", 24), ("test", 12)):
        texts = sentences(count, count)
        rows = [{"text": t, "label": f"of_{i % 3}"} for i, t in enumerate(texts)]
        write_jsonl(folder / f"{part}.jsonl", rows)
    return folder


def write_bitext(folder: Path) -> Path:
    folder.mkdir()
    for seed, language in enumerate(("deu", "fra")):
        pairs = zip(sentences(8, seed), sentences(8, seed + 5), strict=True)
        rows: list[dict[str, Any]] = [{"text": a, "english": b} for a, b in pairs]
        write_jsonl(folder / f"{language}.jsonl", rows)
    return folder


def read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
