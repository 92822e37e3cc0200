"""Retrieval across languages: every text encoded once."""

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3jax.core.errors import InputError
from m3jax.core.mesh import local_mesh
from m3jax.data.records import Retrieval
from m3jax.evaluation.benchmarks.task import without_identical
from m3jax.evaluation.contents import label
from m3jax.evaluation.heads import named
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.outcomes import retrieval
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.evaluation.retrieval import Results
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.inference.ranking import Mixture, rank
from m3jax.inference.segment import Segment


@dataclass(frozen=True)
class Language:
    """One language of a set, encoded.

    Attributes:
        data: queries, corpus and judgements.
        query: the judged queries.
        corpus: the passages.
    """

    data: Retrieval
    query: Encoded
    corpus: Segment

    @property
    def queries(self) -> list[str]:
        """Ids of the judged queries."""
        return [name for name in self.data.queries if name in self.data.qrels]


def outcomes(
    name: str,
    embedder: Embedder,
    parts: Mapping[str, Path],
    settings: Settings,
    *,
    split: str = "test",
    done: Container[str] = (),
) -> Iterator[tuple[Outcome, dict[str, Results], Retrieval]]:
    """Search the queries of each language in the passages of every language.

    Args:
        name: of the set.
        embedder: the model.
        parts: language -> folder in BEIR's layout, with the same ids in all.
        settings: see `Settings`.
        split: of the judgements.
        done: labels of outcomes that are there; their pairs are passed over.

    Yields:
        The outcome of each pair of languages, the rankings and the texts.

    Raises:
        InputError: a folder is damaged, or judgements of two languages differ.
    """
    read = {one: retrieval.read(path, split) for one, path in parts.items()}
    _require_same(name, {one: data for one, (data, _) in read.items()})
    encoded = {
        one: _encode(embedder, data, settings) for one, (data, _) in read.items()
    }
    mesh = None if embedder.mesh is None else local_mesh(embedder.mesh)
    heads = settings.outputs or embedder.module.config.outputs
    for one, asked in encoded.items():
        # A query's translation is not asked for either.
        same = retrieval.themselves(asked.data)
        k = settings.k + bool(same)
        for other, searched in encoded.items():
            if label(name, f"{one} → {other}") in done:
                continue
            data = asked.data
            if other != one:
                data = Retrieval(data.queries, searched.data.corpus, data.qrels)
            best = rank(
                asked.query,
                [searched.corpus],
                heads,
                len(searched.corpus),
                k=k,
                rescored=settings.rescored,
                mixtures={"hybrid": Mixture(settings.weights)},
                options={"mesh": mesh},
            )
            found = {
                system: named(ranking, asked.queries, searched.corpus.ids)
                for system, ranking in best.items()
            }
            if one == other:
                found |= retrieval.baselines(embedder, data, k)
            found = {
                system: without_identical(each, settings.k, queries=same)
                for system, each in found.items()
            }
            made = retrieval.outcome(
                name,
                found,
                data,
                settings.metrics,
                language=one,
                passage_language=other,
                notes=read[one][1] if one == other else (),
            )
            yield made, found, data


def _encode(embedder: Embedder, data: Retrieval, settings: Settings) -> Language:
    queries = [text for name, text in data.queries.items() if name in data.qrels]
    options: dict[str, Any] = {
        "outputs": settings.outputs or embedder.module.config.outputs,
        "max_length": settings.max_length,
        "batch_tokens": settings.batch_tokens,
        "progress": settings.progress,
    }
    query = embedder.encode_query(queries, task=settings.task, **options)
    passages = embedder.encode_passage(list(data.corpus.values()), **options)
    return Language(data, query, Segment.of(list(data.corpus.items()), passages))


def _require_same(name: str, parts: Mapping[str, Retrieval]) -> None:
    """Refuse to search across languages whose ids mean different things."""
    first, *others = parts
    for other in others:
        if parts[other].qrels != parts[first].qrels:
            raise InputError(
                f"the judgements of {first} in every language",
                f"others in {other}",
                where=name,
                do="Without --cross-lingual each language is measured for itself.",
            )
