"""Flags of the program that measures: each one arrives, and counts where it should."""

import dataclasses
from typing import Any

import pytest

from m3jax import evaluate
from m3jax.core import config
from tests.evaluation.sets import embedder

FLAGS: list[tuple[str, str, Any]] = [
    ("outputs", "dense sparse", ("dense", "sparse")),
    ("weights", "3 2 1", (3.0, 2.0, 1.0)),
    ("rescored", "7", 7),
    ("k", "300", 300),
    ("metrics", "map@5 mrr@3", ("map@5", "mrr@3")),
    ("task", "find it", "find it"),
    ("max_length", "9", 9),
    ("dim", "4", 4),
    ("batch_tokens", "64", 64),
    ("samples", "3", 3),
    ("runs", "5", 5),
    ("label_prompt", "about {}", "about {}"),
]


@pytest.mark.parametrize(("name", "words", "value"), FLAGS)
def test_a_flag_is_a_setting(name: str, words: str, value: Any) -> None:
    flag = f"--{name.replace('_', '-')}"
    given = [words] if isinstance(value, str) else words.split()
    flags = config.parse_flags(
        evaluate.Evaluate, [flag, *given], prog="evaluate", description=""
    )
    assert getattr(flags, name) == value
    plain = evaluate._settings(evaluate.Evaluate())
    assert evaluate._settings(flags) == dataclasses.replace(plain, **{name: value})


def test_what_changes_a_number_is_another_question() -> None:
    model, asked = embedder(), evaluate.Evaluate()
    changes = {name: value for name, _, value in FLAGS if name != "batch_tokens"}
    changes |= {"first_stage": "dense", "candidates": 7, "cross_lingual": True}
    changes |= {"split": "dev", "dtype": "bfloat16"}
    # Of these no number depends; models and data have digests of their own.
    others = {"model", "data", "output", "compare", "reranker", "batch_tokens", "mesh"}
    assert {one.name for one in dataclasses.fields(asked)} == {
        *changes,
        *others,
        "fresh",
    }
    assert evaluate._about(asked, model, None)["settings"] == "the defaults"
    for name, value in changes.items():
        one = dataclasses.replace(asked, **{name: value})
        said = evaluate._about(one, model, None)["settings"]
        assert said == f"{name} {value}", name
