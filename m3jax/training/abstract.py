"""A batch as shapes, to trace or compile a step without data."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from m3jax.core.mesh import batch_sharding
from m3jax.core.types import Batch, Reads, Tokens


def lengths_read(reads: Reads, query: int, passage: int) -> dict[str, Any]:
    """Lengths of what is read, as `abstract_batch` takes them.

    Example:
        >>> lengths_read("together", 8, 32)
        {'pair_length': 40}
    """
    if reads == "together":
        return {"pair_length": query + passage}
    if reads == "passages":
        return {"passage_length": passage}
    return {"query_length": query, "passage_length": passage}


def abstract_batch(
    mesh: Mesh,
    rows: int,
    group: int,
    *,
    query_length: int = 0,
    passage_length: int = 0,
    pair_length: int = 0,
    teacher_scores: bool = False,
    label: bool = False,
) -> Batch:
    """Shapes and shardings of a batch.

    Args:
        mesh: the devices.
        rows: queries.
        group: passages of each.
        query_length: tokens of a query; 0 = the batch has no queries alone.
        passage_length: tokens of a passage; likewise.
        pair_length: tokens of a query and a passage together; likewise.
        teacher_scores: whether there are some.
        label: whether pairs are graded.

    Returns:
        A batch of `jax.ShapeDtypeStruct`.

    Example:
        >>> from m3jax.core.mesh import MeshConfig, make_mesh
        >>> batch = abstract_batch(
        ...     make_mesh(MeshConfig()), 8, 2, query_length=4, passage_length=16
        ... )
        >>> batch.passage.ids.shape
        (8, 2, 16)
    """
    by_row = batch_sharding(mesh)

    def shape(dtype: type, *dims: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *dims), dtype, sharding=by_row)

    def tokens(*dims: int) -> Tokens | None:
        if not dims[-1]:
            return None
        return Tokens(shape(jnp.int32, *dims), shape(jnp.bool_, *dims))

    return Batch(
        query=tokens(query_length),
        passage=tokens(group, passage_length),
        where=shape(jnp.bool_, group),
        query_ids=shape(jnp.uint32, 2),
        passage_ids=shape(jnp.uint32, group, 2),
        in_batch=shape(jnp.bool_),
        row=shape(jnp.int32),
        dataset=shape(jnp.int32),
        teacher_scores=shape(jnp.float32, group) if teacher_scores else None,
        label=shape(jnp.float32) if label else None,
        pair=tokens(group, pair_length),
    )
