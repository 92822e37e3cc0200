"""What batches are padded to, how many rows they have, and whose turn it is."""

import dataclasses
from collections.abc import Sequence

from m3jax.core.errors import InputError
from m3jax.data import plan as plans
from m3jax.data import presets
from m3jax.data.config import DataConfig
from m3jax.data.examples import TrainingSet
from m3jax.data.shapes import Lengths, Shape, by_longest, find_shapes

_MOST_UNEQUAL = 1_000_000


def make_plan(
    config: DataConfig,
    sets: Sequence[TrainingSet],
    *,
    seed: int,
    multiple: int = 1,
    sizes: Sequence[int] | None = None,
) -> plans.Plan:
    """Choose shapes and sizes, and put the rows of all data sets in order.

    Args:
        config: shapes, sizes, weights.
        sets: the data sets, measured.
        seed: of every shuffle.
        multiple: what the mesh and the sub-batches ask for: sizes of a preset and of a
            token budget are made multiples of it.
        sizes: those of a preset or a token budget as an earlier start chose them, which
            hold where `multiple` divides them.

    Returns:
        The plan, equal on every host.

    Raises:
        InputError: sizes that the devices do not divide, weights for some data sets
            only, or fewer rows than one batch.
    """
    check_sizes(config, multiple)
    weights = _weights(config, sets)
    lengths = [Lengths(one.lengths, one.rows.lengths, group=one.group) for one in sets]
    kept = [
        one if rows.rows.kept is None else one.of(rows.rows.kept)
        for one, rows in zip(lengths, sets, strict=True)
    ]
    if weights:
        kept = [
            dataclasses.replace(one, share=weight / max(len(one.query), 1))
            for one, weight in zip(kept, weights, strict=True)
        ]
    if config.homogeneity < 1:  # every batch has room for what any row brings
        most = max(one.group for one in kept)
        kept = [dataclasses.replace(one, group=most) for one in kept]
    _check_rows(sets, kept)
    shapes, chosen = _shapes(config, kept, multiple)
    if sizes is not None and (config.preset or config.batch_tokens):
        fit = len(sizes) == len(shapes) and not any(x % multiple for x in sizes)
        chosen = tuple(sizes) if fit else chosen
    if config.preset:
        told = ", ".join(f"{size:,}" for size in chosen)
        print(f"{config.preset}, sizes in multiples of {multiple}: {told}")
    return plans.make_plan(
        lengths,
        shapes=shapes,
        sizes=chosen,
        seed=seed,
        weights=weights,
        homogeneity=config.homogeneity,
        names=[one.name for one in sets],
        keep=[one.rows.kept for one in sets],
    )


def check_sizes(config: DataConfig, multiple: int) -> None:
    """Refuse sizes that the devices or the sub-batches do not divide.

    Args:
        config: the sizes.
        multiple: shards (data x fsdp) times sub-batches.

    Raises:
        InputError: with the numbers, and what to change.
    """
    by_bucket = bool(config.bucket_sizes)
    where = "data.bucket_sizes" if by_bucket else "data.batch_size"
    sizes = config.bucket_sizes or (config.batch_size,)
    if (config.preset or config.batch_tokens) and not by_bucket:
        sizes = ()
    for size in sizes:
        if size < 1 or size % multiple:
            raise InputError(
                f"a batch that {multiple} shards (data x fsdp) x sub-batches divide",
                f"{size}",
                where=where,
                do=f"A multiple of {multiple} fits.",
            )
    if config.preset and (config.buckets or by_bucket):
        raise InputError("buckets or a preset", "both", where="data.preset")
    if by_bucket and len(config.bucket_sizes) != len(config.buckets):
        raise InputError(
            f"a size for each of {len(config.buckets)} buckets",
            f"{len(config.bucket_sizes)}",
            where=where,
        )
    if list(config.buckets) != sorted(set(config.buckets)):
        found = ", ".join(map(str, config.buckets))
        raise InputError("ascending lengths", found, where="data.buckets")


def _weights(
    config: DataConfig, sets: Sequence[TrainingSet]
) -> tuple[float, ...] | None:
    """Share of the steps of each data set; None = each row once an epoch."""
    given = [one.rows.config.weight for one in sets]
    if config.temperature is not None:
        if any(weight is not None for weight in given):
            raise InputError(
                "weights or a temperature", "both", where="data.temperature"
            )
        most = max(one.rows.count for one in sets)
        given = [(one.rows.count / most) ** (1 / config.temperature) for one in sets]
    elif all(weight is None for weight in given):
        return None
    for one, weight in zip(sets, given, strict=True):
        if weight is None or not 0 < weight < float("inf"):
            raise InputError(
                "a weight above 0 for every data set, or none for all",
                f"{weight}",
                where=f"{one.name}: weight",
            )
    found = tuple(float(weight) for weight in given if weight is not None)
    if min(found) * _MOST_UNEQUAL < max(found):
        raise InputError(
            f"shares of the steps that differ by at most {_MOST_UNEQUAL:,} times",
            f"{min(found):g} and {max(found):g}",
            where="data.temperature" if config.temperature else "weight",
        )
    return found


def _check_rows(sets: Sequence[TrainingSet], lengths: Sequence[Lengths]) -> None:
    for one, rows in zip(sets, lengths, strict=True):
        if not len(rows.query):
            raise InputError(
                "training rows",
                "none",
                where=one.name,
                do="All of them were left out or held out.",
            )


def check_longest(longest: int, edges: Sequence[int]) -> None:
    """Refuse texts that are longer than the last bucket whose size is given.

    Args:
        longest: tokens of the longest text.
        edges: lengths of the buckets, ascending.

    Raises:
        InputError: with both.
    """
    if longest > edges[-1]:
        raise InputError(
            f"a bucket with its size for texts of {longest} tokens",
            f"buckets up to {edges[-1]}",
            where="data.buckets",
            do="Lower data.query_length and data.passage_length.",
        )


def _shapes(
    config: DataConfig, lengths: Sequence[Lengths], multiple: int
) -> tuple[tuple[Shape, ...], tuple[int, ...]]:
    edges, given = config.buckets, config.bucket_sizes
    if config.preset:
        edges = presets.BGE_M3_LENGTHS
        given = presets.rounded_up(presets.SIZES[config.preset], multiple)
    if edges:
        shapes = by_longest(lengths, edges)
    else:
        shapes = find_shapes(lengths, config.shapes, multiple=config.length_multiple)
    if not given:
        return shapes, tuple(_size(config, lengths, one, multiple) for one in shapes)
    check_longest(shapes[-1].passage_length, edges)
    sizes = dict(zip(edges, given, strict=True))
    return shapes, tuple(sizes[shape.passage_length] for shape in shapes)


def _size(
    config: DataConfig, lengths: Sequence[Lengths], shape: Shape, multiple: int
) -> int:
    if not config.batch_tokens:
        return config.batch_size
    fit = config.batch_tokens / shape.tokens(max(one.group for one in lengths))
    return max(1, int(fit) // multiple) * multiple
