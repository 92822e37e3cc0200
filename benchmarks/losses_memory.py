"""Temporary memory and time of losses in tiles, beside the same without tiles.

    python -m benchmarks.losses --only memory [--rounds 5]

InfoNCE of 16,384 queries and 16,384 passages with both gradients, on one device: the
forms compute in turn from the same numbers and are compared first. Times are medians, a
ratio is one of medians. The cross-entropy over a vocabulary is compiled and not run,
its plain form would need some ten GB. Memory is what XLA counts as temporary
(`memory_analysis`), without arguments and gradients. Needs 6 GB, and a minute a round.
"""

import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.losses_scores import compiled, same, timed
from benchmarks.table import Row
from m3jax import losses

TEXTS, WIDTH, TILE = 16_384, 1024, 512
ROWS, TOKENS, VOCABULARY = 16, 512, 250_002


def info_nce(rounds: int) -> list[Row]:
    """Value and gradients by query and passage, for a mean and for other weights."""
    rng = np.random.default_rng(0)
    query = rng.normal(size=(TEXTS, WIDTH))
    passage = query + 4 * rng.normal(size=query.shape)  # the positive is not obvious
    given = tuple(
        jnp.float32(x / np.linalg.norm(x, axis=1, keepdims=True))
        for x in (query, passage)
    )
    even = jnp.full(TEXTS, 1 / TEXTS, jnp.float32)
    mixed = jnp.float32(rng.random(TEXTS) / TEXTS)

    def gradient(**options: Any) -> Callable[..., Any]:
        def total(query: jax.Array, passage: jax.Array, weights: jax.Array) -> Any:
            loss = losses.info_nce(query, passage[:, None], temperature=0.02, **options)
            return (loss * weights).sum()

        return jax.value_and_grad(total, (0, 1))

    plain, memory = compiled(gradient(), *given, even)
    eager, eager_memory = compiled(gradient(tile=TILE, gradient="eager"), *given, even)
    late, late_memory = compiled(gradient(tile=TILE, gradient="late"), *given, even)
    forms = {
        "mean, eager": (eager, even, eager_memory, "<= 1.1"),
        "any weights, late": (late, mixed, late_memory, "<= 1.3"),
        "any weights, eager": (eager, mixed, eager_memory, ""),
    }
    for weights in (even, mixed):
        right = jax.tree.leaves(plain(*given, weights))
        for program, mine, *_ in forms.values():
            if mine is weights:
                same(jax.tree.leaves(program(*given, weights)), right)
    others, times = [], {name: [] for name in forms}
    for _ in range(rounds):
        others.append(timed(plain, *given, even))
        for name, (program, weights, *_) in forms.items():
            times[name].append(timed(program, *given, weights))
    other = statistics.median(others)
    found = []
    for name, (_, _, mine, target) in forms.items():
        ours = statistics.median(times[name])
        name = f"info_nce + gradient, 16,384 x 16,384 x 1,024, {name}"
        found += [
            Row(
                f"{name}, time",
                f"{ours:.2f} s",
                f"{other:.2f} s",
                f"{ours / other:.2f}",
                target,
            ),
            memory_row(name, mine, memory),
        ]
    return found


def with_where() -> list[Row]:
    """The same with a mask of passages; nothing is run."""
    shape = jax.ShapeDtypeStruct
    texts, mask = shape((TEXTS, WIDTH), jnp.float32), shape((TEXTS, 1), jnp.bool_)

    def gradient(**options: Any) -> Callable[..., Any]:
        def total(query: jax.Array, passage: jax.Array, where: jax.Array) -> Any:
            loss = losses.info_nce(
                query, passage[:, None], temperature=0.02, where=where, **options
            )
            return loss.sum() / where.sum()

        return jax.value_and_grad(total, (0, 1))

    given = texts, texts, mask
    plain = compiled(gradient(), *given)[1]
    return [
        memory_row(
            f"info_nce + gradient, 16,384 x 16,384 x 1,024, {name}, with where",
            compiled(gradient(tile=TILE, gradient=name), *given)[1],
            plain,
            target="",
        )
        for name in ("eager", "late")
    ]


def masked_lm() -> list[Row]:
    """Value and gradients by hidden states and table; nothing is run."""
    shape = jax.ShapeDtypeStruct

    def gradient(**options: Any) -> Callable[..., Any]:
        def mean(hidden: jax.Array, table: jax.Array, labels: jax.Array) -> jax.Array:
            loss = losses.masked_lm(hidden, table, labels, **options)
            return loss.sum() / (labels >= 0).sum()

        return jax.value_and_grad(mean, (0, 1))

    given = (
        shape((ROWS, TOKENS, WIDTH), jnp.float32),
        shape((VOCABULARY, WIDTH), jnp.float32),
        shape((ROWS, TOKENS), jnp.int32),
    )
    plain = compiled(gradient(tile=None), *given)[1]
    return [
        memory_row(
            f"masked_lm + gradient, 8,192 x 1,024 x 250,002, {name}",
            compiled(gradient(gradient=name), *given)[1],
            plain,
        )
        for name in ("eager", "late")
    ]


def memory_row(name: str, ours: float, plain: float, target: str = "<= 1/16") -> Row:
    """Two sizes in MiB."""
    return Row(
        f"{name}, memory",
        f"{ours:.1f} MiB",
        f"{plain:.0f} MiB",
        f"1/{plain / ours:.1f}",
        target,
    )


def rows(rounds: int) -> list[Row]:
    """The whole table; other is the plain form, without tiles."""
    return info_nce(rounds) + with_where() + masked_lm()
