"""FLOPs counted from shapes, beside XLA's own count where there is no loop."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from m3jax.core.types import Tokens
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init
from m3jax.nn.encoder import EncoderConfig
from m3jax.nn.qwen import QwenConfig
from m3jax.training import flops
from m3jax.training.flops import Texts
from m3jax.training.objectives import ContrastiveConfig, UnifiedConfig

BERT = BertConfig(99, 512, 1, 4, 2_048, 256, dropout=0.0, remat="none")
QWEN = QwenConfig(
    99, 512, 1, heads=4, kv_heads=2, head_dim=128, mlp=1_536, remat="none",
    attention="bidirectional",
)  # fmt: skip
TEXTS = Texts(4, 192)


def xla(config: EncoderConfig, *, backward: bool) -> float:
    """Of one layer, which XLA's count of a loop's body is right for."""
    module = EmbeddingModule(EmbeddingConfig(config))
    params = jax.eval_shape(lambda: init(module, jax.random.key(0)))
    shape = TEXTS.count, TEXTS.length
    tokens = Tokens(
        jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, jnp.bool_)
    )

    def run(params: dict, tokens: Tokens) -> jax.Array:
        return embed(module, params, tokens).dense.sum()

    function = jax.value_and_grad(run) if backward else run
    found = jax.jit(function).lower(params, tokens).cost_analysis()
    assert found is not None
    return found["flops"]


@pytest.mark.parametrize("config", [BERT, QWEN], ids=["bert", "qwen"])
@pytest.mark.parametrize("backward", [False, True])
def test_as_xla_counts(config: EncoderConfig, backward: bool) -> None:
    found = sum(flops.forward(config, TEXTS)) * (3 if backward else 1)
    assert found == pytest.approx(xla(config, backward=backward), rel=0.04)


def test_recomputation_as_xla_counts() -> None:
    """remat="full" is one forward pass more, sub-batches another one."""
    full = dataclasses.replace(BERT, remat="full")
    model, hardware = flops.encoding(full, TEXTS)
    assert hardware == pytest.approx(model * 4 / 3)
    assert hardware == pytest.approx(xla(full, backward=True), rel=0.04)
    parts = dataclasses.replace(TEXTS, parts=2)
    assert flops.encoding(full, parts) == pytest.approx((model, model * 5 / 3))


def test_what_does_not_learn_has_no_backward_pass() -> None:
    still = dataclasses.replace(TEXTS, learns=False, parts=4)
    forward = sum(flops.forward(BERT, TEXTS))
    assert flops.encoding(BERT, still) == (forward, forward)


def test_causal_attention_is_half() -> None:
    causal = dataclasses.replace(QWEN, attention="causal")
    one, two = flops.forward(causal, TEXTS), flops.forward(QWEN, TEXTS)
    assert one == (two[0], two[1] / 2)
    # XLA makes the other half too; splash leaves it out.
    model, hardware = flops.encoding(causal, TEXTS)
    assert hardware - model == pytest.approx(3 * one[1])


def test_blocks_of_the_loss() -> None:
    config, sizes = EmbeddingConfig(BERT), (64, 2, 8, 16)
    plain = flops.loss(ContrastiveConfig(), config, *sizes)
    assert plain == (3 * 2 * 64 * 128 * 512,) * 2
    more = ContrastiveConfig(negatives=("own", "passages", "queries"))
    assert flops.loss(more, config, *sizes)[0] == plain[0] * 1.5
    tiled = flops.loss(ContrastiveConfig(tile=8), config, *sizes)
    assert tiled[1] == plain[1] * 4 / 3


def test_maxsim_is_the_most_of_a_unified_loss() -> None:
    config = EmbeddingConfig(BERT, sparse=True, multivec=256)
    sizes = (64, 2, 8, 512)
    dense = UnifiedConfig(heads=("dense",))
    both = UnifiedConfig(heads=("dense", "multivec"))
    found = flops.loss(both, config, *sizes)[0] - flops.loss(dense, config, *sizes)[0]
    assert found == 2 * 256 * 64 * 8 * 128 * (512 + 2)
    given = {"rows": 64, "group": 2, "query_length": 8, "passage_length": 512}
    half = dataclasses.replace(both, multivec_dtype="bfloat16")
    full, less = (flops.step(one, config, (), **given) for one in (both, half))
    assert full.loss_half == 0 and less.loss_half == 2 * 256 * 64 * 8 * 128 * 512
    assert dataclasses.replace(less, loss_half=0.0) == full
    alone = dataclasses.replace(half, heads=("dense",))
    assert flops.step(alone, config, (), **given).loss_half == 0
