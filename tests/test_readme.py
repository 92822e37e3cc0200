"""README.md: its commands are real, its links lead somewhere, its code runs."""

import contextlib
import importlib
import io
import itertools
import re
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest

from m3jax import losses

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_links_and_pictures_exist() -> None:
    links = [x for x in re.findall(r"\]\(([^)]+)\)", README) if "://" not in x]
    assert len(links) >= 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_tables_hold_numbers_and_nothing_is_left_out() -> None:
    lines = README.splitlines()
    assert not [line for line in lines if re.fullmatch(r"[A-Z_]{4,}", line)]
    for title, rows in (("739 queries", 3), ("1,492 queries", 3)):
        at = next(i for i, line in enumerate(lines) if title in line)
        numbers = [
            [float(cell) for cell in line.split("|")[2:5]]
            for line in lines[at + 2 : at + 2 + rows]
        ]
        assert all(0 < x < 1 for row in numbers for x in row)
        assert numbers[1][0] > 2 * numbers[0][0]


def flags_of(program: str, *words: str) -> set[str]:
    """What `--help` of a program lists."""
    module = importlib.import_module(f"m3jax.{program}")
    told = io.StringIO()
    with (
        mock.patch.object(sys, "argv", [program, *words, "--help"]),
        contextlib.redirect_stdout(told),
        pytest.raises(SystemExit),
    ):
        module.main()
    return set(re.findall(r"--[a-z][\w.-]*", told.getvalue()))


def test_flags_are_real() -> None:
    commands = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    found: dict[str, set[str]] = {}
    for command in commands:
        for program, words in re.findall(r"python -m m3jax\.(\w+)([^&]*)", command):
            flags = set(re.findall(r"(?<= )--[a-z][\w.-]*", words))
            found.setdefault(program, set()).update(flags)
    found["train"] |= set(re.findall(r"^\| `(--[\w.-]+)", README, re.MULTILINE))
    found["train"] |= set(re.findall(r"`(--(?:lora|optimizer)[\w.-]+)`", README))
    programs = {"train", "search", "encode", "rerank", "convert", "prepare", "inspect"}
    assert set(found) == programs | {"evaluate", "merge"}
    assert len(found["train"]) >= 10
    for program, flags in found.items():
        words = ["--config", str(ROOT / "configs/pairs.py")]
        configured = program in ("train", "inspect")
        known = flags_of(program, *(words if configured else []))
        assert flags - known == set(), program


def test_the_models_it_names_are_known() -> None:
    from m3jax.nn import zoo

    names = re.findall(r'"((?:BAAI|Qwen|intfloat)/[\w.-]+)"', README)
    names += re.findall(r"(?:model|init|convert) ((?:BAAI|Qwen|intfloat)/\S+)", README)
    assert len(set(names)) >= 4
    for name in names:
        zoo.find(name)
    # Every row of the table, its braces spelled out.
    table = README[README.index("| family |") : README.index("Any other BERT")]
    braces = re.findall(r"`([\w.-]+/[^`]+)`", table)
    told = set()
    for entry in braces:
        parts = re.split(r"\{([^}]*)\}", entry)
        options = [part.split(",") if i % 2 else [part] for i, part in enumerate(parts)]
        told |= {"".join(chosen) for chosen in itertools.product(*options)}
    simcse = {name for name in told if "simcse-bert" in name}
    told = (told - simcse) | {f"{name}-uncased" for name in simcse}
    told |= {"BAAI/bge-m3-unsupervised", "BAAI/bge-m3-retromae"}
    told |= {f"intfloat/e5-{size}-v2" for size in ("small", "base", "large")}
    assert told == set(zoo.ZOO)


def test_the_loss_example_runs_on_all_devices() -> None:
    """It learns, and a step is that of one device, written without its parts."""
    (code,) = [block for block in blocks("python") if "info_nce" in block]
    assert len([line for line in code.splitlines() if line]) <= 30
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    assert jax.device_count() == 8
    embed, optimizer = names["embed"], names["optimizer"]
    query, passage = names["query"], names["passage"]
    start = jax.tree.map(lambda x: x + 0.1, names["params"])

    @jax.value_and_grad
    def loss(params: Any) -> jax.Array:
        given = embed(params, query), embed(params, passage)
        return losses.info_nce(*given, temperature=0.05).mean()

    value, gradient = loss(start)
    state = optimizer.init(start)
    _, expected = optimizer.update(gradient, state)
    _, found, same = names["train"](start, state, query, passage)
    np.testing.assert_allclose(same, value, rtol=1e-5)
    assert names["value"] < value / 2
    # Adam's first moment is a tenth of the gradient.
    for x, y in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-5 * float(np.abs(y).max()))


@pytest.mark.filterwarnings("ignore:.*texts were longer")
@pytest.mark.parametrize("what", ["m3jax.Index.build", "qdrant.upload"])
def test_the_search_examples_run(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import m3jax
    from tests.evaluation.sets import embedder

    (code,) = [block for block in blocks("python") if what in block]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(m3jax.Embedder, "load", lambda name: embedder())
    exec(compile(code, "README.md", "exec"), {"m3jax": m3jax, "model": embedder()})
    assert list(tmp_path.iterdir())  # an index, or Qdrant's folder


def test_configs_are_what_they_say() -> None:
    """Every config gives every size that it names, and says how it is started."""
    from m3jax.core import config
    from m3jax.pipeline.stage import Train

    for path in sorted((ROOT / "configs").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        assert f"--config configs/{path.name}" in text.split('"""')[1]
        get_config = config.load(path)
        sizes = config.sizes_of(get_config)
        assert "smoke" in sizes
        for size in sizes:
            stage = config.call(get_config, size=size, where=str(path))
            assert isinstance(stage, Train)
            assert stage.steps <= 20 or size != "smoke"
