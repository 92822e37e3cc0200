"""Whether models can be merged: their names and shapes."""

import re
from collections.abc import Mapping, Sequence

from m3jax.core.errors import InputError

Shapes = Mapping[str, tuple[int, ...]]
_TOLD = 3


def require_alike(shapes: Mapping[str, Shapes], *, keep: Sequence[str] = ()) -> None:
    """Refuse models that have other tensors than the first, or of other shapes.

    Args:
        shapes: what a model is called -> published name -> shape.
        keep: regexes of tensors that only the first has to have.

    Raises:
        InputError: names the first differences, and counts the rest.

    Example:
        >>> require_alike({"A": {"head": (2, 3)}, "B": {"head": (2, 4)}})
        Traceback (most recent call last):
        m3jax.core.errors.InputError: B: expected the tensors of A, found 1 \
difference: head is [2, 4] and not [2, 3]
    """
    (first, expected), *others = shapes.items()
    for label, found in others:
        differ = [
            name
            for name in dict.fromkeys([*expected, *found])
            if expected.get(name) != found.get(name) and not is_kept(name, keep)
        ]
        if differ:
            # Heads may be kept; an encoder that lacks some is another architecture.
            lacks = all(name in expected and name not in found for name in differ)
            heads = not any(name.startswith("encoder.") for name in differ)
            raise InputError(
                f"the tensors of {first}",
                tell([_told(x, expected.get(x), found.get(x)) for x in differ]),
                where=label,
                do=f"What only {first} has can be kept from it with keep."
                if lacks and heads
                else "",
            )


def is_kept(name: str, keep: Sequence[str]) -> bool:
    """Whether a tensor stays as it is in the first model.

    Example:
        >>> is_kept("sparse.kernel", ["^sparse", "^multivec"])
        True
    """
    return any(re.search(pattern, name) for pattern in keep)


def tell(differences: Sequence[str]) -> str:
    """The first differences, and how many there are.

    Example:
        >>> tell(["no bias", "no head", "no norm", "no scale"])
        '4 differences: no bias; no head; no norm; and 1 more'
    """
    count, more = len(differences), len(differences) - _TOLD
    told = "; ".join(differences[:_TOLD]) + (f"; and {more:,} more" if more > 0 else "")
    return f"{count:,} difference{'s' if count > 1 else ''}: {told}"


def _told(
    name: str, expected: tuple[int, ...] | None, found: tuple[int, ...] | None
) -> str:
    if found is None:
        return f"no {name}"
    if expected is None:
        return f"{name} as well"
    return f"{name} is {list(found)} and not {list(expected)}"
