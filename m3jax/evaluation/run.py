"""A model on many test sets: one after the other, each kept when it is there."""

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation import trec
from m3jax.evaluation.answers import answer_recall
from m3jax.evaluation.benchmarks.open import open_benchmark
from m3jax.evaluation.benchmarks.task import Task, without_identical
from m3jax.evaluation.outcome import EmbeddingMap, Evaluation, Outcome
from m3jax.evaluation.outcomes import across, labels, pairs, retrieval, translations
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.report import write_report
from m3jax.evaluation.results import NAME, read_results, write_results
from m3jax.evaluation.retrieval import Results
from m3jax.evaluation.test_sets import BENCHMARK, TestSet
from m3jax.inference.embedder import Embedder
from m3jax.inference.reranker import Reranker

RUNS = "runs"
DECIDES = ("fingerprint", "settings")  # of what is told about an evaluation
_UNSAFE = re.compile(r"[^\w.,+-]+")


@dataclass(frozen=True)
class Reranking:
    """A second stage.

    Attributes:
        model: the reranker.
        first: system whose best it orders; None = hybrid, or dense.
        candidates: passages of each query that it reads.
    """

    model: Reranker
    first: str | None = None
    candidates: int = 100


@dataclass(frozen=True)
class _Part:
    """What one part of a test set gave."""

    outcome: Outcome
    rankings: Mapping[str, Results] = field(default_factory=dict)
    map: EmbeddingMap | None = None
    data: Retrieval | None = None


def evaluate(
    embedder: Embedder,
    sets: Sequence[TestSet],
    folder: Path,
    evaluation: Evaluation,
    settings: Settings,
    *,
    reranking: Reranking | None = None,
    split: str = "test",
    cross_lingual: bool = False,
) -> Iterator[Outcome]:
    """Measure a model on test sets; each is kept when it is done.

    Args:
        embedder: the model.
        sets: what to measure on; those that the evaluation has are passed over.
        folder: gets results.json, report.html and runs/ after each set; must exist.
        evaluation: what was measured before, of this very question; see `begin`.
        settings: see `Settings`.
        reranking: orders the best of a first stage, in retrieval.
        split: which judgements and rows.
        cross_lingual: also search the queries of each language in every other.

    Yields:
        Each outcome, when it is there; first those that were there before.

    Raises:
        InputError: a file is damaged, or a setting does not fit.
        OSError: the folder cannot be written to.
    """
    yield from evaluation.outcomes
    for one in sets:
        if any(_is_of(one, outcome) for outcome in evaluation.outcomes):
            continue
        new: list[Outcome] = []
        maps: list[EmbeddingMap] = []
        for part in _measure(embedder, one, settings, split, cross_lingual):
            for each in (part, *_reranked(part, reranking, settings)):
                _write_runs(folder, each)
                new.append(each.outcome)
                maps += [] if each.map is None else [each.map]
                yield each.outcome
        evaluation = dataclasses.replace(
            evaluation,
            outcomes=(*evaluation.outcomes, *new),
            maps=(*evaluation.maps, *maps),
        )
        write_results(folder, evaluation)
        write_report(folder, evaluation)


def begin(
    folder: Path, model: str, about: Mapping[str, str], *, fresh: bool
) -> Evaluation:
    """What was measured before of this very question; nothing if there is none.

    Args:
        folder: of the results.
        model: its name.
        about: versions, and what the numbers depend on: fingerprint and settings.
        fresh: forget what was measured before.

    Returns:
        The evaluation to go on from.

    Raises:
        InputError: the results there are damaged, or answer another question.
    """
    if fresh or not (folder / NAME).exists():
        return Evaluation(model, about, ())
    before = read_results(folder)
    for key in DECIDES:
        if before.about.get(key) != about[key]:
            raise InputError(
                f"results of the {key} {about[key]}",
                f"those of {before.about.get(key)}",
                where=str(folder / NAME),
                do="Name another --output, or start anew (--fresh).",
            )
    return before


def _measure(
    embedder: Embedder,
    one: TestSet,
    settings: Settings,
    split: str,
    cross_lingual: bool,
) -> Iterator[_Part]:
    name, parts = one.name, one.parts
    if one.kind == BENCHMARK:
        for task in open_benchmark(name, say=settings.say):
            yield _benchmark(embedder, name, task, settings)
    elif one.kind == "sts":
        for made in pairs.outcomes(name, embedder, parts, settings, split=split):
            yield _Part(made)
    elif one.kind == "bitext":
        for made in translations.outcomes(name, embedder, parts, settings):
            yield _Part(made)
    elif one.kind == "labelled":
        for part, path in parts.items():
            language = part or None
            found = labels.outcomes(name, embedder, path, settings, language=language)
            for made, picture in found:
                yield _Part(made, map=picture)
    elif cross_lingual and len(parts) > 1:
        every = across.outcomes(name, embedder, parts, settings, split=split)
        for made, found, data in every:
            yield _Part(made, found, data=data)
    else:
        for part, path in parts.items():
            data, notes = retrieval.read(path, split)
            found = retrieval.search(embedder, data, settings)
            made = retrieval.outcome(
                name,
                found,
                data,
                settings.metrics,
                language=part or None,
                notes=notes,
            )
            # Of many languages a page of plots would be too long to read.
            if len(parts) == 1:
                made = retrieval.plotted(made, found, data)
            yield _Part(made, found, data=data)


def _benchmark(embedder: Embedder, name: str, task: Task, settings: Settings) -> _Part:
    """One test set of a benchmark, as its authors report it."""
    own = dataclasses.replace(
        settings,
        weights=task.weights["all"],
        rescored=task.rescored,
        max_length=settings.max_length or min(task.passage_length, embedder.max_length),
        k=settings.k + (task.identical == "left out"),
    )
    found = retrieval.search(embedder, task.data, own)
    if task.identical == "left out":
        found = {system: without_identical(one) for system, one in found.items()}
    language = task.language
    inside = task.name.removeprefix(name).strip("/")
    title = name if inside in ("", language) else f"{name}, {inside}"
    if task.answers is None:
        more = [one for one in settings.metrics if one not in task.metrics]
        metrics = (*task.metrics, *more)
        made = retrieval.outcome(title, found, task.data, metrics, language=language)
        return _Part(retrieval.plotted(made, found, task.data), found, data=task.data)
    values = {}
    for system, one in found.items():
        hits = answer_recall(one, task.data.corpus, task.answers, k=100)
        values[system] = {task.metrics[0]: hits}
    counts = {"queries": len(task.answers), "passages": len(task.data.corpus)}
    made = Outcome(
        title, "retrieval", task.metrics[0], values, counts=counts, language=language
    )
    return _Part(made, found)


def _reranked(
    part: _Part, reranking: Reranking | None, settings: Settings
) -> Iterator[_Part]:
    """The second stage of a part, where there is one."""
    if reranking is None or part.data is None or not part.data.qrels:
        return
    first = reranking.first or ("hybrid" if "hybrid" in part.rankings else "dense")
    if first not in part.rankings:
        expected = f"one of {', '.join(part.rankings)}"
        raise InputError(expected, repr(first), where="first stage")
    made, ordered = retrieval.rerank(
        part.outcome,
        reranking.model,
        part.rankings[first],
        part.data,
        settings,
        first=first,
        candidates=reranking.candidates,
    )
    yield _Part(made, {"reranked": ordered})


def _write_runs(folder: Path, part: _Part) -> None:
    """The rankings as files that trec_eval reads."""
    for system, found in part.rankings.items():
        name = _UNSAFE.sub("-", f"{part.outcome.label}.{system}")
        (folder / RUNS).mkdir(exist_ok=True)
        tag = _UNSAFE.sub("-", system)
        trec.write_run(folder / RUNS / f"{name}.trec", found, tag=tag)


def _is_of(one: TestSet, outcome: Outcome) -> bool:
    """Whether an outcome is of a set; its name may tell a part after the set's."""
    return outcome.name == one.name or outcome.name.startswith(f"{one.name}, ")
