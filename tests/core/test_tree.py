import jax
import numpy as np
import pytest

from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import tiny_config


@pytest.fixture(scope="module")
def params() -> dict:
    params = init(EmbeddingModule(tiny_config()), jax.random.key(0))
    return jax.tree.map(np.asarray, params)


def test_stacked_layers_come_apart(params: dict) -> None:
    tensors = tree.named(params)
    kernel = params["encoder"]["layers"]["attention"]["query"]["kernel"]
    for layer in (0, 1):
        name = f"encoder.layers.{layer}.attention.query.kernel"
        np.testing.assert_array_equal(tensors[name], kernel[layer])
    assert "encoder.layers.attention.query.kernel" not in tensors
    assert sum(x.size for x in tensors.values()) == sum(
        x.size for x in jax.tree.leaves(params)
    )


def test_round_trip(params: dict) -> None:
    again = tree.from_named(tree.named(params), params)
    jax.tree.map(np.testing.assert_array_equal, again, params)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda t: t.pop("encoder.layers.1.mlp.up.bias"),
            "encoder.layers.1.mlp.up.bias",
        ),
        (lambda t: t.update(extra=np.zeros(1)), "none for extra"),
        (
            lambda t: t.update({"encoder.norm.bias": np.zeros(3)}),
            "encoder.norm.bias: expected shape (16,), found (3,)",
        ),
    ],
)
def test_what_does_not_fit_is_named(params: dict, change, said: str) -> None:
    tensors = tree.named(params)
    change(tensors)
    with pytest.raises(InputError) as error:
        tree.from_named(tensors, params)
    assert said in str(error.value)


def test_assign_takes_the_first_match_and_misses_none(params: dict) -> None:
    decay = tree.assign(params, {r"(^|\.)(bias|scale)$": False, "": True})
    flat = tree.paths(decay)
    assert not flat["encoder.layers.mlp.up.bias"] and not flat["encoder.norm.scale"]
    assert flat["encoder.layers.mlp.up.kernel"] and flat["encoder.word.embedding"]
    with pytest.raises(InputError, match=r"parameter encoder\."):
        tree.assign(params, {"bias": 1})
