"""Rows through a model a part at a time."""

from collections.abc import Callable
from typing import Any

import einops
import jax

from m3jax.core.errors import InputError
from m3jax.core.types import Params


def in_parts(
    function: Callable[[Params, Any], Any], params: Params, rows: Any, count: int
) -> Any:
    """Apply a function to rows, one `count`-th of them at a time.

    Only results are kept; the backward pass computes each part again. This is GradCache
    in two words of JAX, `scan` and `checkpoint`: value and gradient are those of
    count = 1.

    Args:
        function: (params, rows) -> results with a row for each row.
        params: of the model.
        rows: arrays whose first dimension is the rows.
        count: parts; divides the rows, and the rows of a part are divided by the
            batch's shards.

    Returns:
        What the function gives for all rows.

    Raises:
        InputError: a count that does not divide the rows.

    Source: Gao et al. 2021 (arXiv:2101.06983).

    Example:
        >>> import jax.numpy as jnp
        >>> in_parts(lambda w, x: w * x, 2.0, jnp.arange(4.0), 2).tolist()
        [0.0, 2.0, 4.0, 6.0]
    """
    size = len(jax.tree.leaves(rows)[0])
    if count < 1 or size % count:
        raise InputError(
            f"a positive number that divides the {size} texts",
            f"{count}",
            where="sub_batches",
        )
    if count == 1:
        return function(params, rows)
    # (b n), not (n b): each shard then splits its own rows, and nothing is gathered.
    split = jax.tree.map(
        lambda x: einops.rearrange(x, "(b n) ... -> n b ...", n=count), rows
    )
    part = jax.checkpoint(function, prevent_cse=False)
    _, results = jax.lax.scan(lambda _, x: (None, part(params, x)), None, split)
    return jax.tree.map(lambda x: einops.rearrange(x, "n b ... -> (b n) ..."), results)
