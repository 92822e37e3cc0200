import dataclasses
import functools
import math
import operator
from pathlib import Path
from typing import Any, Literal

import pytest

from m3jax.core import config
from m3jax.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    learning_rate: float = 0.1
    """Speed."""
    mode: Literal["a", "b"] = "a"


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)
    steps: int = 3
    edges: tuple[int, ...] = (1, 2)
    pair: tuple[int, int] | None = None


def parse(*words: str) -> Outer:
    return config.parse_flags(Outer, words, prog="prog", description="")


def test_fields_are_flags() -> None:
    parsed = parse("--inner.learning-rate", "2e-3", "--steps=5", "--edges", "7", "8")
    assert parsed == Outer(Inner(2e-3), 5, (7, 8))
    default = Outer(steps=9)
    assert (
        config.parse_flags(Outer, [], prog="", description="", default=default)
        is not None
    )
    assert (
        config.parse_flags(Outer, [], prog="", description="", default=default).steps
        == 9
    )


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--inner.learning-rat", "1"), "Did you mean --inner.learning-rate?"),
        (("--learning-rate", "1"), "Did you mean --inner.learning-rate?"),
        (("--stepz=5",), "--stepz: expected a known flag"),
        (("--steps", "many"), "--steps"),
        (("--inner.mode", "c"), "--inner.mode: expected one of a, b, found 'c'"),
        (("--inner.mode", "bb"), "Did you mean b?"),
        (
            ("--pair", "1", "2", "word"),
            "--pair: expected INT INT, found 1 2 word. Words that belong to no flag go",
        ),
        (("word",), "'word'"),
        (("True",), "A switch takes no value: --name or --no-name."),
    ],
)
def test_wrong_flags_say_what_is_right(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InputError) as error:
        parse(*words)
    assert said in str(error.value)
    assert "\n" not in str(error.value) and "│" not in str(error.value)


def test_help_ends_well(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        parse("--help")
    assert end.value.code == 0
    assert "Speed." in capsys.readouterr().out


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        "from typing import Literal\n"
        "def get_config(size: Literal['base', 'smoke'] = 'base'):\n    return size\n"
    )
    get_config = config.load(path)
    assert config.sizes_of(get_config) == ("base", "smoke")
    assert config.call(get_config, size=None, where="a.py") == "base"
    assert config.call(get_config, size="smoke", where="a.py") == "smoke"
    with pytest.raises(InputError, match=r"a\.py: --size: expected one of base, smoke"):
        config.call(get_config, size="huge", where="a.py")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("x = 1\n", "expected a function get_config, found none"),
        ("x = \n", "bad.py:1: expected a Python file that runs, found SyntaxError"),
        ("\n\nimport nothing_like_it\n", "bad.py:3: "),
        ("get_config = 3\n", "expected a function get_config"),
        (b"\xff\xfe\n", "bad.py"),
    ],
)
def test_load_says_what_is_wrong(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    path = tmp_path / "bad.py"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError) as error:
        config.load(path)
    assert said in str(error.value)


def test_a_config_that_fails_when_it_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text("def get_config():\n    return 1 / 0\n")
    with pytest.raises(InputError) as error:
        config.call(config.load(path), size=None, where=str(path))
    assert "a.py:2: expected get_config" in str(error.value)
    assert "ZeroDivisionError" in str(error.value)


def test_missing_config_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "quickstart.py").write_text("")
    with pytest.raises(InputError, match=r"Did you mean .*quickstart\.py\?"):
        config.load(tmp_path / "quikstart.py")
    with pytest.raises(InputError, match="found a folder"):
        config.load(tmp_path)


def test_difference_names_every_field() -> None:
    old, new = config.to_dict(Outer()), config.to_dict(Outer(Inner(0.2), 3, (1,)))
    assert config.difference(old, new) == [
        "inner.learning_rate: 0.1 -> 0.2",
        "edges: [1, 2] -> [1]",
    ]
    assert config.difference(old, old) == []
    assert config.difference({"a": 1}, {"b": {"c": 2}}) == [
        "a: 1 -> None",
        "b: None -> {'c': 2}",
    ]


def test_functions_are_told_by_name_and_arguments() -> None:
    made = functools.partial(sorted, [2.0], reverse=True)
    assert config.to_dict({"f": made, "g": math.pow}) == {
        "f": {
            "function": "builtins.sorted",
            "args": [[2.0]],
            "keywords": {"reverse": True},
        },
        "g": "math.pow",
    }
    with pytest.raises(InputError, match=r"expected a function.* of type itemgetter"):
        config.to_dict(operator.itemgetter(1))


@dataclasses.dataclass(frozen=True)
class Piece:
    share: float = 0.0
    names: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Whole:
    steps: int = 1
    one: Piece | None = None
    many: tuple[Piece, ...] = ()


WRONG: Any = "x"
NUMBER: Any = 1


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({"steps": "many"}, "a.py: steps: expected int, found 'many'"),
        ({"one": "x"}, "a.py: one: expected Piece | None, found 'x'"),
        ({"one": Piece(names=WRONG)}, "a.py: one: names: expected tuple[str, ...]"),
        ({"many": (Piece(), Piece(WRONG))}, "a.py: many: share: expected float, found"),
        ({"many": [Piece()]}, "a.py: many: expected tuple[Piece, ...], found ["),
        ({"one": Piece(names=("a", NUMBER))}, "a.py: one: names: expected tuple["),
        ({"one": Whole()}, "a.py: one: expected Piece | None, found Whole"),
    ],
)
def test_values_of_another_type(made: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        config.check_types(Whole(**made), where="a.py")
    assert str(error.value).startswith(said)
    config.check_types(Whole(one=Piece(1, ("a",)), many=(Piece(),)), where="a.py")
