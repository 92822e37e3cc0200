import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.sharding import AbstractDevice, AbstractMesh, AxisType

from m3jax.core.errors import InputError
from m3jax.core.mesh import AXES, make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.ops import attention, attention_kernels
from m3jax.ops.attention import attend

QKV = tuple[jax.Array, jax.Array, jax.Array]
MASK = jnp.array([[True] * 5, [True, True, True, False, False]])
# A full row, right padding, left padding, holes.
PADDED = jnp.array(
    [[1] * 7, [1, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 0, 1]], bool
)
PACKED = jnp.array(
    [[3, 3, 3, 5, 5, 5, 5], [0, 0, 1, 1, 1, 2, 2], [0, 0, 0, 0, -1, -1, 7], [1] * 7]
)


def draw(
    rows: int, length: int, heads: int, groups: int, width: int, dtype: Any = "float32"
) -> QKV:
    random = np.random.default_rng(0)
    query, key, value = (
        jnp.asarray(random.standard_normal((rows, length, n, width)), dtype)
        for n in (heads, groups, groups)
    )
    return query, key, value


@pytest.fixture
def qkv() -> QKV:
    return draw(2, 5, 3, 3, 4)


def define(
    qkv: QKV, mask: jax.Array, causal: bool, segments: jax.Array | None
) -> np.ndarray:
    """The definition, one query at a time, in double precision; padding is 0."""
    query, key, value = (np.asarray(x, np.float64) for x in qkv)
    found = np.zeros_like(query)
    rows, length, heads, width = query.shape
    for b, i, h in np.ndindex(rows, length, heads):
        if not mask[b, i]:
            continue
        seen = np.asarray(mask[b]).copy()
        if causal:
            seen[i + 1 :] = False
        if segments is not None:
            seen &= np.asarray(segments[b] == segments[b, i])
        g = h // (heads // key.shape[2])
        scores = key[b, seen, g] @ query[b, i, h] / width**0.5
        weights = np.exp(scores - scores.max())
        found[b, i, h] = weights / weights.sum() @ value[b, seen, g]
    return found


def real(x: jax.Array, mask: jax.Array) -> np.ndarray:
    return np.asarray(jnp.where(mask[:, :, None, None], x, 0), np.float64)


def value_and_gradients(
    run: Callable[..., jax.Array], qkv: QKV, mask: jax.Array
) -> list[np.ndarray]:
    """What the real tokens get, and the gradients of a sum over only those."""
    weight = np.random.default_rng(9).standard_normal(qkv[0].shape, np.float32)

    def total(*qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = run(*qkv)
        kept = jnp.where(mask[:, :, None, None], found.astype(jnp.float32), 0)
        return (kept * weight).sum(), kept

    gradients, found = jax.jit(jax.grad(total, (0, 1, 2), has_aux=True))(*qkv)
    return [np.asarray(x, np.float64) for x in (found, *gradients)]


def assert_same(one: list[np.ndarray], two: list[np.ndarray], atol: float) -> None:
    for a, b in zip(one, two, strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("segments", [None, PACKED], ids=["one", "packed"])
@pytest.mark.parametrize("groups", [4, 2])
def test_is_the_definition(
    groups: int, segments: jax.Array | None, causal: bool
) -> None:
    qkv = draw(4, 7, 4, groups, 4)
    found = jax.jit(run_plain(PADDED, causal, segments))(*qkv)
    expected = define(qkv, PADDED, causal, segments)
    np.testing.assert_allclose(real(found, PADDED), expected, rtol=1e-5, atol=1e-6)


def test_masked_tokens_are_not_seen(qkv: QKV) -> None:
    """Zero is no mask: the scores of real tokens may all be below it."""
    query, key, value = qkv
    key = -10 * query[:, :1] * jnp.ones_like(key)  # real tokens score far below 0
    plain = attend(query, key, value, MASK)
    padding = ~MASK[:, :, None, None]
    changed = attend(
        query, jnp.where(padding, 0, key), jnp.where(padding, 1e6, value), MASK
    )
    np.testing.assert_allclose(plain, changed, rtol=1e-6)


def run_splash(
    mask: jax.Array, causal: bool = False, segments: jax.Array | None = None
) -> Callable[..., jax.Array]:
    return lambda q, k, v: attention_kernels.splash(
        q, k, v, mask, segments, causal, interpret=True
    )


def run_cudnn(mask: jax.Array, causal: bool = False) -> Callable[..., jax.Array]:
    return lambda q, k, v: attention_kernels.cudnn(
        q, k, v, mask, causal, implementation="xla"
    )


def run_plain(
    mask: jax.Array, causal: bool = False, segments: jax.Array | None = None
) -> Callable[..., jax.Array]:
    return lambda q, k, v: attend(
        q, k, v, mask, causal=causal, segments=segments, kernel="xla"
    )


@pytest.mark.parametrize("run", [run_plain, run_splash, run_cudnn])
def test_a_row_of_padding_is_finite(run: Callable[..., Any], qkv: QKV) -> None:
    none = jnp.zeros((2, 5), bool)

    def both(*qkv: jax.Array) -> Any:
        found, back = jax.vjp(run(none, True), *qkv)
        return found, *back(found)

    assert all(np.isfinite(x).all() for x in jax.jit(both)(*qkv))


def test_softmax_is_float32_for_bfloat16(qkv: QKV) -> None:
    query, key, value = (x.astype(jnp.bfloat16) for x in qkv)
    found = attend(query, key, value, MASK)
    assert found.dtype == jnp.bfloat16
    query, key, value = (x.astype(jnp.float32) for x in (query, key, value))
    exact = attend(query, key, value, MASK)
    np.testing.assert_allclose(found.astype(jnp.float32), exact, atol=2e-2)


# Blocks of queries


@pytest.mark.parametrize(
    "causal, segments", [(False, None), (True, PACKED)], ids=["full", "packed"]
)
def test_blocks_of_queries_give_the_same(
    causal: bool, segments: jax.Array | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    qkv = draw(4, 7, 4, 2, 4)
    run = run_plain(PADDED, causal, segments)
    whole = value_and_gradients(run, qkv, PADDED)
    # Two queries of four rows and heads at a time: seven tokens need a padded block.
    monkeypatch.setattr(attention, "SCORE_BUDGET", 4 * 4 * 4 * 7 * 2)
    jaxpr = jax.make_jaxpr(run)(*qkv)
    assert "scan" in str(jaxpr)
    assert_same(value_and_gradients(run, qkv, PADDED), whole, 1e-5)


def test_gradients_of_blocks_are_summed_in_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each query adds 1 / 600 to a value's gradient; bfloat16 would stop at 1/2."""
    length = 600
    query, key, value = (jnp.zeros((1, length, 1, 4), jnp.bfloat16) for _ in range(3))
    monkeypatch.setattr(attention, "SCORE_BUDGET", 4 * length)
    mask = jnp.ones((1, length), bool)
    gradient = jax.grad(
        lambda value: attend(query, key, value, mask).astype(jnp.float32).sum()
    )(value)
    np.testing.assert_allclose(gradient.astype(jnp.float32), 1, rtol=1e-2)


def test_long_rows_stay_within_the_budget_forward_and_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    x = jax.ShapeDtypeStruct((2, 8_192, 2, 64), jnp.bfloat16)
    mask = jax.ShapeDtypeStruct((2, 8_192), bool)

    def needed(budget: int) -> int:
        monkeypatch.setattr(attention, "SCORE_BUDGET", budget)

        def total(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array):
            found = attend(query, key, value, mask, causal=True)
            return found.astype(jnp.float32).sum()

        compiled = jax.jit(jax.grad(total, (0, 1, 2))).lower(x, x, x, mask).compile()
        memory = compiled.memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    scores = 2 * 2 * 8_192**2 * 4
    assert needed(scores) > 2 * scores
    # A block's scores, their exponentials and the gradients of both; and the rest.
    assert needed(scores // 32) < 6 * scores // 32


# Which kernel


def primitives(run: Callable[..., Any], *args: Any) -> str:
    # A new function each time: jax remembers what it has traced.
    return str(jax.make_jaxpr(lambda *args: run(*args))(*args))


def long(dtype: Any = "bfloat16") -> tuple[jax.ShapeDtypeStruct, ...]:
    x = jax.ShapeDtypeStruct((8, 512, 2, 64), dtype)
    return x, x, x, jax.ShapeDtypeStruct((8, 512), bool)


def ambient(platform: str) -> AbstractMesh:
    device = AbstractDevice(device_kind="any", num_cores=1, platform=platform)
    types = (AxisType.Auto,) * 3
    return AbstractMesh((2, 2, 2), AXES, types, abstract_device=device)


def test_the_kernel_follows_the_platform_of_the_mesh() -> None:
    assert "pallas_call" not in primitives(attend, *long())
    with jax.sharding.use_abstract_mesh(ambient("tpu")):
        # BGE-M3's bucket of 500 tokens fills a block as 512 do.
        for length, splash in ((512, True), (500, True), (384, False)):
            rows = (x.update(shape=(8, length, *x.shape[2:])) for x in long())
            assert ("pallas_call" in primitives(attend, *rows)) == splash
    with jax.sharding.use_abstract_mesh(ambient("cpu")):
        assert "pallas_call" not in primitives(attend, *long())


def test_the_kernel_follows_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert "pallas_call" in primitives(attend, *long())
    with jax.default_device("cpu"):
        assert "pallas_call" not in primitives(attend, *long())


def test_a_cpu_is_never_asked_about_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_kernels, "has_cudnn", lambda: pytest.fail("asked"))
    primitives(attend, *long())


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU, as far as tracing and lowering look for one."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(attention_kernels, "has_cudnn", lambda: True)
    module = fused_attention_stablehlo
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91_100)
    monkeypatch.setattr(module, "check_compute_capability", lambda _: True)


@pytest.mark.usefixtures("cuda")
def test_cuda_takes_cudnn_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    def picks_cudnn(run: Callable[..., Any] = attend, dtype: Any = "bfloat16") -> bool:
        return "dot_product_attention" in primitives(run, *long(dtype))

    assert picks_cudnn() and picks_cudnn(dtype="float16")
    assert not picks_cudnn(dtype="float32")
    packed = jnp.zeros((8, 512), int)
    assert not picks_cudnn(lambda *x: attend(*x, segments=packed))
    assert not picks_cudnn(
        lambda q, k, v, mask: attend(q[..., :12], k[..., :12], v[..., :12], mask)
    )
    monkeypatch.setattr(attention_kernels, "has_cudnn", lambda: False)
    assert not picks_cudnn()


def test_what_a_kernel_cannot_do_is_refused() -> None:
    mask = jnp.ones((1, 5), bool)
    with pytest.raises(InputError, match="2 for 3"):
        attend(*draw(1, 5, 3, 2, 8), mask)
    with pytest.raises(InputError, match=r"float16 or bfloat16.*float32"):
        attend(*draw(1, 5, 2, 2, 8), mask, kernel="cudnn")
    half = draw(1, 5, 2, 2, 12, "bfloat16")
    with pytest.raises(InputError, match=r"heads of 8.*12"):
        attend(*half, mask, kernel="cudnn")


# cuDNN


@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
def test_real_tokens_to_the_front_changes_nothing(causal: bool) -> None:
    qkv = draw(4, 7, 4, 2, 8)
    found = value_and_gradients(run_cudnn(PADDED, causal), qkv, PADDED)
    plain = value_and_gradients(run_plain(PADDED, causal), qkv, PADDED)
    assert_same(found, plain, 1e-5)


def test_what_cudnn_leaves_in_padding_does_not_spread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Beyond the lengths a kernel may return and give back anything, also NaN."""
    inner = jax.nn.dot_product_attention

    def careless(
        query: jax.Array, key: jax.Array, value: jax.Array, **options: Any
    ) -> jax.Array:
        lengths = options["query_seq_lengths"]

        def spoil(x: jax.Array) -> jax.Array:
            real = jnp.arange(x.shape[1])[None, :] < lengths[:, None]
            return jnp.where(real[:, :, None, None], x, jnp.nan)

        @jax.custom_vjp
        def run(*qkv: jax.Array) -> jax.Array:
            return spoil(inner(*qkv, **options))

        def forward(*qkv: jax.Array) -> Any:
            found, back = jax.vjp(lambda *qkv: inner(*qkv, **options), *qkv)
            return spoil(found), back

        run.defvjp(forward, lambda back, y: tuple(spoil(x) for x in back(y)))
        return run(query, key, value)

    qkv = draw(4, 7, 4, 2, 8)
    plain = value_and_gradients(run_plain(PADDED), qkv, PADDED)
    monkeypatch.setattr(jax.nn, "dot_product_attention", careless)
    found = value_and_gradients(run_cudnn(PADDED), qkv, PADDED)
    assert_same(found, plain, 1e-5)
    assert np.isfinite(run_cudnn(PADDED)(*qkv)).all()  # padding too


def test_cudnn_is_never_given_a_row_of_no_tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = []

    def record(query: jax.Array, key: jax.Array, value: jax.Array, **options: Any):
        lengths.extend(options["query_seq_lengths"].tolist())
        assert options["key_value_seq_lengths"] is options["query_seq_lengths"]
        return query

    monkeypatch.setattr(jax.nn, "dot_product_attention", record)
    run_cudnn(jnp.array([[False] * 7, [True] * 7]))(*draw(2, 7, 1, 1, 8))
    assert lengths == [1, 7]


@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("meshed", [False, True], ids=["alone", "mesh"])
def test_cuda_code_has_the_fused_kernel(meshed: bool) -> None:
    def total(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array):
        found = attend(query, key, value, mask, causal=True, kernel="cudnn")
        return found.astype(jnp.float32).sum()

    sizes = MeshConfig(tensor=2) if meshed else MeshConfig()
    mesh = make_mesh(sizes, jax.devices() if meshed else jax.devices()[:1])
    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*long())
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmhaSoftmax(" in text and "__cudnn$fmhaSoftmaxBackward(" in text
    local = "tensor<2x512x1x64xbf16>" if meshed else "tensor<8x512x2x64xbf16>"
    calls = [line for line in text.splitlines() if "__cudnn$fmhaSoftmax(" in line]
    assert all(local in line for line in calls)


# splash, its body run as plain jax


def padded(rows: int, length: int) -> jax.Array:
    """Right, left and no padding, in turn."""
    position, third = np.arange(length), length // 3
    kinds = position < length - third, position >= third, position >= 0
    return jnp.asarray(np.stack([kinds[i % 3] for i in range(rows)]))


@dataclasses.dataclass
class Case:
    length: int = 200
    heads: int = 2
    groups: int = 2
    width: int = 64
    causal: bool = False
    packed: bool = False
    dtype: str = "float32"

    def check(self, atol: float = 2e-5) -> None:
        qkv = draw(2, self.length, self.heads, self.groups, self.width, self.dtype)
        mask = padded(2, self.length)
        segments = None
        if self.packed:
            segments = jnp.asarray(np.tile(np.arange(self.length) // 77, (2, 1)))
        splash = run_splash(mask, self.causal, segments)
        plain = run_plain(mask, self.causal, segments)
        found = value_and_gradients(splash, qkv, mask)
        assert_same(found, value_and_gradients(plain, qkv, mask), atol)


def test_splash_is_the_plain_attention() -> None:
    Case().check()


def test_splash_takes_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_kernels, "BLOCK", 128)
    Case(length=300, heads=2, groups=1, causal=True, packed=True).check()


@pytest.mark.slow
@pytest.mark.parametrize("width", [32, 64, 128])
@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("causal", [False, True], ids=["full", "causal"])
@pytest.mark.parametrize("packed", [False, True], ids=["one", "packed"])
@pytest.mark.parametrize("length", [1, 513])
def test_splash_is_the_plain_attention_everywhere(
    width: int, groups: int, causal: bool, packed: bool, length: int
) -> None:
    Case(length, 4, groups, width, causal, packed).check()


@pytest.mark.slow
def test_splash_of_bfloat16_is_close() -> None:
    Case(length=300, dtype="bfloat16", causal=True).check(atol=6e-2)


@pytest.mark.parametrize(
    "run, heads, groups",
    [(run_splash, 4, 2), (run_cudnn, 3, 3)],
    ids=["key heads repeated", "heads not divided"],
)
def test_a_kernel_under_a_mesh_gives_the_same(
    run: Callable[..., Any], heads: int, groups: int
) -> None:
    """Three rows over two devices, heads over four."""
    qkv, mask = draw(3, 20, heads, groups, 32), padded(3, 20)
    plain = value_and_gradients(run_plain(mask, True), qkv, mask)
    with jax.set_mesh(make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))):
        assert_same(value_and_gradients(run(mask, True), qkv, mask), plain, 2e-5)


def test_tpu_code_has_the_mosaic_kernel() -> None:
    mesh = make_mesh(MeshConfig(tensor=2))

    def total(query: jax.Array, key: jax.Array, value: jax.Array, mask: jax.Array):
        found = attend(query, key, value, mask, causal=True, kernel="splash")
        return found.astype(jnp.float32).sum()

    with jax.set_mesh(mesh):
        traced = jax.jit(jax.grad(total, (0, 1, 2))).trace(*long())
        text = traced.lower(lowering_platforms=("tpu",)).as_text()
    assert text.count("@tpu_custom_call") == 3  # forward, queries, keys with values


@pytest.mark.slow
def test_a_pod_slice_compiles_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the TPU's own compiler: 8,192 tokens in less than their scores would take."""
    pytest.importorskip("libtpu")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    path = Path(__file__).parents[2] / "benchmarks" / "attention_tpu.py"
    program = runpy.run_path(str(path))
    mesh = program["topology_mesh"]("v5e:4x4", fsdp=2, tensor=4)
    for groups, causal in ((16, False), (2, True)):
        case = program["Case"](width=64, causal=causal, groups=groups)
        found = program["compile_for"](mesh, case)
        assert found.mosaic_calls == 3
        assert found.temp_bytes < 8_192**2 * 4
