"""Configs are Python files that return frozen dataclasses; their fields are flags."""

import contextlib
import dataclasses
import difflib
import functools
import importlib.util
import inspect
import io
import re
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import typeguard

from m3jax.core.errors import InputError

T = typing.TypeVar("T")
_ALL = typeguard.CollectionCheckStrategy.ALL_ITEMS


def load(path: str | Path) -> Callable[..., Any]:
    """Read a config file and return its `get_config`.

    Args:
        path: a Python file that defines `get_config(size=...)`.

    Returns:
        The function.

    Raises:
        InputError: the file is missing, unreadable, fails when it is run, or defines
            no `get_config`.

    Example:
        >>> load("no.py")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.py: expected a config file, found none
    """
    path = Path(path)
    if path.is_dir() or not path.exists():
        found = "a folder" if path.is_dir() else "none"
        near = difflib.get_close_matches(
            path.name, [p.name for p in path.parent.glob("*.py")], n=1
        )
        raise InputError(
            "a config file",
            found,
            where=str(path),
            do=f"Did you mean {path.parent / near[0]}?" if near else "",
        )
    try:
        source = path.read_bytes()
    except OSError as error:
        found = error.strerror or str(error)
        raise InputError("a readable file", found, where=str(path)) from None
    module = importlib.util.module_from_spec(
        importlib.util.spec_from_loader(f"config_{path.stem}", loader=None)  # type: ignore[arg-type]
    )
    module.__file__ = str(path)
    try:
        exec(compile(source, str(path), "exec"), module.__dict__)
    except InputError:
        raise
    except Exception as error:
        line = _line_in(path, error)
        raise InputError(
            "a Python file that runs",
            f"{type(error).__name__}: {error}",
            where=f"{path}:{line}" if line else str(path),
        ) from None
    function = getattr(module, "get_config", None)
    if not callable(function):
        raise InputError(
            "a function get_config",
            "none",
            where=str(path),
            do="It returns the stage to run, e.g. def get_config(size='base').",
        )
    return function


def check_types(config: Any, *, where: str) -> None:
    """Refuse values of a type that their field is not for, in a config and inside it.

    Args:
        config: a dataclass.
        where: what to call it.

    Raises:
        InputError: names the field.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Stage:
        ...     steps: int
        >>> check_types(Stage("many"), where="a.py")  # type: ignore[arg-type]
        Traceback (most recent call last):
        m3jax.core.errors.InputError: a.py: steps: expected int, found 'many'
    """
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        value, hint = getattr(config, field.name), hints[field.name]
        try:
            typeguard.check_type(value, hint, collection_check_strategy=_ALL)
        except typeguard.TypeCheckError:
            named = hint.__name__ if isinstance(hint, type) else str(hint)
            is_one = dataclasses.is_dataclass(value)
            raise InputError(
                re.sub(r"\b(\w+\.)+", "", named),
                type(value).__name__ if is_one else repr(value),
                where=f"{where}: {field.name}",
            ) from None
        inside = value if isinstance(value, tuple) else (value,)
        for each in inside:
            if dataclasses.is_dataclass(each) and not isinstance(each, type):
                check_types(each, where=f"{where}: {field.name}")


def call(get_config: Callable[..., Any], *, size: str | None, where: str) -> Any:
    """Call `get_config` with the size asked for, checked against what it offers.

    Args:
        get_config: what `load` returned.
        size: value of `--size`; None takes the config's own default.
        where: path of the config, for the message.

    Returns:
        What the config returns.

    Raises:
        InputError: the config has no such size.

    Example:
        >>> def get_config(size: typing.Literal["base", "smoke"] = "base"):
        ...     return size
        >>> call(get_config, size="smoke", where="a.py")
        'smoke'
    """
    sizes = sizes_of(get_config)
    if size is not None and size not in sizes:
        raise InputError(
            f"one of {', '.join(sizes)}" if sizes else "no --size for this config",
            size,
            where=f"{where}: --size",
        )
    try:
        return get_config() if size is None else get_config(size=size)
    except InputError:
        raise
    except Exception as error:
        line = _line_in(Path(where), error)
        raise InputError(
            "get_config to return a stage",
            f"{type(error).__name__}: {error}",
            where=f"{where}:{line}" if line else where,
        ) from None


def sizes_of(get_config: Callable[..., Any]) -> tuple[str, ...]:
    """List the sizes that a config offers: the Literal on its parameter `size`.

    Example:
        >>> def get_config(size: typing.Literal["base", "smoke"] = "base"): ...
        >>> sizes_of(get_config)
        ('base', 'smoke')
    """
    parameter = inspect.signature(get_config, eval_str=True).parameters.get("size")
    return () if parameter is None else typing.get_args(parameter.annotation)


def parse_flags(
    cls: Any,
    args: Sequence[str],
    *,
    prog: str,
    description: str,
    default: Any = None,
) -> Any:
    """Turn command line words into an instance of a dataclass.

    Args:
        cls: the dataclass; nested ones become `--data.train`.
        args: the words.
        prog: what the user typed, for `--help`.
        description: the first lines of `--help`.
        default: values of the flags that are not given.

    Returns:
        The instance.

    Raises:
        InputError: an unknown flag (the nearest one is named), or a wrong value.
        SystemExit: with 0, after `--help`.

    Example:
        >>> @dataclasses.dataclass(frozen=True)
        ... class Flags:
        ...     top_k: int = 10
        >>> parse_flags(Flags, ["--topk", "3"], prog="search", description="")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: --topk: expected a known flag, found none of \
this name. Did you mean --top-k?
    """
    import tyro  # takes half a second

    told = io.StringIO()
    keywords = {} if default is None else {"default": default}
    wants_help = any(word in ("-h", "--help") for word in args)
    quiet = contextlib.nullcontext() if wants_help else contextlib.redirect_stderr(told)
    try:
        with quiet:
            parsed, unknown = tyro.cli(
                cls,
                args=list(args),
                prog=prog,
                description=description,
                return_unknown_args=True,
                # A field of several types has the flags of its default's type.
                config=(tyro.conf.AvoidSubcommands,),
                **keywords,
            )
    except SystemExit as end:
        if not end.code:
            raise
        raise _wrong_value(_sentence(told.getvalue()), prog) from None
    if unknown:
        raise _unknown_flag(unknown[0], _flags(cls, default))
    return parsed


def to_dict(config: Any) -> Any:
    """Turn a config into JSON values; a function becomes its qualified name.

    Raises:
        InputError: a callable without a name, which could not be told from another.

    Example:
        >>> from m3jax.core.mesh_config import MeshConfig
        >>> to_dict(MeshConfig())
        {'data': -1, 'fsdp': 1, 'tensor': 1}
    """
    if dataclasses.is_dataclass(config):
        return {
            field.name: to_dict(getattr(config, field.name))
            for field in dataclasses.fields(config)
        }
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, list | tuple):
        return [to_dict(value) for value in config]
    if isinstance(config, functools.partial):
        parts = {"function": config.func, "args": config.args}
        return to_dict(parts | {"keywords": config.keywords})
    if callable(config):
        name = getattr(config, "__qualname__", "")
        if not name:
            raise InputError(
                "a function, or functools.partial of one",
                f"an object of type {type(config).__qualname__}",
                where="config",
            )
        return f"{config.__module__}.{name}"
    return config


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Dotted name -> value of every field of a `to_dict` value.

    Example:
        >>> flatten({"data": {"train": "a.jsonl"}, "steps": 3})
        {'data.train': 'a.jsonl', 'steps': 3}
    """
    if not isinstance(value, dict):
        return {name: value}
    found = {}
    for key, inner in value.items():
        found |= flatten(inner, f"{name}.{key}" if name else key)
    return found


def difference(old: Any, new: Any, name: str = "") -> list[str]:
    """List the fields in which two `to_dict` values differ.

    Args:
        old: one value.
        new: the other.
        name: dotted name of the field that holds them.

    Returns:
        One `name: old -> new` a field.

    Example:
        >>> difference({"steps": 1, "seed": 0}, {"steps": 2, "seed": 0})
        ['steps: 1 -> 2']
    """
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for key in [*old, *(key for key in new if key not in old)]:
            inner = f"{name}.{key}" if name else key
            rows += difference(old.get(key), new.get(key), inner)
        return rows
    return [] if old == new else [f"{name}: {old} -> {new}"]


def _unknown_flag(word: str, known: list[str]) -> InputError:
    flag = word.split("=")[0]
    if not flag.startswith("-"):
        switch = word.lower() in ("true", "false")
        return InputError(
            "a flag",
            f"the word {word!r}",
            where="command line",
            do="A switch takes no value: --name or --no-name." if switch else "",
        )
    near = difflib.get_close_matches(flag.replace("_", "-"), known, n=1, cutoff=0.5)
    return InputError(
        "a known flag",
        "none of this name",
        where=flag,
        do=f"Did you mean {near[0]}?" if near else "--help lists the flags.",
    )


def _wrong_value(said: str, prog: str) -> InputError:
    """What tyro says of a value, in our words where it would confuse."""
    choice = re.match(r"invalid choice '(.*)' for argument '(\S+)'.*?\((.*)\)", said)
    if choice:
        found, flag, listed = choice.groups()
        known = sorted(
            set(re.findall(r"'([^']*)'", listed)) - {"None"}
        )  # tyro's is random
        near = difflib.get_close_matches(found, known, n=1)
        do = f"Did you mean {near[0]}?" if near else ""
        return InputError(f"one of {', '.join(known)}", repr(found), where=flag, do=do)
    value = re.match(
        r"Error parsing (\S+): no type matching (.*) could .*? \[(.*?)\]", said
    )
    if value:
        flag, expected, words = value.groups()
        return InputError(
            re.sub(r"\{None\}\||[{}]", "", expected),
            " ".join(re.findall(r"'(.*?)'", words)) or "nothing",
            where=flag,
            do="Words that belong to no flag go before the flags.",
        )
    plain = re.sub(r"\[/?bold\]", "", said)
    return InputError("flags as --help lists them", plain, where=prog)


def _flags(cls: Any, default: Any) -> list[str]:
    """Names of all flags, read off the help that tyro makes."""
    import tyro

    told = io.StringIO()
    keywords = {} if default is None else {"default": default}
    with contextlib.redirect_stdout(told), contextlib.suppress(SystemExit):
        tyro.cli(cls, args=["--help"], config=(tyro.conf.AvoidSubcommands,), **keywords)
    return sorted(set(re.findall(r"--[a-z][\w.-]*", told.getvalue())))


def _sentence(box: str) -> str:
    """The first paragraph inside the box that tyro draws."""
    rows = [row.strip("│ ").strip() for row in box.splitlines()]
    rows = [row for row in rows if row and row[0] not in "╭╰"]
    rule = next((i for i, row in enumerate(rows) if row.startswith("─")), len(rows))
    return " ".join(rows[:rule]) or "something else"


def _line_in(path: Path, error: Exception) -> int | None:
    """The line of the config where an error arose."""
    if isinstance(error, SyntaxError):
        return error.lineno
    line, trace = None, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = trace.tb_lineno
        trace = trace.tb_next
    return line
