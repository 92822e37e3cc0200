"""Data sets in files, opened as a run opens them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.tokenize import Tokenizer
from m3jax.data.training_sets import measure, open_data
from m3jax.testing import tiny_tokenizer, write_jsonl

Rows = Sequence[Mapping[str, Any]]


def write_sets(folder: Path, sets: Mapping[str, Rows], **options: Any) -> tuple:
    """Write each data set to a file; `options` holds fields of `Dataset` by name."""
    found = []
    for name, rows in sets.items():
        path = write_jsonl(folder / f"{name}.jsonl", rows)
        found.append(Dataset(str(path), name=name, **options.get(name, {})))
    return tuple(found)


def write_beir(folder: Path) -> Path:
    """A test set of two queries."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus", "queries"):
        rows = [{"_id": f"{i}", "title": "", "text": f"{name} {i}"} for i in range(2)]
        write_jsonl(folder / f"{name}.jsonl", rows)
    judged = "query-id\tcorpus-id\tscore\n0\t0\t1\n1\t1\t1\n"
    (folder / "qrels" / "test.tsv").write_text(judged)
    return folder


def build(
    folder: Path,
    sets: Mapping[str, Rows],
    *,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    seed: int = 0,
    steps: int = 0,
    tokenizer: Tokenizer | None = None,
    **fields: Any,
) -> Batcher:
    """What makes the batches of a config; nothing is held out."""
    given: dict[str, Any] = {
        "batch_size": 8,
        "query_length": 24,
        "passage_length": 32,
        "shapes": 3,
    }
    config = DataConfig(
        mixture=write_sets(folder, sets, **(options or {})),
        dev=str(write_beir(folder / "dev")),
        cache=str(folder / "cache"),
        **(given | fields),
    )
    tokenizer = tokenizer or tokenizer_of(sets)
    opened = measure(config, open_data(config), tokenizer)
    plan = make_plan(config, opened, seed=seed).lasting(steps)
    local = {size: np.arange(size) for size in plan.sizes}
    return Batcher(opened, plan, tokenizer, local)


def tokenizer_of(sets: Mapping[str, Rows]) -> Tokenizer:
    """A small tokenizer that knows all letters of some rows."""
    rows = [row for rows in sets.values() for row in rows]
    texts = [json.dumps(row, ensure_ascii=False) for row in rows]
    return tiny_tokenizer([*texts, "query: passage: ask: Instruct:\n"], vocab_size=120)


def plain(text: str) -> str:
    """A text without what a tokenizer does to its spaces."""
    return text.replace(" ", "").replace("\u2581", "")


def texts_of(batcher: Batcher, arrays: Mapping[str, np.ndarray]) -> list[list[str]]:
    """Query and passages of each row, as the model reads them, without spaces."""
    decode = batcher.tokenizer.backend.decode
    found = []
    for place in range(len(arrays["row"])):
        real = arrays["query.mask"][place]
        texts = [plain(decode(arrays["query.ids"][place][real].tolist()))]
        for g in np.flatnonzero(arrays["where"][place]):
            real = arrays["passage.mask"][place, g]
            ids = arrays["passage.ids"][place, g][real]
            texts.append(plain(decode(ids.tolist())))
        found.append(texts)
    return found
