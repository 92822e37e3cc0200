"""The flags of a program that reads a config: its own, and every field of the stage."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from m3jax.core import config
from m3jax.core.errors import InputError

if TYPE_CHECKING:
    from m3jax.pipeline.stage import Stage

T = TypeVar("T")


def parse(
    program: type[T], args: Sequence[str], *, prog: str, description: str
) -> tuple[T, dict[str, "Stage"], str]:
    """Read the config that `--config` names, and the flags that change it.

    Args:
        program: a dataclass of the program's own flags, with the fields config and
            size first, both str or None by default.
        args: the words of the command line.
        prog: what the user typed, for `--help`.
        description: the first lines of `--help`.

    Returns:
        The program's own flags, the stages by name, and a name for what it writes: of
        the config and its size. The flags of one stage stand alone, those of several
        begin with its name: --STAGE.steps.

    Raises:
        InputError: there is no such config, it makes no stage, or a flag is wrong.
        SystemExit: with 0, after `--help`.
    """
    path, size = _word(args, "--config"), _word(args, "--size")
    if path is None:
        # Either this prints the help and ends, or it says that --config is needed.
        config.parse_flags(program, args, prog=prog, description=description)
        raise InputError("a value", "none", where="--config")
    made = config.call(config.load(path), size=size, where=path)

    import tyro

    from m3jax.pipeline.stage import Merge, Train  # takes longer than --help may
    from m3jax.pipeline.stages import ONLY, check_names

    stages = made if isinstance(made, dict) else {ONLY: made}
    for one in stages.values():
        if not isinstance(one, Train | Merge):
            found = type(one).__name__
            expected = "get_config to return a Train, or names of stages -> Train"
            raise InputError(expected, found, where=path)
    check_names(stages, where=path)
    for key, one in stages.items():
        config.check_types(one, where=path if key == ONLY else f"{path}: {key}")
    bare: Any = tyro.conf.arg(name="")
    fields: list[Any] = [("program", Annotated[program, bare])]
    for number, (name, one) in enumerate(stages.items()):
        option: Any = bare if len(stages) == 1 else tyro.conf.arg(name=name)
        fields.append((f"stage_{number}", Annotated[type(one), option]))
    flags = dataclasses.make_dataclass("Flags", fields, frozen=True)
    given: Any = program
    parsed = config.parse_flags(
        flags,
        args,
        prog=prog,
        description=description,
        default=flags(given(path, size), *stages.values()),
    )
    name = config_name(path) if size is None else f"{config_name(path)}-{size}"
    changed = {
        stage: getattr(parsed, f"stage_{number}") for number, stage in enumerate(stages)
    }
    return parsed.program, changed, name


def config_name(path: str | Path) -> str:
    """What a run is called after: the file, and its folders below one named configs.

    Two recipes may both have a finetune.py, and their runs are not one.

    Args:
        path: of the config.

    Returns:
        The name.

    Example:
        >>> config_name("configs/e5/finetune.py"), config_name("mine/tiny.py")
        ('e5-finetune', 'tiny')
    """
    folders = Path(path).parent.parts
    last = len(folders)
    if "configs" in folders:
        last = len(folders) - 1 - folders[::-1].index("configs")
    return "-".join([*folders[last + 1 :], Path(path).stem])


def _word(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag that decides what the other flags are."""
    for i, word in enumerate(args):
        if word.startswith(f"{flag}="):
            return word.split("=", 1)[1]
        if word == flag and i + 1 < len(args):
            return args[i + 1]
    return None
