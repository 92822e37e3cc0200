"""Benchmarks by name, each test set as its authors report it."""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path

from m3jax.data.records import Retrieval
from m3jax.evaluation import trec
from m3jax.evaluation.answers import answer_recall
from m3jax.evaluation.benchmarks.open import language_of, open_benchmark, sets
from m3jax.evaluation.benchmarks.published import HUB
from m3jax.evaluation.benchmarks.task import Task, without_identical
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.outcomes import retrieval
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.retrieval import Results, deepest
from m3jax.inference.embedder import Embedder
from m3jax.inference.ranking import Fusion, Mixture

Found = tuple[Outcome, dict[str, Results], Retrieval | None]


def outcomes(
    name: str,
    embedder: Embedder,
    settings: Settings,
    *,
    split: str | None = None,
    done: Container[str] = (),
    root: str | Path = HUB,
) -> Iterator[Found]:
    """Measure a model on a benchmark, one test set after another.

    Of MKQA the queries of all languages are searched at once, so that its corpus is
    encoded once, and nothing is there before all is found.

    Args:
        name: as `open_benchmark` takes it.
        embedder: the model.
        settings: see `Settings`; weights, depths and lengths are the benchmark's, but
            for a max_length. Queries find as many passages as the metrics look at.
        split: which judgements; None = those that are reported.
        done: labels of outcomes that are there; their sets are passed over, unread.
        root: as in `open_benchmark`.

    Yields:
        The outcome of each test set, the rankings, and the texts where there are
        judgements of them.

    Raises:
        InputError: a set cannot be had, or a setting does not fit the model.
    """
    passed = [
        one for one in sets(name) if f"{_title(name, one)}, {language_of(one)}" in done
    ]
    tasks = open_benchmark(
        name, split=split, without=passed, root=root, say=settings.say
    )
    # All of MKQA search one corpus; of others only one corpus at a time is in memory.
    groups = [[*tasks]] if name.startswith("mkqa") else ([task] for task in tasks)
    for group in groups:
        for task in group:
            trec.check_ids(task.data)
        for task, found in zip(group, _search(embedder, group, settings), strict=True):
            yield _measured(name, task, found, settings)


def _search(
    embedder: Embedder, tasks: Sequence[Task], settings: Settings
) -> Iterator[dict[str, Results]]:
    """Rankings of each of some tasks with one corpus, which is encoded once."""
    if not tasks:
        return
    first = tasks[0]
    k = max(settings.k, *(deepest(_metrics(task, settings)) for task in tasks))
    out = first.identical == "left out"
    found = retrieval.rankings(
        embedder,
        _joined([task.data for task in tasks]),
        settings,
        mixtures=_mixtures(first, settings.outputs or embedder.module.config.outputs),
        query_length=_length(embedder, settings, first.query_length),
        passage_length=_length(embedder, settings, first.passage_length),
        k=k + out,
        rescored=first.rescored,
    )
    for number in range(len(tasks)):
        own = {system: _parted(one, number) for system, one in found.items()}
        if out:
            own = {name: without_identical(one, k) for name, one in own.items()}
        yield own


def _joined(data: Sequence[Retrieval]) -> Retrieval:
    """The judged queries of all, told apart by the number of their task."""
    queries = {
        f"{number} {name}": text
        for number, one in enumerate(data)
        for name, text in one.queries.items()
        if name in one.qrels
    }
    return Retrieval(queries, data[0].corpus, {name: {} for name in queries})


def _parted(found: Results, number: int) -> Results:
    """What the queries of one task have found."""
    start = f"{number} "
    return {
        name.removeprefix(start): row
        for name, row in found.items()
        if name.startswith(start)
    }


def _mixtures(task: Task, heads: Sequence[str]) -> Mapping[str, Mixture | Fusion]:
    """Those of a task; of two heads there is one, hybrid."""
    if len(heads) == 2:
        name = "hybrid" if "multivec" in heads else "dense+sparse"
        return {"hybrid": task.mixtures[name]}
    return task.mixtures


def _length(embedder: Embedder, settings: Settings, length: int) -> int:
    return settings.max_length or min(length, embedder.max_length)


def _metrics(task: Task, settings: Settings) -> tuple[str, ...]:
    """Those of the benchmark first; where answers decide, no others."""
    if task.answers is not None:
        return task.metrics
    return tuple(dict.fromkeys((*task.metrics, *settings.metrics)))


def _title(name: str, one: str) -> str:
    """What a single set of a benchmark is called, without its language."""
    inside = one.removeprefix(name).strip("/")
    return name if inside in ("", language_of(one)) else f"{name}, {inside}"


def _measured(
    name: str, task: Task, found: dict[str, Results], settings: Settings
) -> Found:
    title, data, metrics = _title(name, task.name), task.data, _metrics(task, settings)
    if task.answers is None:
        made = retrieval.outcome(title, found, data, metrics, language=task.language)
        return retrieval.plotted(made, found, data), found, data
    (metric,) = metrics
    values = {
        system: {
            metric: answer_recall(one, data.corpus, task.answers, k=deepest(metrics))
        }
        for system, one in found.items()
    }
    counts = {"queries": len(task.answers), "passages": len(data.corpus)}
    made = Outcome(
        title, "retrieval", metric, values, counts=counts, language=task.language
    )
    return made, found, None
