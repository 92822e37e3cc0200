"""Bitext mining: each text finds its translation."""

from collections.abc import Container, Iterator, Mapping
from pathlib import Path

from m3jax.data.bitext import bitext_files, read_bitext
from m3jax.evaluation import bitext
from m3jax.evaluation.contents import label
from m3jax.evaluation.outcome import Outcome
from m3jax.evaluation.outcomes.settings import Settings, embed
from m3jax.inference.embedder import Embedder


def outcomes(
    name: str,
    embedder: Embedder,
    parts: Mapping[str, Path],
    settings: Settings,
    *,
    done: Container[str] = (),
) -> Iterator[Outcome]:
    """Measure each bitext of a folder, in both directions.

    Args:
        name: of the set.
        embedder: the model.
        parts: subset -> a file, or a folder with a file for each language.
        settings: see `Settings`; `say` is told of a bitext of a single pair, which
            is left out.
        done: labels of outcomes that are there; their files are passed over.

    Yields:
        The outcome of each language.

    Raises:
        InputError: a file is damaged.
    """
    for part, path in parts.items():
        for language, file in bitext_files(path).items():
            title = label(name, part, language)
            if title in done:
                continue
            (rows,) = read_bitext(file).values()
            if len(rows.first) < 2:
                settings.say(f"{title} is left out: it is one pair, and cannot err")
                continue
            first = embed(embedder, rows.first, settings)
            second = embed(embedder, rows.second, settings)
            values = bitext.measure(first, second)
            there = {key: values[key] for key in bitext.METRICS}
            back = {key: values[f"backward/{key}"] for key in bitext.METRICS}
            one, other = rows.columns
            yield Outcome(
                name=label(name, part),
                kind="bitext",
                main="f1",
                values={f"{one} to {other}": there, f"{other} to {one}": back},
                counts={"pairs": len(first)},
                language=language,
            )
