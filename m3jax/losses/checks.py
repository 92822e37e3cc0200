"""What the losses refuse, in one line each."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from m3jax.core.errors import InputError
from m3jax.ops.checks import array


def shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """Refuse an array of another shape.

    Raises:
        InputError: it has another one, or is no array.

    Example:
        >>> shape("where", jnp.ones(2), (3,))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: where: expected shape (3,), found (2,)
    """
    if not hasattr(array, "shape"):
        found = type(array).__name__
        raise InputError(f"an array of shape {expected}", found, where=name)
    if tuple(array.shape) != tuple(expected):
        raise InputError(f"shape {expected}", f"{tuple(array.shape)}", where=name)


def temperature(value: Any, name: str = "temperature") -> None:
    """Refuse a temperature that is no positive number; a traced one may be any.

    Raises:
        InputError: it is not positive, or an array of several.

    Example:
        >>> temperature(0.02)
    """
    if getattr(value, "shape", ()) != ():
        found = f"shape {tuple(value.shape)}"
        raise InputError("one temperature for all", found, where=name)
    if isinstance(value, Tracer):
        return
    known = isinstance(value, int | float) and not isinstance(value, bool)
    known |= jnp.issubdtype(getattr(value, "dtype", bool), jnp.number)
    if not known or not float(value) > 0:
        found = f"{value}" if known else repr(value)
        raise InputError("a temperature above 0", found, where=name)


def number(name: str, value: Any, *, least: float | int | None = None) -> None:
    """Refuse what is no plain number, of Python or numpy: programs depend on it.

    Raises:
        InputError: it is an array of jax, or NaN, or below what is allowed.

    Example:
        >>> number("hardness_weight", -1, least=0)
        Traceback (most recent call last):
        m3jax.core.errors.InputError: hardness_weight: expected a plain number, \
at least 0, found -1
    """
    plain = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not plain or value != value or (least is not None and value < least):
        limit = "" if least is None else f", at least {least:g}"
        raise InputError(f"a plain number{limit}", repr(value), where=name)


def flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False; a program depends on it.

    Raises:
        InputError: it is something else.

    Example:
        >>> flag("bidirectional", "no")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: bidirectional: expected True or False, found 'no'
    """
    if not isinstance(value, bool | np.bool):
        raise InputError("True or False", repr(value), where=name)


def mask(name: str, array: Any, expected: tuple[int, ...]) -> None:
    """Refuse a mask of another shape, or of something else than booleans.

    Raises:
        InputError: one of these.

    Example:
        >>> mask("where", jnp.ones(2, bool), (2,))
    """
    shape(name, array, expected)
    if array.dtype != bool:
        raise InputError("booleans", f"{array.dtype}", where=name)


def names(name: str, found: Sequence[str], known: Sequence[str]) -> None:
    """Refuse names that are not known, twice the same, and none at all.

    Raises:
        InputError: one of these.

    Example:
        >>> names("negatives", ["own"], ["own", "passages"])
    """
    if not isinstance(found, tuple | list):
        listed = ", ".join(known)
        raise InputError(f"a tuple of names among {listed}", repr(found), where=name)
    wrong = [x for x in found if x not in known]
    twice = [x for i, x in enumerate(found) if x in found[:i]]
    if wrong or twice or not found:
        said = ", ".join(map(str, wrong)) or ", ".join(f"{x} twice" for x in twice)
        raise InputError(
            f"one or more of {', '.join(known)}", said or "none", where=name
        )


def one(name: str, found: Any, known: Sequence[str | None]) -> None:
    """Refuse a name that is not known.

    Raises:
        InputError: it is not.

    Example:
        >>> one("transport", "ring", ("gather", "ring"))
    """
    if found not in known:
        raise InputError(" or ".join(map(repr, known)), repr(found), where=name)


def axis(name: str | tuple[str, ...] | None) -> None:
    """Refuse an axis that no enclosing function maps.

    Raises:
        InputError: there is none of this name.

    Example:
        >>> axis("data")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: axis_name: expected a mapped axis, as inside \
jax.shard_map or jax.pmap, found data outside of one
    """
    if name is None:
        return
    parts = name if isinstance(name, tuple) else (name,)
    if not parts or not all(isinstance(part, str) for part in parts):
        raise InputError("a name or a tuple of names", repr(name), where="axis_name")
    try:
        jax.lax.axis_index(name)
    except NameError:
        text = name if isinstance(name, str) else ", ".join(name)
        raise InputError(
            "a mapped axis, as inside jax.shard_map or jax.pmap",
            f"{text} outside of one",
            where="axis_name",
        ) from None


def groups(
    query: Any,
    passage: Any,
    where: Any = None,
    in_batch: Any = None,
    query_ids: Any = None,
    passage_ids: Any = None,
) -> None:
    """Refuse embeddings and facts of groups that do not fit each other.

    Raises:
        InputError: it names the argument.

    Example:
        >>> groups(jnp.ones((2, 4)), jnp.ones((2, 3, 5)))
        Traceback (most recent call last):
        m3jax.core.errors.InputError: passage: expected shape (2, 3, 4), found (2, 3, 5)
    """
    if query.ndim != 2 or not query.shape[1]:
        found = f"shape {tuple(query.shape)}"
        raise InputError("[b e], e at least 1", found, where="query")
    if passage.ndim != 3:
        found = f"shape {tuple(passage.shape)}"
        expected = "[b g e], the positive first (passage[:, None] for one each)"
        raise InputError(expected, found, where="passage")
    (b, e), g = query.shape, passage.shape[1]
    shape("passage", passage, (b, g, e))
    facts(b, g, where, in_batch, query_ids, passage_ids)


def facts(
    b: int, g: int, where: Any, in_batch: Any, query_ids: Any, passage_ids: Any
) -> None:
    """Refuse facts of `b` groups of `g` that have another shape.

    Raises:
        InputError: it names the argument.

    Example:
        >>> facts(2, 3, None, None, None, None)
    """
    if b < 1:
        raise InputError("at least one query", "none", where="query")
    if g < 1:
        raise InputError("at least the positive in a group", "none", where="passage")
    if where is not None:
        mask("where", where, (b, g))
    if in_batch is not None:
        mask("in_batch", in_batch, (b,))
    for name, ids, rows in (
        ("query_ids", query_ids, (b,)),
        ("passage_ids", passage_ids, (b, g)),
    ):
        if ids is not None:
            array(name, ids, "integers")
            if ids.ndim != len(rows) + 1 or not ids.shape[-1]:
                expected = f"shape {rows} and the words of an id"
                raise InputError(expected, f"{tuple(ids.shape)}", where=name)
            shape(name, ids, (*rows, ids.shape[-1]))
            if ids.dtype.itemsize > 4:
                expected = "words of 32 bits, as by hash.view(numpy.uint32)"
                raise InputError(expected, f"{ids.dtype}", where=name)
