"""docs/merging.md: its code runs, its flags are real."""

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import pytest

import m3jax
from m3jax import merge
from m3jax.inference.embedder import Embedder
from m3jax.pipeline.stages import split
from tests.pipeline.merges import models

TEXT = (Path(__file__).parents[2] / "docs" / "merging.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


def test_the_code_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    functions, config = blocks("python")
    model = Embedder.load(models.GOLDEN / "m3")
    monkeypatch.setattr(m3jax.Embedder, "load", lambda name: model)
    names: dict[str, Any] = {}
    exec(compile(functions, "merging.md", "exec"), names)
    assert jax.tree.structure(names["merged"]) == jax.tree.structure(model.params)
    exec(compile(config, "merging.md", "exec"), names)
    trains, end = split(names["get_config"]())
    assert list(trains) == ["medical", "papers"] and end is not None


def test_flags_are_real() -> None:
    told = io.StringIO()
    with (
        mock.patch.object(sys, "argv", ["merge", "--help"]),
        contextlib.redirect_stdout(told),
        pytest.raises(SystemExit),
    ):
        merge.main()
    known = set(re.findall(r"--[a-z][\w.-]*", told.getvalue()))
    used = set(re.findall(r"(?<=[\s`])--[a-z][\w.-]*", TEXT))
    assert len(used) > 8 and used <= known
