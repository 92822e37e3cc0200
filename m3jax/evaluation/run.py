"""A model on many test sets: one part after the other, each kept when it is there."""

import dataclasses
import os
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval
from m3jax.evaluation import trec
from m3jax.evaluation.contents import contents, label
from m3jax.evaluation.outcome import EmbeddingMap, Evaluation, Outcome
from m3jax.evaluation.outcomes import (
    across,
    benchmark,
    labels,
    pairs,
    retrieval,
    translations,
)
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.report import write_report
from m3jax.evaluation.results import NAME, read_results, write_results
from m3jax.evaluation.retrieval import Results, deepest
from m3jax.evaluation.test_sets import BENCHMARK, SPLIT, TestSet
from m3jax.inference.embedder import Embedder
from m3jax.inference.encode import collect_cuts
from m3jax.inference.reranker import Reranker

RUNS = "runs"
# Of what is told about an evaluation.
DECIDES = ("fingerprint", "settings", "reranker fingerprint")
_UNSAFE = re.compile(r"[^\w.,+-]")
_ANEW = "Name another --output, or start anew (--fresh)."


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
    """What one part of a test set gave.

    Attributes:
        label: of the part; see `contents`.
        outcomes: none if it is too small.
        rankings: system -> what it found.
        maps: of embeddings.
        data: texts and judgements, for a reranker.
    """

    label: str
    outcomes: tuple[Outcome, ...]
    rankings: Mapping[str, Results] = field(default_factory=dict)
    maps: tuple[EmbeddingMap, ...] = ()
    data: Retrieval | None = None


def evaluate(
    embedder: Embedder,
    sets: Sequence[TestSet],
    folder: Path,
    evaluation: Evaluation,
    settings: Settings,
    *,
    reranking: Reranking | None = None,
    split: str | None = None,
    cross_lingual: bool = False,
) -> Iterator[Outcome]:
    """Measure a model on test sets; each part of a set is kept when it is done.

    Args:
        embedder: the model.
        sets: what to measure on; parts that the evaluation has are passed over.
        folder: gets runs/ and results.json after each part, and report.html after each
            set; must exist.
        evaluation: what was measured before, of this very question; see `begin`.
        settings: see `Settings`; k is at least `depth`.
        reranking: orders the best of a first stage, in retrieval.
        split: which judgements and rows; None = test, and of a benchmark the split
            that is reported.
        cross_lingual: also search the queries of each language in every other.

    Yields:
        Each outcome, when it is there; first those that were there before.

    Raises:
        InputError: a file is damaged, or is another one than that which was measured
            before; or a setting does not fit.
        OSError: the folder cannot be written to.
    """
    parts_of = {
        one.name: contents(one, split, cross_lingual=cross_lingual) for one in sets
    }
    for name, parts in parts_of.items():
        for part, digest in evaluation.data.get(name, {}).items():
            now = parts.get(_key(parts, name, part), digest)
            if now != digest:
                where = f"{folder / NAME}: {part}"
                expected, found = f"results of the data {now}", f"those of {digest}"
                raise InputError(expected, found, where=where, do=_ANEW)
    settings = dataclasses.replace(settings, k=depth(settings, reranking))
    yield from evaluation.outcomes
    started = evaluation
    for one in sets:
        kept, parts = evaluation, parts_of[one.name]
        done = evaluation.data.get(one.name, {})
        measured = _measure(embedder, one, settings, split, cross_lingual, done)
        try:
            for part in _noting_cuts(measured, reranking, settings):
                _write_runs(folder, part)
                if part.outcomes:
                    digest = parts[_key(parts, one.name, part.label)]
                    done = {**done, part.label: digest}
                    evaluation = dataclasses.replace(
                        evaluation,
                        outcomes=(*evaluation.outcomes, *part.outcomes),
                        maps=(*evaluation.maps, *part.maps),
                        data={**evaluation.data, one.name: done},
                    )
                    write_results(folder, evaluation)
                yield from part.outcomes
        finally:  # also where a later part is damaged
            if evaluation is not kept:
                write_report(folder, evaluation)
    if evaluation is started and evaluation.outcomes:
        write_report(folder, evaluation)  # killed before it was there


def _noting_cuts(
    parts: Iterator[_Part], reranking: Reranking | None, settings: Settings
) -> Iterator[_Part]:
    """The parts, reranked; each says how many of its texts were cut."""
    while True:
        with collect_cuts() as cuts:
            part = next(parts, None)
            if part is None:
                return
            part = _reranked(part, reranking, settings)
        if cuts:
            note = f"{sum(cuts):,} texts were cut to the tokens that are kept of each."
            noted = [
                dataclasses.replace(one, notes=(*one.notes, note))
                for one in part.outcomes
            ]
            part = dataclasses.replace(part, outcomes=tuple(noted))
        yield part


def depth(settings: Settings, reranking: Reranking | None) -> int:
    """Say how many passages of a query are found, so that no number is cut short.

    Args:
        settings: with k and the metrics.
        reranking: reads its candidates.

    Returns:
        k, or as many as the deepest metric or the reranker looks at.
    """
    read = 0 if reranking is None else reranking.candidates
    return max(settings.k, deepest(settings.metrics), read)


def require_own(folder: Path) -> None:
    """Refuse a folder that holds something else than an evaluation.

    Args:
        folder: to write into; it need not be there.

    Raises:
        InputError: it is a file, or holds files but no results.

    Example:
        >>> require_own(Path("evaluations/of-a-new-model"))
    """
    if folder.exists() and not folder.is_dir():
        raise InputError("a folder", "a file", where=str(folder))
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    # An evaluation that was killed early left only its runs.
    other = {one for one in names if one != RUNS and not one.endswith(".tmp")}
    if other and NAME not in names:
        raise InputError(
            "a new folder, or one of an evaluation",
            f"{min(other)!r} in it",
            where=str(folder),
            do="Name another --output.",
        )


def begin(
    folder: Path, model: str, about: Mapping[str, str], *, fresh: bool
) -> Evaluation:
    """What was measured before of this very question; nothing if there is none.

    Args:
        folder: of the results.
        model: its name.
        about: versions, and what the numbers depend on: `DECIDES`.
        fresh: forget what was measured before, and remove its runs.

    Returns:
        The evaluation to go on from.

    Raises:
        InputError: the results there are damaged, or answer another question.
    """
    there = (folder / NAME).exists()
    if fresh and there:
        for run in (folder / RUNS).glob("*.trec"):
            run.unlink()
    if fresh or not there:
        return Evaluation(model, about, ())
    before = read_results(folder)
    for key in DECIDES:
        was, now = (of.get(key, "none") for of in (before.about, about))
        if was != now:
            if key == "fingerprint":  # hex digits alone tell nobody which model it was
                was, now = f"{was} ({before.model})", f"{now} ({model})"
            expected, found = f"results of the {key} {now}", f"those of {was}"
            where = str(folder / NAME)
            raise InputError(expected, found, where=where, do=_ANEW)
    return before


def _measure(
    embedder: Embedder,
    one: TestSet,
    settings: Settings,
    split: str | None,
    cross_lingual: bool,
    done: Container[str],
) -> Iterator[_Part]:
    """What of a set is not done, part by part."""
    if one.kind == BENCHMARK:
        every = benchmark.outcomes(one.name, embedder, settings, split=split, done=done)
        for made, found, data in every:
            yield _Part(made.label, (made,), found, data=data)
    elif one.kind == "bitext":
        for made in translations.outcomes(
            one.name, embedder, one.parts, settings, done=done
        ):
            yield _Part(made.label, (made,))
    elif one.kind == "sts":
        if one.name not in done:
            graded = pairs.outcomes(
                one.name, embedder, one.parts, settings, split=split or SPLIT
            )
            yield _Part(one.name, tuple(graded))
    elif one.kind == "retrieval" and cross_lingual and len(one.parts) > 1:
        yield from _crossed(embedder, one, settings, split or SPLIT, done)
    else:
        of_kind = _labelled if one.kind == "labelled" else _retrieval
        for part in one.parts:
            if label(one.name, part) not in done:
                yield of_kind(embedder, one, part, settings, split or SPLIT)


def _retrieval(
    embedder: Embedder, one: TestSet, part: str, settings: Settings, split: str
) -> _Part:
    data, notes = retrieval.read(one.parts[part], split)
    found = retrieval.search(embedder, data, settings)
    language = part or None
    made = retrieval.outcome(
        one.name, found, data, settings.metrics, language=language, notes=notes
    )
    # Of many languages a page of plots would be too long to read.
    if len(one.parts) == 1:
        made = retrieval.plotted(made, found, data)
    return _Part(made.label, (made,), found, data=data)


def _labelled(
    embedder: Embedder, one: TestSet, part: str, settings: Settings, split: str
) -> _Part:
    path, language = one.parts[part], part or None
    every = list(
        labels.outcomes(
            one.name, embedder, path, settings, split=split, language=language
        )
    )
    maps = tuple(picture for _, picture in every if picture is not None)
    made = tuple(outcome for outcome, _ in every)
    return _Part(label(one.name, part), made, maps=maps)


def _crossed(
    embedder: Embedder,
    one: TestSet,
    settings: Settings,
    split: str,
    done: Container[str],
) -> Iterator[_Part]:
    pairs_of = [label(one.name, f"{a} → {b}") for a in one.parts for b in one.parts]
    if all(pair in done for pair in pairs_of):
        return
    every = across.outcomes(
        one.name, embedder, one.parts, settings, split=split, done=done
    )
    for made, found, data in every:
        yield _Part(made.label, (made,), found, data=data)


def _reranked(part: _Part, reranking: Reranking | None, settings: Settings) -> _Part:
    """Add the second stage, where there is one."""
    if reranking is None or part.data is None or not part.data.qrels:
        return part
    first = reranking.first or ("hybrid" if "hybrid" in part.rankings else "dense")
    if first not in part.rankings:
        expected = f"one of {', '.join(part.rankings)}"
        raise InputError(expected, repr(first), where="first stage")
    made, ordered = retrieval.rerank(
        part.outcomes[0],
        reranking.model,
        part.rankings[first],
        part.data,
        settings,
        first=first,
        candidates=reranking.candidates,
    )
    return dataclasses.replace(
        part,
        outcomes=(*part.outcomes, made),
        rankings={**part.rankings, "reranked": ordered},
    )


def _write_runs(folder: Path, part: _Part) -> None:
    """The rankings as files that trec_eval reads."""
    for system, found in part.rankings.items():
        (folder / RUNS).mkdir(exist_ok=True)
        path = folder / RUNS / f"{_quoted(f'{part.label}.{system}')}.trec"
        trec.write_run(path, found, tag=_quoted(system))


def _quoted(name: str) -> str:
    """A name for a file; no two are the same."""
    return _UNSAFE.sub(lambda one: quote(os.fsencode(one[0]), safe=""), name)


def _key(parts: Mapping[str, str], name: str, part: str) -> str:
    """Where a part stands; the sets of a benchmark are all under its name."""
    return part if part in parts else name
