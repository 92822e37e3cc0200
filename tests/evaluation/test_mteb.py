"""What needs no mteb of the models for it; tests/clients/test_mteb.py has the rest."""

import dataclasses
import sys
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation import given, heads
from m3jax.evaluation.mteb import CrossEncoder, Encoder, Searcher, load, searchers
from m3jax.evaluation.mteb.meta import own_revision
from m3jax.evaluation.mteb.rankings import Rankings, modes_of
from m3jax.evaluation.mteb.tasks import Wording, texts
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, init
from m3jax.nn.reranker import RerankerConfig, RerankerModule
from m3jax.testing import tiny_config, tiny_tokenizer

DATA = Retrieval({"q": "the sea"}, {"a": "a river", "b": "the tide"}, {"q": {}})
PROMPTS = Prompts("query: ")


def embedder(**heads: Any) -> Embedder:
    """A model whose parameters are not looked at."""
    tokenizer = tiny_tokenizer()
    config = dataclasses.replace(tiny_config(tokenizer.vocab_size), **heads)
    module = EmbeddingModule(config)
    params = jax.eval_shape(lambda: init(module, jax.random.key(0)))
    return Embedder(module, params, tokenizer, Prompts(), 16)


@pytest.fixture
def searched(monkeypatch) -> list[str]:
    """One entry a search, in place of searching."""
    found: list[str] = []

    def search(*args: Any, outputs: Any, **options: Any) -> dict[str, Any]:
        found.append("search " + " ".join(outputs))
        names = (*outputs, *(("hybrid",) if len(outputs) > 1 else ()))
        return {name: {name: {str(len(found)): 1.0}} for name in names}

    def rank(*args: Any, outputs: Any, **options: Any) -> dict[str, Any]:
        found.append("rank " + " ".join(outputs))
        return {name: {name: {str(len(found)): 1.0}} for name in (*outputs, "hybrid")}

    monkeypatch.setattr(heads, "search", search)
    monkeypatch.setattr(given, "rank", rank)
    return found


def take(rankings: Rankings, mode: Any, **changes: Any) -> str:
    """Which search a mode's ranking came from."""
    options: dict[str, Any] = {
        "task": "NFCorpus",
        "data": DATA,
        "prompts": PROMPTS,
        "k": 10,
        "candidates": None,
        "progress": False,
    }
    (row,) = rankings.take(mode, **(options | changes)).items()
    assert row[0] == mode
    return "".join(row[1])


def test_all_modes_come_from_one_search(searched) -> None:
    rankings = Rankings(
        embedder(sparse=True, multivec=8), ("dense", "sparse", "hybrid")
    )
    assert [take(rankings, mode) for mode in rankings.modes] == ["1", "1", "1"]
    assert rankings.waiting == {}  # all have theirs
    assert take(rankings, "dense") == "2"
    assert take(rankings, "dense") == "3"  # the same again: nothing is kept of it
    assert take(rankings, "sparse") == "3"
    assert searched == ["search dense sparse multivec"] * 3


def test_subsets_wait_beside_each_other(searched) -> None:
    rankings = Rankings(embedder(sparse=True), ("dense", "sparse"))
    other = dataclasses.replace(DATA, corpus={**DATA.corpus, "b": "a tide"})
    changes: list[dict[str, Any]] = [
        {},
        {"data": other},
        {"data": dataclasses.replace(DATA, queries={"q": "a sea"})},
        {"data": dataclasses.replace(DATA, corpus={**DATA.corpus, "c": ""})},
        {"prompts": Prompts("query: ", "passage: ")},
        {"k": 11},
        {"candidates": {"q": ["a"]}},
        {"candidates": {"q": ["b"]}},
    ]
    wanted = [str(i) for i in range(1, 1 + len(changes))]
    assert [take(rankings, "dense", **change) for change in changes] == wanted
    assert [take(rankings, "sparse", **change) for change in changes] == wanted
    assert rankings.waiting == {}
    assert searched == ["search dense sparse"] * 6 + ["rank dense sparse"] * 2


def test_another_task_lets_go_of_what_nobody_has_asked_for(searched) -> None:
    rankings = Rankings(embedder(sparse=True), ("dense", "sparse"))
    tasks = [
        {"task": name, "data": dataclasses.replace(DATA, queries={"q": name})}
        for name in ("NFCorpus", "SciFact", "FiQA2018")
    ]
    for task in tasks:
        take(rankings, "dense", **task)
        assert len(rankings.waiting) == 1
    assert take(rankings, "sparse", **tasks[-1]) == "3"  # the last one has it
    assert take(rankings, "sparse", **tasks[0]) == "4"  # the first one no longer


@pytest.mark.parametrize(
    ("modes", "outputs"),
    [
        (("dense",), "dense"),
        (("sparse",), "sparse"),
        (("multivec",), "dense multivec"),
        (("sparse", "multivec"), "dense sparse multivec"),
        (("hybrid",), "dense sparse multivec"),
    ],
)
def test_only_heads_that_are_needed(modes, outputs, searched) -> None:
    take(Rankings(embedder(sparse=True, multivec=8), modes), modes[0])
    assert searched == [f"search {outputs}"]


def test_a_mode_without_its_head() -> None:
    assert modes_of(EmbeddingConfig()) == ("dense",)
    with pytest.raises(InputError, match=r"one or more of dense, for this .* hybrid"):
        Rankings(embedder(), ("dense", "hybrid"))
    with pytest.raises(InputError, match="found none"):
        Rankings(embedder(), ())


def test_without_mteb_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    model = embedder()
    reads_pairs = RerankerModule(RerankerConfig(model.module.config.encoder))
    reranker = Reranker(reads_pairs, {}, model.tokenizer, 16)
    calls = [
        lambda: Encoder(model),
        lambda: Searcher(model, "dense"),
        lambda: searchers(model),
        lambda: CrossEncoder(reranker),
        lambda: load("nowhere"),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r'pip install "m3jax\[mteb\]"'):
            call()


def test_texts_of_a_task() -> None:
    with pytest.raises(InputError, match="task: expected texts, found image, id"):
        texts([{"image": [0], "id": [1]}], where="task")


def test_wording_of_a_model_without_instruction() -> None:
    with pytest.raises(InputError, match="takes no instruction"):
        Wording(PROMPTS, tasks={"STS": "Compare"})
    assert Wording(PROMPTS).used and not Wording(Prompts()).used
    assert Wording(Prompts(), prompts={"STS": "a"}).used
    own = Wording(PROMPTS).digest()
    some = Wording(PROMPTS, prompts={"STS": "a"}).digest()
    assert own is None and some != Wording(PROMPTS, prompts={"STS": "b"}).digest()


def test_a_revision_tells_models_apart() -> None:
    model = embedder()
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), model.params)
    model = dataclasses.replace(model, params=zeros)
    others = [
        dataclasses.replace(model, params=jax.tree.map(np.ones_like, zeros)),
        dataclasses.replace(model, prompts=PROMPTS),
        dataclasses.replace(model, prompts=Prompts(passage="query: ")),
        dataclasses.replace(model, prompts=Prompts(task="{task}: ")),
        dataclasses.replace(model, max_length=15),
    ]
    found = [own_revision(one) for one in (model, *others)]
    assert len(set(found)) == len(found)
    assert own_revision(dataclasses.replace(model)) == found[0]
