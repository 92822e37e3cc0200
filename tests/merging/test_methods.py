"""Every method against an independent float64 numpy version, tensor by tensor."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax import merging
from tests.merging import reference

SHAPES = [(7,), (33, 17), (5, 6, 7), (1,), ()]


def random(seed: int, shape: tuple[int, ...], scale: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=shape) * scale
    return np.asarray(drawn, np.float32)


def close(found: Any, expected: np.ndarray) -> None:
    found, size = np.asarray(found, np.float64), np.abs(expected).max(initial=0)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * size + 1e-45)


def opposite(seed: int, cos: float, shape: tuple[int, ...] = (40, 25)) -> list[Any]:
    """Two tensors of different lengths whose cosine is about this."""
    a, other = random(seed, shape), random(seed + 1, shape)
    other = other - a * np.sum(a * other) / np.sum(a * a)
    other = other / np.linalg.norm(other) * np.linalg.norm(a)
    return [a, (2.5 * (cos * a + np.sqrt(1 - cos**2) * other)).astype(np.float32)]


PAIRS: dict[str, list[np.ndarray]] = {
    **{f"random {s}": [random(1, s), random(2, s, 3.0)] for s in SHAPES},
    "equal": [random(1, (33, 17))] * 2,
    "parallel": [random(1, (33, 17)), 3 * random(1, (33, 17))],
    "opposite": [random(1, (33, 17)), -random(1, (33, 17))],
    "a zero": [random(1, (33, 17)), np.zeros((33, 17), np.float32)],
    "zero and another": [np.zeros((33, 17), np.float32), random(1, (33, 17))],
    "zeros": [np.zeros((33, 17), np.float32)] * 2,
    "tiny": [random(1, (33, 17), 1e-30), random(2, (33, 17), 1e-30)],
    "tiny and equal": [random(1, (33, 17), 1e-30)] * 2,
    "tiny and large": [random(1, (33, 17), 1e-25), random(2, (33, 17), 1e3)],
    "large": [random(1, (33, 17), 1e25), random(2, (33, 17), 1e25)],
    "too large to add": [
        (np.cos(random(n, (33, 17), 0.3)) * 3.2e38).astype(np.float32) for n in (1, 2)
    ],
    **{f"cosine {c}": opposite(3, c) for c in (0.9994, 0.99, -0.9, -0.99, -0.9994)},
}
TS = (0.0, 0.1, 0.3, 0.5, 0.9, 1.0)


@pytest.mark.parametrize("name", PAIRS)
def test_slerp(name: str) -> None:
    a, b = PAIRS[name]
    for t in TS:
        found = merging.slerp({"x": a}, {"x": b}, t)["x"]
        close(found, reference.slerp([a, b], t))
        mirrored = merging.slerp({"x": b}, {"x": a}, 1 - t)["x"]
        close(found, np.asarray(mirrored, np.float64))


@pytest.mark.parametrize("dtype", [np.float32, jnp.bfloat16, np.float16])
@pytest.mark.parametrize("name", PAIRS)
def test_the_ends_of_slerp_are_the_parents_bit_for_bit(name: str, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        a, b = (np.asarray(x, dtype) for x in PAIRS[name])
    a.flat[0], b.flat[-1] = -0.0, -0.0
    for t, parent in ((0.0, a), (1.0, b)):
        found = np.asarray(merging.slerp({"x": a}, {"x": b}, t)["x"])
        assert found.dtype == parent.dtype
        assert found.tobytes() == parent.tobytes()


def test_slerp_of_equals_is_identity() -> None:
    for scale in (1.0, 1e-12, 1e-30):
        a = random(5, (20, 30), scale)
        np.testing.assert_allclose(
            np.asarray(merging.slerp({"x": a}, {"x": a}, 0.3)["x"]), a, rtol=2e-7
        )


def test_slerp_goes_on_beyond_the_parents_where_it_is_asked_to() -> None:
    a, b = PAIRS["random (33, 17)"]
    for t in (-0.2, 1.5):
        found = merging.slerp({"x": a}, {"x": b}, t, outside="allow")["x"]
        close(found, reference.slerp([a, b], t))


def some(count: int, shape: tuple[int, ...] = (33, 17)) -> list[np.ndarray]:
    common = random(99, shape)
    return [common + random(n, shape, 0.2 * (n + 1)) for n in range(count)]


def weights(count: int) -> list[float]:
    drawn = np.random.default_rng(count).uniform(0.1, 1, count)
    return (drawn / drawn.sum()).tolist()


FAMILIES: dict[str, list[Any]] = {
    **{f"{n} alike": some(n) for n in range(2, 6)},
    **{f"{n} random": [random(i, (33, 17)) for i in range(n)] for n in range(2, 6)},
    **{f"{n} equal": [random(1, (33, 17))] * n for n in range(2, 6)},
    "parallel": [random(1, (33, 17), 1.0) * n for n in (1, 2, 5)],
    "a zero among them": [*some(3), np.zeros((33, 17), np.float32)],
    "zeros": [np.zeros((33, 17), np.float32)] * 3,
    "tiny": [random(n, (33, 17), 1e-30) for n in range(4)],
    "scalars": [np.float32(x) for x in (1.0, 2.0, -0.5)],
    "opposite": [random(1, (33, 17)), -random(1, (33, 17))],
    **{f"cosine {c}": opposite(3, c) for c in (0.9994, -0.9, -0.99)},
}


def trees(family: list[np.ndarray]) -> list[Any]:
    return [{"x": x} for x in family]


@pytest.mark.parametrize("name", FAMILIES)
def test_linear(name: str) -> None:
    family = FAMILIES[name]
    w = weights(len(family))
    close(merging.linear(trees(family), w)["x"], reference.linear(family, w))


@pytest.mark.parametrize("compat", ["none", "mergekit"])
@pytest.mark.parametrize("name", FAMILIES)
def test_multi_slerp(name: str, compat: Any) -> None:
    family = FAMILIES[name]
    w = weights(len(family))
    found = merging.multi_slerp(trees(family), w, compat=compat)["x"]
    close(found, reference.multi_slerp(family, w, compat))


def test_multi_slerp_of_two_is_slerp() -> None:
    a, b = (random(n, (33, 17)) for n in (1, 2))
    b = (b * np.linalg.norm(a) / np.linalg.norm(b)).astype(np.float32)
    for t in (0.25, 0.5, 0.9):
        found = merging.multi_slerp(trees([a, b]), [1 - t, t])["x"]
        close(found, reference.slerp([a, b], t))


@pytest.mark.parametrize("compat", ["none", "mergekit"])
def test_multi_slerp_is_linear_where_directions_cancel(compat: Any) -> None:
    for cos in (-0.9996, -0.9994):  # with a mean shorter than 0.016, and longer
        family = opposite(3, cos)
        expected = reference.multi_slerp(family, [0.5, 0.5], compat)
        straight = np.allclose(expected, reference.linear(family, [0.5, 0.5]))
        assert straight == (cos < -0.9995)
        found = merging.multi_slerp(trees(family), [0.5, 0.5], compat=compat)["x"]
        close(found, expected)


def test_multi_slerp_does_not_look_at_models_without_weight() -> None:
    family = some(4)
    expected = reference.multi_slerp([family[1], family[3]], [0.3, 0.7])
    # Alone, this one points away from the mean, which would make the result linear.
    family[0] = np.asarray(-expected, np.float32)
    family[2] = np.full_like(family[2], np.inf)
    close(merging.multi_slerp(trees(family), [0, 0.3, 0, 0.7])["x"], expected)


def test_multi_slerp_ends_at_the_parents() -> None:
    family = some(3)
    for number, parent in enumerate(family):
        w = [float(n == number) for n in range(3)]
        found = merging.multi_slerp(trees(family), w)["x"]
        assert np.asarray(found).tobytes() == parent.tobytes()


@pytest.mark.parametrize("name", FAMILIES)
def test_task_arithmetic(name: str) -> None:
    family = FAMILIES[name]
    base = random(77, family[0].shape)
    w = [0.7, -0.4, 1.5, 0.1, 1.0][: len(family)]
    found = merging.task_arithmetic({"x": base}, trees(family), w)["x"]
    close(found, reference.task_arithmetic(base, family, w))


def test_an_infinity_without_weight_leaves_no_trace_in_a_sum() -> None:
    family = [*some(2), np.full((33, 17), np.inf, np.float32)]
    w, base = [0.3, 0.7, 0.0], {"x": random(77, (33, 17))}
    found = merging.linear(trees(family), w)["x"]
    close(found, reference.linear(family[:2], w[:2]))
    found = merging.task_arithmetic(base, trees(family), w)["x"]
    close(found, reference.task_arithmetic(base["x"], family[:2], w[:2]))


@pytest.mark.parametrize("density", [0.05, 0.2, 0.37, 0.7, 1.0])
@pytest.mark.parametrize("name", FAMILIES)
def test_ties(name: str, density: float) -> None:
    family = FAMILIES[name]
    base = random(77, family[0].shape)
    w = [1.0, 0.5, 2.0, 1.0, 3.0][: len(family)]
    found = merging.ties({"x": base}, trees(family), w, density=density, scale=0.8)["x"]
    close(found, reference.ties(base, family, w, density, 0.8))


def test_a_negative_weight_of_ties_takes_away() -> None:
    # 3 alone, since 1 is turned round; 3 and 1 as a mean; a mean below x_0.
    shape = (33, 17)
    zero, one, three = (np.full(shape, x, np.float32) for x in (0.0, 1.0, 3.0))
    for changes, w, expected in (
        ([three, one], [1.0, -0.9], 3.0),
        ([three, -one], [1.0, -0.9], 3.9 / 1.9),
        ([three, one], [-1.0, -1.0], -2.0),
    ):
        found = merging.ties({"x": zero}, trees(changes), w, density=1.0)["x"]
        close(found, np.full(shape, expected))
    family, base = some(5), random(77, shape)
    w = [1.0, -0.9, 0.5, -2.0, 0.0]
    found = merging.ties({"x": base}, trees(family), w, density=0.5)["x"]
    close(found, reference.ties(base, family, w, 0.5, 1.0))
    family[4] = np.full(shape, np.inf, np.float32)
    again = merging.ties({"x": base}, trees(family), w, density=0.5)["x"]
    np.testing.assert_array_equal(np.asarray(again), found)


def test_ties_leaves_the_base_where_nothing_is_added() -> None:
    base = random(77, (33, 17))
    base[:2] = [[-0.0], [1e-40]]
    other = base + 1
    found = merging.ties({"x": base}, trees([other, other]), [1, -1], density=1.0)["x"]
    assert np.asarray(found).tobytes() == base.tobytes()


def test_ties_keeps_exactly_the_largest() -> None:
    size = 10_007
    change = random(3, (size,))
    for density in (1e-5, 0.001, 0.1, 0.5, 0.9999):
        found = merging.ties(
            {"x": np.zeros(size, np.float32)}, [{"x": change}], density=density
        )["x"]
        kept = max(1, round(density * size))
        assert np.count_nonzero(found) == kept
        largest = np.sort(np.abs(change))[-kept:]
        np.testing.assert_array_equal(np.sort(np.abs(found))[-kept:], largest)


def test_ties_keeps_all_that_equal_the_threshold() -> None:
    change = np.array([1.0, -2, 2, 2, 0.5], np.float32)
    zero = np.zeros(5, np.float32)
    found = merging.ties({"x": zero}, [{"x": change}], density=0.2)["x"]
    np.testing.assert_array_equal(np.asarray(found), [0, -2, 2, 2, 0])


def test_ties_goes_by_the_whole_tree_where_it_is_asked_to() -> None:
    base = {"a": np.zeros((4, 5), np.float32), "b": np.zeros(7, np.float32)}
    models = [{"a": random(n, (4, 5)), "b": random(n + 9, (7,), 10)} for n in (1, 2)]
    found = merging.ties(base, models, density=0.3, per="tree")
    flat = [np.concatenate([m["a"].ravel(), m["b"]]) for m in models]
    zero = np.zeros(27, np.float32)
    expected = reference.ties(zero, flat, [1, 1], 0.3, 1.0)
    close(np.concatenate([np.ravel(found["a"]), found["b"]]), expected)


def test_cocktail_weights() -> None:
    losses = np.array([0.1, 2.0, 0.7])
    found = merging.cocktail_weights(losses)
    expected = np.exp(-losses / 5) / np.exp(-losses / 5).sum()
    close(found, expected)
    cold = merging.cocktail_weights(losses, temperature=0.01)
    close(cold, np.array([1.0, 0, 0]))


def test_products_and_their_sums_keep_their_digits() -> None:
    # Of nearly opposite tensors 3 of the angle's digits are lost: float32 has too few.
    a, b = opposite(3, -0.9994, (1 << 16,))
    close(merging.slerp({"x": a}, {"x": b}, 0.5)["x"], reference.slerp([a, b], 0.5))


def test_numpy_jax_and_jit_agree() -> None:
    a, b = PAIRS["random (33, 17)"]
    host = merging.slerp({"x": a}, {"x": b}, 0.3)["x"]
    device = merging.slerp({"x": jnp.asarray(a)}, {"x": jnp.asarray(b)}, 0.3)["x"]
    program = jax.jit(lambda a, b, t: merging.slerp({"x": a}, {"x": b}, t)["x"])
    for found in (device, program(a, b, 0.3), program(a, b, jnp.float32(0.3))):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, host, rtol=1e-6)
    np.testing.assert_array_equal(program(a, b, 1.0), b)
    with jax.enable_x64(True):
        close(merging.slerp({"x": a}, {"x": b}, 0.3)["x"], reference.slerp([a, b], 0.3))
