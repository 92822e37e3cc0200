"""Published benchmarks by name."""

import difflib
from collections.abc import Callable, Container, Iterator
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks import beir, miracl, mkqa, mldr
from m3jax.evaluation.benchmarks.published import HUB
from m3jax.evaluation.benchmarks.task import Task

_FAMILIES = {"beir": beir, "miracl": miracl, "mkqa": mkqa, "mldr": mldr}


def open_benchmark(
    name: str,
    *,
    split: str | None = None,
    without: Container[str] = (),
    root: str | Path = HUB,
    say: Callable[[str], None] = lambda message: None,
) -> Iterator[Task]:
    """Open the test sets of a benchmark, one after another.

    The files come from the Hugging Face hub, once; no script of a data set is run.
    Each set is read when it is asked for, and its corpus is in memory: 33 million
    passages of English MIRACL.

    Args:
        name: beir, miracl, mkqa or mldr for all their sets, or one of these, such as
            beir/scifact, beir/cqadupstack (its 12 forums), miracl/ar; see `names`.
        split: None = the one that is reported: test, and dev of MIRACL and MS MARCO.
        without: names of single sets that are passed over, unread.
        root: a folder that holds the data sets as the hub does, OWNER/NAME/..., in
            place of the hub.
        say: is told in a line of everything that is odd or left out.

    Returns:
        A task for each set, in turn.

    Raises:
        InputError: there is no such benchmark or split; or, when a set is asked for, it
            cannot be had or is damaged.

    Example:
        >>> open_benchmark("beir/skifact")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: benchmark: expected beir, miracl, mkqa or mldr, \
alone or with one of their sets, found 'beir/skifact'. Did you mean beir/scifact?
    """
    family, parts = _parts(name)
    module = _FAMILIES[family]
    if split is not None and split not in module.SPLITS:
        expected = " or ".join(module.SPLITS)
        raise InputError(expected, repr(split), where=f"split of {name}")
    parts = [part for part in parts if f"{family}/{part}" not in without]
    return module.tasks(parts, split=split, root=root, say=say)


def sets(name: str) -> tuple[str, ...]:
    """Names of the single sets that a name opens.

    Args:
        name: as `open_benchmark` takes it.

    Raises:
        InputError: there is no such benchmark.

    Example:
        >>> sets("beir/cqadupstack")[:2]
        ('beir/cqadupstack/android', 'beir/cqadupstack/english')
    """
    family, parts = _parts(name)
    return tuple(f"{family}/{part}" for part in parts)


def names() -> tuple[str, ...]:
    """Names that `open_benchmark` takes.

    Returns:
        The names, those that open several sets among them.

    Example:
        >>> [name for name in names() if name.startswith("mldr")][:3]
        ['mldr', 'mldr/ar', 'mldr/de']
    """
    return tuple(
        f"{family}/{part}" if part else family
        for family, module in _FAMILIES.items()
        for part in module.PARTS
    )


def language_of(one: str) -> str:
    """Language of the queries of a single set, as `Task` has it.

    Args:
        one: name of the set.

    Example:
        >>> language_of("miracl/ar"), language_of("beir/scifact")
        ('ar', 'en')
    """
    family, _, part = one.partition("/")
    return "en" if family == "beir" else part


def _parts(name: str) -> tuple[str, tuple[str, ...]]:
    """The family, and those of its sets that a name opens."""
    if name not in names():
        near = difflib.get_close_matches(name.lower(), names(), n=3, cutoff=0.8)
        raise InputError(
            "beir, miracl, mkqa or mldr, alone or with one of their sets",
            repr(name),
            where="benchmark",
            do=f"Did you mean {' or '.join(near)}?" if near else "",
        )
    family, _, part = name.partition("/")
    return family, _FAMILIES[family].PARTS[part]
