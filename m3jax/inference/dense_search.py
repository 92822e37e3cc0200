"""Exact search by dense embeddings: the k largest inner products of each query."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from m3jax.core.errors import InputError
from m3jax.inference.host_search import host_top_k
from m3jax.inference.vectors import Vectors
from m3jax.ops import scores as ops

_QUERIES = 256  # scored at once, at most
_NUMBERS = 2**26  # in a tile of passages, and in its scores: 256 MiB of float32
_GROUP = 32  # passages of which only the best is looked at first
_SAMPLE = 64  # queries that say how much an approximate search finds


def top_k(
    query: np.ndarray | jax.Array,
    passage: np.ndarray | jax.Array | Vectors,
    k: int,
    *,
    tile: int | None = None,
    mesh: Mesh | None = None,
    recall_target: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the k passages with the largest inner products, for each query; exact.

    Passages stream through the devices in tiles, of which each leaves its best k. A
    memory-mapped corpus is read once, a tile at a time, and no more than 256 x tile
    scores exist at once. Within a tile the scores stand in groups of 32, and only the
    k groups with the largest maxima are sorted: the k best passages are among them.
    Without a mesh, a CPU searches by `host_search.host_top_k`, in the same way.

    Args:
        query: float32 `[q e]`.
        passage: `[p e]`; int8 and bfloat16 ones are scored as the float32 numbers that
            they stand for.
        k: how many; at most p are returned.
        tile: passages scored at once, by all devices together; None takes what 256 MiB
            hold on each.
        mesh: devices that share each tile; None = one device.
        recall_target: above 0 and below 1 asks for `jax.lax.approx_max_k`, which is
            faster on TPU and may miss some; see `share_found`. None is exact.

    Returns:
        Scores float32 `[q k]`, the largest first, and passage numbers int64 `[q k]`;
        of equal scores the lower number comes first.

    Raises:
        InputError: k or tile is below 1, recall_target is no share, the widths
            differ, or a query, or a score, is not a finite number.

    Source: Chern et al. 2022 (arXiv:2206.14286) for the approximate form.

    Example:
        >>> found, at = top_k(np.eye(2, dtype=np.float32), np.ones((3, 2)), 2)
        >>> at.tolist()
        [[0, 1], [0, 1]]
    """
    for name, number in (("k", k), ("tile", tile)):
        if number is not None and number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    if recall_target is not None and not 0 < recall_target < 1:
        found = f"{recall_target}"
        raise InputError("a share above 0 and below 1", found, where="recall_target")
    # An array of a device stays there.
    passage = passage if isinstance(passage, Vectors) else Vectors(passage)  # type: ignore[arg-type]
    width = passage.values.shape[1]
    if query.shape[1] != width:
        raise InputError(
            f"passages of width {query.shape[1]}, as the queries",
            f"{width}",
            where="top_k",
        )
    if not np.isfinite(np.asarray(query)).all():
        raise InputError("queries that are finite numbers", "others", where="top_k")
    count, k = len(query), min(k, len(passage))
    scores, at = np.empty((count, k), np.float32), np.empty((count, k), np.int64)
    if not scores.size:
        return scores, at
    on_host = mesh is None and jax.default_backend() == "cpu"
    if on_host and recall_target is None:  # by BLAS, which is faster than XLA there
        passage = dataclasses.replace(passage, values=np.asarray(passage.values))
        return host_top_k(np.asarray(query, np.float32), passage, k, tile=tile)
    rows = _even(count, _QUERIES) if count > _QUERIES else _power(count)
    firsts = range(0, count, rows)
    parts = [_padded(query[first : first + rows], rows) for first in firsts]
    devices = 1 if mesh is None else mesh.size
    fitting = devices * _NUMBERS // max(width, rows)
    tile = _tile(len(passage), tile or fitting, devices)
    find = functools.partial(_find, k=k, recall_target=recall_target, mesh=mesh)
    none = np.full((rows, k), -np.inf, np.float32), np.zeros((rows, k), np.int32)
    best: list[Any] = [none] * len(parts)
    for start in range(0, len(passage), tile):
        # The last tile begins earlier, and what was scored before is passed over.
        first = max(0, min(start, len(passage) - tile))
        some = _placed(passage[first : first + tile], tile, mesh)
        edges = start - first, len(passage) - first
        for i, part in enumerate(parts):
            best[i] = _merge(best[i], find(part, *some, first, *edges))
    for i, first in enumerate(firsts):
        size = min(rows, count - first)
        scores[first : first + size] = np.asarray(best[i][0])[:size]
        at[first : first + size] = np.asarray(best[i][1])[:size]
    if not np.isfinite(scores).all():
        raise InputError("scores that are numbers", "NaN or infinity", where="top_k")
    return scores, at


def sample_rows(count: int) -> np.ndarray:
    """Numbers of at most 64 queries, evenly spread.

    Example:
        >>> sample_rows(3).tolist()
        [0, 1, 2]
    """
    return np.arange(0, count, max(1, -(-count // _SAMPLE)))


def share_found(exact: np.ndarray, found: np.ndarray) -> float:
    """The share of the exact best that an approximate search has, query by query.

    Args:
        exact: passage numbers `[q k]`; -1 where there are fewer.
        found: passage numbers `[q m]`.

    Returns:
        From 0 to 1; 1 where there was nothing to find.

    Example:
        >>> share_found(np.array([[4, 7]]), np.array([[7, 1]]))
        0.5
    """
    pairs = zip(exact, found, strict=True)
    shares = [np.isin(one[one >= 0], other).mean() for one, other in pairs if one.size]
    return float(np.mean(shares)) if shares else 1.0


@functools.partial(jax.jit, static_argnames=("k", "recall_target", "mesh"))
def _find(
    query: Float[Array, "q e"],
    values: Float[Array, "p e"],
    scales: Float[Array, " p"] | None,
    first: Int[Array, ""],
    skip: Int[Array, ""],
    end: Int[Array, ""],
    *,
    k: int,
    recall_target: float | None,
    mesh: Mesh | None,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """The best of one tile, of which the rows from `skip` up to `end` count."""
    if mesh is None:
        found = _of_device(query, values, scales, 0, skip, end, k, recall_target)
    else:
        axes = mesh.axis_names

        def local(query: Any, values: Any, scales: Any, skip: Any, end: Any) -> Any:
            here = jax.lax.axis_index(axes) * len(values)
            one = _of_device(query, values, scales, here, skip, end, k, recall_target)
            # Of equal scores the earlier device has the lower numbers.
            all_ = [jax.lax.all_gather(x, axes, axis=1, tiled=True) for x in one]
            return _sorted(all_[0], all_[1], k)

        rows, same = PartitionSpec(axes), PartitionSpec()
        found = jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(same, rows, rows, same, same),
            out_specs=same,
            check_vma=False,  # what was gathered is the same everywhere
        )(query, values, scales, skip, end)
    return found[0], found[1] + first


def _of_device(
    query: Array,
    values: Array,
    scales: Array | None,
    here: Any,
    skip: Array,
    end: Array,
    k: int,
    recall_target: float | None,
) -> tuple[Array, Array]:
    """The best of the rows that a device has, of which `here` is the first's place."""
    scores = ops.dense(query, values.astype(jnp.float32))
    if scales is not None:
        scores = scores * scales[None]
    count, k = len(values), min(k, len(values))
    every = jnp.arange(count)

    def told(scores: Array) -> Array:
        # Not every device's maximum keeps NaN, but infinity is first in all of them.
        return jnp.where(jnp.isfinite(scores), scores, jnp.inf)

    def counted(scores: Array, place: Array) -> Array:
        # The sort tells -0 from 0; and rows that only fill up the tile are no passages.
        scores = jnp.where(scores == 0, 0, told(scores))
        at = here + place
        return jnp.where((at >= skip) & (at < end), scores, -jnp.inf)

    def whole(scores: Array) -> tuple[Array, Array]:
        return _top_k(counted(scores, every), k)

    if recall_target is not None:
        best, place = jax.lax.approx_max_k(
            counted(scores, every), k, recall_target=recall_target
        )
        return best, place + here
    groups = count // _GROUP
    if count % _GROUP or groups <= k:
        best, place = whole(scores)
        return best, place + here

    def peaks(scores: Array) -> Array:
        return scores.reshape(len(query), _GROUP, groups).max(axis=1)

    # In most tiles all rows count: no second copy of the scores is made of these.
    peak, which = _top_k(
        jax.lax.cond(
            (here >= skip) & (here + count <= end),
            lambda scores: peaks(told(scores)),
            lambda scores: peaks(counted(scores, every)),
            scores,
        ),
        k + 1,
    )
    which = jnp.sort(which[:, :k], axis=1)  # so that places rise with the numbers
    place = jnp.arange(_GROUP)[None, :, None] * groups + which[:, None]
    place = place.reshape(len(query), _GROUP * k)
    take = functools.partial(jnp.take_along_axis, axis=1, mode="promise_in_bounds")
    best, at = _top_k(counted(take(scores, place), place), k)
    few = best, take(place, at)
    # A group that was left out has a passage as good as the last: which is the lower?
    tied = jnp.any(peak[:, k] >= best[:, -1])
    best, place = jax.lax.cond(tied, whole, lambda scores: few, scores)
    return best, place + here


def _top_k(scores: Array, k: int) -> tuple[Array, Array]:
    best, place = jax.lax.top_k(scores, k)  # of equal scores the first
    # Whoever cuts these results would else turn XLA's TopK on CPU into a whole sort;
    # one barrier for both would end XLA's compiler where a mesh is.
    barrier = jax.lax.optimization_barrier
    return barrier(best), barrier(place)


@jax.jit
def _merge(
    best: tuple[Float[Array, "q k"], Int[Array, "q k"]],
    more: tuple[Float[Array, "q m"], Int[Array, "q m"]],
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    """Keep the best of what was found before and of one more tile."""
    both = [jnp.concatenate(pair, axis=1) for pair in zip(best, more, strict=True)]
    return _sorted(both[0], both[1], best[0].shape[1])


def _sorted(scores: Array, at: Array, k: int) -> tuple[Array, Array]:
    scores, place = jax.lax.top_k(scores, min(k, scores.shape[1]))
    return scores, jnp.take_along_axis(at, place, axis=1)


def _placed(
    passage: Vectors, tile: int, mesh: Mesh | None
) -> tuple[Any, np.ndarray | jax.Array | None]:
    """Values and scales of a tile, where the devices of a mesh have them."""
    both = [
        part if part is None else _padded(part, tile)
        for part in (passage.values, passage.scales)
    ]
    if mesh is not None:
        rows = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
        both = [part if part is None else jax.device_put(part, rows) for part in both]
    return both[0], both[1]


def _tile(count: int, most: int, devices: int) -> int:
    """Passages in a tile: as even as they can be, whole groups for each device."""
    size = _even(count, most)
    unit = devices * (_GROUP if size >= devices * _GROUP else 1)
    return -(-size // unit) * unit


def _even(count: int, most: int) -> int:
    """How many go into each of the fewest parts of at most so many."""
    return -(-count // -(-count // max(most, 1)))


def _power(number: int) -> int:
    """The next power of two, so that few shapes are compiled."""
    return 1 << (number - 1).bit_length()


def _padded(rows: np.ndarray | jax.Array, size: int) -> np.ndarray | jax.Array:
    if len(rows) == size:
        return rows
    widths = ((0, size - len(rows)), *((0, 0),) * (rows.ndim - 1))
    return np.pad(np.asarray(rows), widths)
