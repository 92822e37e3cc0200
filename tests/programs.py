"""What tests read in a program before it is compiled."""

from collections.abc import Callable, Iterator
from typing import Any

import jax


def traced(function: Callable[..., Any], *arguments: Any) -> Any:
    """The program of a function, for arrays or their shapes."""
    return jax.make_jaxpr(function)(*arguments).jaxpr


def equations(program: Any) -> Iterator[Any]:
    """All of a program, also inside of loops, choices and rules."""
    for equation in program.eqns:
        yield equation
        for inner in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from equations(inner)


def shapes(program: Any) -> set[tuple[int, ...]]:
    """Shapes of all that it computes."""
    found = (var.aval for equation in equations(program) for var in equation.outvars)
    return {x.shape for x in found if hasattr(x, "shape")}
