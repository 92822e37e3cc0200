"""An evaluation as a file: results.json."""

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from m3jax.core import files
from m3jax.core.errors import InputError
from m3jax.data.fields import as_number, inside, kind_of, required
from m3jax.data.lines import near_name
from m3jax.evaluation.outcome import Evaluation

NAME = "results.json"
FORMAT, VERSION = "m3jax evaluation", 1
_FOREIGN = "Name a folder that m3jax.evaluate wrote, or its results.json."


def write_results(folder: Path, evaluation: Evaluation) -> Path:
    """Write an evaluation as JSON.

    Args:
        folder: gets results.json, whole or not at all; must exist.
        evaluation: the values.

    Returns:
        The file.

    Raises:
        OSError: the folder cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> evaluation = Evaluation("tiny", {"date": "2026-01-31"}, ())
        >>> read_results(write_results(folder, evaluation)) == evaluation
        True
    """
    # dataclasses as they are; asdict would copy all numbers first
    options: Any = {"ensure_ascii": False, "allow_nan": False, "default": vars}
    about = {"format": FORMAT, "version": VERSION} | vars(evaluation)
    # A line a value, and an outcome: with an indent json is ten times as slow.
    lists = ("outcomes", "maps")
    rows = [
        f"{json.dumps(name)}: {json.dumps(value, **options)}"
        for name, value in about.items()
        if name not in lists
    ]
    for name in lists:
        every = ",\n".join(json.dumps(one, **options) for one in about[name])
        rows.append(f"{json.dumps(name)}: [\n{every}\n]")
    text = "{\n" + ",\n".join(rows) + "\n}"
    # A command may hold a file name that is not UTF-8; JSON spells it so, too.
    text = text.encode("utf-8", "backslashreplace").decode()
    files.write_text(folder / NAME, text + "\n")
    return folder / NAME


def read_results(path: str | Path) -> Evaluation:
    """Read what `write_results` wrote.

    Args:
        path: results.json, or the folder that it is in.

    Returns:
        The evaluation.

    Raises:
        InputError: there is no such file, or it is damaged, of another program or of
            a later version.
    """
    path = Path(path)
    path = path / NAME if path.is_dir() else path
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError:
        found, do = "nothing of that name", near_name(path)
        raise InputError(
            "results of an evaluation", found, where=str(path), do=do
        ) from None
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError("a readable file", found, where=str(path)) from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one, too
        do = "Evaluate anew, or restore the file."
        raise InputError("JSON", str(error), where=str(path), do=do) from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = "something else"
        raise InputError(
            "results of an evaluation", found, where=str(path), do=_FOREIGN
        )
    if (version := content.pop("version", None)) != VERSION:
        found, do = f"version {version}", "Use the m3jax that wrote it."
        raise InputError(f"version {VERSION}", found, where=str(path), do=do)
    del content["format"]
    try:
        return _parse(Evaluation, content, "")
    except InputError as error:
        raise error.at(str(path)) from None


def _parse(kind: Any, value: object, where: str) -> Any:
    """Make a value of a type, as it is written in a dataclass, from JSON."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):  # X | None is all that there is
        return None if value is None else _parse(inner[0], value, where)
    if origin is tuple:
        items = _of(list, value, where)
        kinds = (inner[0],) * len(items) if inner[1] is Ellipsis else inner
        if len(items) != len(kinds):
            raise InputError(f"{len(kinds)} items", f"{len(items)}", where=where)
        pairs = zip(kinds, items, strict=True)
        return tuple(
            [_parse(one, item, f"{where}[{i}]") for i, (one, item) in enumerate(pairs)]
        )
    if dataclasses.is_dataclass(kind):
        return _parse_fields(kind, _of(dict, value, where), where)
    if origin is Mapping:
        return {
            _key(inner[0], key, where): _parse(inner[1], item, inside(where, key))
            for key, item in _of(dict, value, where).items()
        }
    return as_number(value, where) if kind is float else _of(kind, value, where)


def _parse_fields(kind: Any, row: dict[str, object], where: str) -> Any:
    types_of = typing.get_type_hints(kind)
    for key in row:
        if key not in types_of:
            expected = f"the keys {', '.join(types_of)}"
            raise InputError(expected, f"the key {key!r}", where=where)
    found = {
        key: _parse(one, required(row, key, where), inside(where, key))
        for key, one in types_of.items()
    }
    try:
        return kind(**found)
    except InputError as error:  # the parts do not fit together
        raise (error.at(where) if where else error) from None


def _key(kind: type, key: str, where: str) -> Any:
    try:
        return kind(key)
    except ValueError:
        raise InputError("an integer as key", repr(key), where=where) from None


def _of(kind: type, value: object, where: str) -> Any:
    if type(value) is not kind:  # a boolean is no integer
        expected = "an integer" if kind is int else kind_of(kind())
        found = repr(value) if isinstance(value, float) else kind_of(value)
        raise InputError(expected, found, where=where)
    return value


def _refuse(name: str) -> None:
    raise ValueError(f"{name}, which is no number in JSON")
