"""Real questions, where M3JAX_DATA names a folder that has them."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from m3jax.data import batches, sources

MEDQUAD = Path(os.environ.get("M3JAX_DATA", "")) / "medquad"
needs_data = pytest.mark.skipif(
    "M3JAX_DATA" not in os.environ or not MEDQUAD.is_dir(),
    reason="M3JAX_DATA names no folder with medquad/",
)


@needs_data
def test_queries_that_come_twice_have_one_hash() -> None:
    """Without query ids, 1,964 rows would have another answer of theirs as negative."""
    rows = sources.read_pairs(MEDQUAD / "train.jsonl.gz")
    assert len(rows) == 14_271
    counts = Counter(row.query for row in rows)
    assert sum(n for n in counts.values() if n > 1) == 1_964
    words = batches.hashes([row.query for row in rows])
    assert len(np.unique(words, axis=0)) == len(counts)


@needs_data
def test_a_real_test_set_opens() -> None:
    data = sources.read_beir(MEDQUAD)
    assert (len(data.queries), len(data.corpus)) == (1_492, 1_600)
    assert max(len(judged) for judged in data.qrels.values()) > 1
