"""MaxSim over candidates and over a corpus, against all pairs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.inference import token_vectors
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.scores import multivec
from m3jax.inference.token_vectors import TokenVectors


def rows(count: int, most: int, seed: int) -> MultivecRows:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, most + 1, count)
    vectors = rng.standard_normal((lengths.sum(), 6)).astype(np.float32)
    return MultivecRows(vectors, np.cumsum([0, *lengths]))


@pytest.mark.parametrize("storage", ["float32", "bfloat16", "int8"])
def test_candidates(storage: Any) -> None:
    query, passage = rows(6, 4, 1), rows(40, 9, 0)
    kept, at = TokenVectors.of(passage, storage), np.array([39, 0, 7, 7])
    expected = multivec(Encoded(multivec=query), Encoded(multivec=kept.rows()))
    for number, one in enumerate(query):
        np.testing.assert_allclose(kept.score(one, at), expected[number, at], atol=1e-5)
    assert kept.score(query[0], np.empty(0, int)).shape == (0,)


@pytest.mark.parametrize("tile", [1, 20, 10**6])
@pytest.mark.parametrize("k", [1, 7, 100])
def test_a_whole_corpus(monkeypatch: pytest.MonkeyPatch, tile: int, k: int) -> None:
    monkeypatch.setattr(token_vectors, "_TILE", tile)
    query, passage = rows(6, 4, 1), rows(40, 9, 0)
    best = TokenVectors.of(passage).search(query, k)
    scores = multivec(Encoded(multivec=query), Encoded(multivec=passage))
    at = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_allclose(
        best.scores, np.take_along_axis(scores, at, 1), atol=1e-5
    )
    np.testing.assert_array_equal(best.at, at)


def test_what_is_no_number_is_not_lost() -> None:
    passage = rows(40, 9, 0)
    passage.vectors[int(passage.offsets[20])] = np.nan
    with pytest.raises(InputError, match="expected scores that are numbers, found NaN"):
        TokenVectors.of(passage).search(rows(6, 4, 1), 3)


def test_written_and_opened(tmp_path: Path) -> None:
    kept = TokenVectors.of(rows(20, 5, 0), "int8")
    kept.write(tmp_path)
    opened = TokenVectors.open(tmp_path)
    assert opened is not None
    query = rows(1, 4, 1)[0]
    np.testing.assert_array_equal(
        opened.score(query, np.arange(20)), kept.score(query, np.arange(20))
    )
    np.save(tmp_path / "multivec.offsets.npy", np.array([0, 1]))
    with pytest.raises(InputError, match=r"offsets.npy: expected numbers from 0 to"):
        TokenVectors.open(tmp_path)
    (tmp_path / "multivec.offsets.npy").unlink()
    with pytest.raises(
        InputError, match="expected offsets of token vectors, found none"
    ):
        TokenVectors.open(tmp_path)


def test_what_is_refused() -> None:
    kept = TokenVectors.of(rows(5, 5, 0))
    with pytest.raises(
        InputError, match="queries of width 6, as the passages, found 2"
    ):
        kept.score(np.ones((1, 2), np.float32), np.array([0]))
    with pytest.raises(InputError, match="k: expected a positive number, found 0"):
        kept.search(rows(1, 2, 0), 0)
