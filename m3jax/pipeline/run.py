"""A run folder: whose it is, and what it came from."""

import copy
import errno
import json
import platform
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

from m3jax.core import config as configs
from m3jax.core import distributed, files
from m3jax.core.errors import InputError
from m3jax.data.records import Retrieval, Similarity
from m3jax.data.training_sets import Data


def check_folder(
    folder: Path, config: dict[str, Any], *, fresh: bool, later: Sequence[str] = ()
) -> None:
    """Refuse a folder that is not a run, or a run of another config; write nothing.

    Args:
        folder: the run folder; need not exist.
        config: the whole config, as JSON values.
        fresh: the run is to start anew, so its config may differ. Mesh, sub-batches and
            other fields that change no result may always.
        later: stages whose config is compared apart.

    Raises:
        InputError: with the fields that differ.
    """
    if not folder.exists():
        return
    saved = folder / "config.json"
    if not folder.is_dir() or not _is_run(folder):
        raise InputError(
            "a run folder, or none",
            "a file" if not folder.is_dir() else "a folder with other things in it",
            where=str(folder),
            do="Name another --run-dir.",
        )
    if fresh or not saved.exists():
        return
    try:
        old = json.loads(saved.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError("JSON", str(error), where=str(saved)) from None
    if list(old) != list(config):
        raise InputError(
            f"the stages that this run was made with: {', '.join(old)}",
            ", ".join(config),
            where=str(folder),
            do=_ANOTHER,
        )
    one, two = (
        {name: x for name, x in _identity(each).items() if name not in later}
        for each in (old, config)
    )
    rows = configs.difference(one, two)
    if rows:
        raise InputError(
            "the config that this run was made with",
            f"other values of {'; '.join(rows)}",
            where=str(folder),
            do=_ANOTHER,
        )


def has_begun(folder: Path) -> bool:
    """Whether a run folder holds anything that a training has made."""
    kinds = ("metrics.jsonl", "*/metrics.jsonl", "*/checkpoints/*")
    return any(found for kind in kinds for found in folder.glob(kind))


_ANOTHER = "Name another --run-dir, or start it anew with --fresh."
# Fields of a stage that change where and how it is computed, and not what comes out: a
# run goes on with others, on another slice too. Its batches are compared apart.
_FREE = (
    ("mesh",),
    ("sub_batches",),
    ("model", "encoder", "remat"),
    ("data", "workers"),
    ("data", "cache"),
    ("checkpoints",),
    ("checkpoint_every",),
    ("wandb",),
)


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """What of the config of a run makes it this run."""
    found = copy.deepcopy(config)
    for stage in found.values():
        for *path, last in _FREE:
            inner: Any = stage
            for name in path:
                inner = inner.get(name, {}) if isinstance(inner, dict) else {}
            if isinstance(inner, dict):
                inner.pop(last, None)
    return found


def _is_run(folder: Path) -> bool:
    """Whether a folder is a run's, or was to become one when it was interrupted.

    Many kinds of folders have a config.json; only ours has a lineage.json too.
    """
    if (folder / "lineage.json").exists():
        return True
    names = {path.name for path in folder.iterdir()}
    return all(name == "config.json" or name.startswith(".") for name in names)


def open_folder(
    folder: Path,
    config: dict[str, Any],
    lineage: dict[str, Any],
    *,
    fresh: bool,
    weights: Mapping[str, Callable[[], str]] | None = None,
) -> None:
    """Create the run folder, or go on in the one that `check_folder` let pass.

    Args:
        folder: the run folder.
        config: goes into config.json.
        lineage: stage -> what `describe` said; goes into lineage.json, with versions.
            Its data must be that of the run so far.
        fresh: what a run left in the folder is removed first.
        weights: stage -> hash of the weights that it goes on from, which may take a
            while and is asked for once.

    Raises:
        InputError: the training data is not what it was.
        OSError: the folder cannot be written to.
    """
    folder = folder.resolve()  # a link stays, and what it leads to is the run
    of_parents: dict[str, dict[str, str]] = {}
    if fresh or not (folder / "lineage.json").exists():
        # Before anything is there that another program could take for a run.
        of_parents = {
            name: {"parent_weights": find()} for name, find in (weights or {}).items()
        }
    if fresh and folder.exists():
        _clear(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "lineage.json"
    if path.exists():
        old = json.loads(path.read_text(encoding="utf-8"))["stages"]
        rows = [
            row
            for name, now in lineage.items()
            for row in configs.difference(old[name]["data"], now["data"], "data")
        ]
        if rows:
            raise InputError(
                "the data that this run began with",
                f"a change of {'; '.join(rows)}",
                where=str(folder),
                do="Restore the files, or start the run anew with --fresh.",
            )
        _change(folder, config, lineage)
        _add_start(path)
        return
    files.write_text(folder / "config.json", json.dumps(config, indent=2) + "\n")
    found = {name: each | of_parents.get(name, {}) for name, each in lineage.items()}
    whole = {"stages": found, "git": _git(), "versions": _versions()}
    files.write_text(path, json.dumps(whole, indent=2) + "\n")


def _change(folder: Path, config: dict[str, Any], lineage: dict[str, Any]) -> None:
    """Note another config of the stages that `check_folder` did not compare."""
    saved, about = folder / "config.json", folder / "lineage.json"
    old = json.loads(saved.read_text(encoding="utf-8"))
    one, two = _identity(old), _identity(config)
    changed = [name for name in config if one[name] != two[name]]
    if not changed:
        return
    told = json.loads(about.read_text(encoding="utf-8"))
    told["stages"] |= {name: lineage[name] for name in changed}
    files.write_text(about, json.dumps(told, indent=2) + "\n")
    new = old | {name: config[name] for name in changed}
    files.write_text(saved, json.dumps(new, indent=2) + "\n")


def _clear(folder: Path) -> None:
    """Remove what a run left in its folder."""
    if not any(folder.iterdir()):
        return
    # Out of the way at once: half a run under this name would be no run.
    old = folder.with_name(f".{folder.name}.old.tmp")
    shutil.rmtree(old, ignore_errors=True)
    try:
        folder.rename(old)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EACCES, errno.EXDEV):
            raise
        # A mount point stays where it is. What says that it is a run goes last.
        last = folder / "lineage.json"
        for path in (*(x for x in folder.iterdir() if x != last), last):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
    else:
        shutil.rmtree(old)


def _add_start(path: Path) -> None:
    """Note where a run is gone on with by other code or other versions."""
    whole = json.loads(path.read_text(encoding="utf-8"))
    now = {"git": _git(), "versions": _versions()}
    last = whole.get("starts", [whole])[-1]
    if {name: last.get(name) for name in now} != now:
        whole["starts"] = [*whole.get("starts", []), now]
        files.write_text(path, json.dumps(whole, indent=2) + "\n")


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keep a run folder for this program, as long as it runs.

    Of several processes the first one holds it, by `files.locked`.

    Args:
        folder: the run folder; one that is not there is no one's.

    Raises:
        InputError: another program holds it.
    """
    if not distributed.first():
        yield
        return
    do = (
        "Wait until it has ended, or name another --run-dir. Of a job of several "
        "processes, each has to be told so: see --coordinator."
    )
    with files.locked(folder, "a run folder that no other program works in", do=do):
        yield


def require_shared(folder: Path, *, patience: float = 60.0) -> None:
    """Refuse a run folder that a process does not see as the first one does.

    Args:
        folder: the run folder; the first process has made it.
        patience: seconds that a network file system takes to show what is new.

    Raises:
        InputError: this process does not see what the first one wrote.
    """
    if distributed.count() == 1:
        return
    name = distributed.share("name", lambda: f".seen-{secrets.token_hex(8)}")
    path = folder / name
    try:
        if distributed.first():
            path.touch()
        distributed.wait("a file in the run folder")
        deadline = time.monotonic() + patience
        while not path.exists():
            if time.monotonic() > deadline:
                raise InputError(
                    "a folder that all processes share",
                    "one of this process alone",
                    where=str(folder.absolute()),
                    do="Put --run-dir on storage that every host has mounted.",
                )
            time.sleep(0.2)
        distributed.wait("all have seen it")
    finally:
        if distributed.first():
            path.unlink(missing_ok=True)


def _git() -> str | None:
    """Revision of the code that runs, where it runs out of a git repository."""
    command = ["git", "-C", str(Path(__file__).parent), "describe"]
    options = ["--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=20
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _versions() -> dict[str, str]:
    names = ("m3jax", "jax", "flax", "optax", "orbax-checkpoint")
    return {
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def describe(data: Data, parent: str | None) -> dict[str, Any]:
    """Lineage of a stage: what it goes on from, and what the data was.

    Args:
        data: training rows and evaluation sets.
        parent: the stage or the model that it goes on from.

    Returns:
        JSON values.
    """
    sets = {"dev": data.dev, "test": data.test}
    training = {
        one.name: {
            "rows": one.count,
            "left out": dict(one.dropped),
            "fingerprint": one.scan.content,
        }
        for one in data.sets
    }
    return {
        "parent": parent,
        "data": {
            "train": training.popitem()[1] if len(training) == 1 else training,
            **{name: facts(one) for name, one in sets.items() if one is not None},
        },
    }


def facts(one: Retrieval | Similarity) -> dict[str, Any]:
    """Size and content of a set that the model is measured on."""
    if isinstance(one, Similarity):
        rows = zip(one.first, one.second, one.scores, strict=True)
        return {"pairs": len(one.scores), "fingerprint": _fingerprint(rows)}
    parts = (one.queries, one.corpus, one.qrels)
    return {
        "queries": len(one.queries),
        "passages": len(one.corpus),
        "fingerprint": _fingerprint([row for part in parts for row in part.items()]),
    }


def _fingerprint(rows: Iterable[Any]) -> str:
    content = blake2b(digest_size=8)
    for row in rows:
        content.update(repr(row).encode())
    return content.hexdigest()
