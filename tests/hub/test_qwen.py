"""A config.json of Qwen with values that would change the model, or be no numbers."""

import math
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.hub import bert, families, qwen
from m3jax.nn.bert import BertConfig
from m3jax.nn.qwen import QwenConfig

CODE = {"AutoModel": "modeling_own.OwnModel"}


def config(**values: Any) -> dict[str, Any]:
    return {**qwen.to_config(QwenConfig(), pad_id=0), **values}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("rope_scaling", "yarn", "an object, found 'yarn'"),
        ("rope_scaling", {"type": "yarn"}, "default, found 'yarn'"),
        ("rope_scaling", [1], r"an object, found \[1\]"),
        ("rope_parameters", [1], r"an object, found \[1\]"),
        ("rope_parameters", "default", "an object, found 'default'"),
        ("is_causal", "no", "true or false, found 'no'"),
        ("is_causal", None, "true or false, found None"),
        ("is_causal", 0, "true or false, found 0"),
    ],
)
def test_wrong_config(key: str, value: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"expected {message}") as error:
        qwen.from_config(config(**{key: value}), where="a/config.json")
    assert error.value.where == f"a/config.json: {key}"


HUGE = pytest.param(10**400, id="huge")


@pytest.mark.parametrize("theta", [math.nan, math.inf, 0, -1, "1", True, None, HUGE])
@pytest.mark.parametrize("newer", [False, True])
def test_wrong_rope_theta(theta: Any, newer: bool) -> None:
    rope = {"rope_parameters": {"rope_theta": theta} if newer else None}
    with pytest.raises(InputError, match="expected a positive number") as error:
        qwen.from_config(config(rope_theta=theta, **rope), where="a")
    assert error.value.where == "a: rope_theta"


def test_the_newer_key_of_rope_theta_comes_first() -> None:
    newer = config(rope_theta=3, rope_parameters={"rope_theta": 5}, rope_scaling={})
    assert qwen.from_config(newer).rope_theta == 5
    assert qwen.from_config(config(rope_theta=3, rope_parameters=None)).rope_theta == 3


@pytest.mark.parametrize("kind", qwen.TYPES)
def test_code_that_may_change_the_attention_is_refused(kind: str) -> None:
    given = config(model_type=kind, auto_map=CODE)
    families.check_code(given, where="c")  # is_causal says what the attention is
    del given["is_causal"]
    with pytest.raises(InputError) as error:
        families.check_code(given, where="c")
    assert str(error.value) == (
        "c: auto_map: expected a model without code of its own, which is never run "
        f"here, found {CODE}. Name with `like` the model of m3jax.nn.zoo that it is "
        'trained from, or write "is_causal": true or "is_causal": false into '
        "config.json."
    )
    for none in ({}, None):
        families.check_code({**given, "auto_map": none}, where="c")


def test_code_of_an_encoder_does_not_matter() -> None:
    given = {**bert.to_config(BertConfig(), pad_id=0), "auto_map": CODE}
    families.check_code(given, where="c")
