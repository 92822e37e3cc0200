"""Reranked candidates against the reranker alone, and the measures by hand."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data.records import Retrieval
from m3jax.evaluation import bm25
from m3jax.evaluation.reranking import candidates, rerank, score
from m3jax.evaluation.retrieval import Results
from m3jax.inference.encode import collect_cuts

GOLDEN = Path(__file__).parent.parent / "golden"
WORDS = "the cell is the smallest unit of life and what of a zebra quiz".split()


@functools.cache
def model(name: str = "bert") -> tuple[Any, Any, Any]:
    one = m3jax.Reranker.load(GOLDEN / f"reranker_{name}")
    params = jax.tree.map(np.asarray, one.params)  # on the host, for any devices
    return one.module, params, one.tokenizer


@functools.cache
def task() -> Retrieval:
    rng = np.random.default_rng(0)
    texts = (" ".join(rng.choice(WORDS, rng.integers(1, 9))) for _ in range(40))
    corpus = {f"p{i}": f"{text} cell" for i, text in enumerate(texts)}
    queries = {
        "q1": "smallest cell",
        "unjudged": "a cell",
        "q2": "cell " * 60,
        "q3": "???",
    }
    grades = {f"p{i}": i % 3 for i in range(0, 40, 7)}
    return Retrieval(queries, corpus, {"q2": grades, "q1": grades, "q3": {"p1": 1}})


@pytest.mark.parametrize("on_mesh", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_every_candidate_gets_its_logit(on_mesh: bool) -> None:
    data, mesh = task(), make_mesh(MeshConfig()) if on_mesh else None
    found = candidates(data)
    assert found == bm25.search(data, 20)
    assert [len(row) for row in found.values()] == [20, 20, 0]
    # Some pairs are cut, and pytest would raise the warning.
    results = rerank(*model(), data, found, max_length=64, mesh=mesh)
    assert list(results) == ["q1", "q2", "q3"] and results["q3"] == {}
    one = m3jax.Reranker(*model(), max_length=64)
    for query in ("q1", "q2"):
        row = results[query]
        assert set(row) == set(found[query])
        assert list(row.values()) == sorted(row.values(), reverse=True)
        pairs = [(data.queries[query], data.corpus[name]) for name in row]
        with collect_cuts() as cuts:
            apart = one.logits(pairs[::-1], batch_tokens=64)[::-1]
        np.testing.assert_allclose(list(row.values()), apart, atol=1e-5)
        assert cuts == ([20] if query == "q2" else [])
    assert list(results["q1"]) != list(found["q1"])


def test_parameters_may_lie_on_the_mesh_and_the_task_is_told() -> None:
    module, params, tokenizer = model("qwen3")
    data, mesh = task(), make_mesh(MeshConfig())
    found = candidates(data, k=3)
    divided = jax.device_put(
        params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    )
    options: dict[str, Any] = {"max_length": 400, "task": "Find a cell"}
    expected = rerank(module, params, tokenizer, data, found, **options)
    results = rerank(module, divided, tokenizer, data, found, **options, mesh=mesh)
    for query, row in expected.items():
        assert results[query] == pytest.approx(row, abs=1e-5)
    other = rerank(module, params, tokenizer, data, found, max_length=400)
    assert other["q1"] != pytest.approx(expected["q1"], abs=1e-5)
    with pytest.raises(InputError, match="task: expected no task"):
        rerank(*model(), data, found, max_length=64, task="Find a cell")


def test_equal_logits_keep_the_order_of_the_candidates(monkeypatch) -> None:
    def logits(self, pairs, **options):
        return np.array([float("zebra" in passage) for _, passage in pairs], np.float32)

    monkeypatch.setattr(m3jax.Reranker, "logits", logits)
    found = candidates(task())
    results = rerank(*model(), task(), found, max_length=64)
    for query, row in results.items():
        zebras = ["zebra" in task().corpus[name] for name in found[query]]
        order = sorted(range(len(zebras)), key=lambda i: not zebras[i])
        assert list(row) == [list(found[query])[i] for i in order]


def by_hand(results: Results, qrels: dict[str, dict[str, int]]) -> dict[str, float]:
    ndcg = mrr = 0.0
    for query, grades in qrels.items():
        row = results.get(query, {})
        names = sorted(row, key=lambda name: (row[name], name), reverse=True)[:10]
        gains = [grades.get(name, 0) for name in names]
        best = sorted(grades.values(), reverse=True)[:10]
        weights = [1 / math.log2(rank + 2) for rank in range(10)]
        ideal = sum(g * w for g, w in zip(best, weights, strict=False))
        ndcg += sum(g * w for g, w in zip(gains, weights, strict=False)) / ideal
        mrr += next((1 / (i + 1) for i, gain in enumerate(gains) if gain > 0), 0)
    return {"ndcg@10": ndcg / len(qrels), "mrr@10": mrr / len(qrels)}


def test_measured_beside_bm25() -> None:
    data = task()
    found = candidates(data)
    results = rerank(*model(), data, found, max_length=64)
    own, reranked = score(found, data.qrels), score(results, data.qrels)
    assert own == pytest.approx(by_hand(found, data.qrels))
    assert reranked == pytest.approx(by_hand(results, data.qrels))
    assert list(own) == list(reranked) == ["ndcg@10", "mrr@10"]
    assert own != reranked and 0 < own["ndcg@10"] < 1
