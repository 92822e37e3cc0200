"""A folder that is being filled with shards, and what tells that it is whole."""

import errno
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from m3jax.core import config, files
from m3jax.core.errors import InputError
from m3jax.data.sources.array_records import PREPARED
from m3jax.data.sources.stamps import stamp

UNFINISHED = "unfinished.json"
_OPTIONS = "group_size:1,uncompressed"  # one row at a time; ids hardly compress
_SHARD = re.compile(r"shard-\d{5,}-of-\d{5,}\.(array_record|json)")
_LEFT = re.compile(r"\.(shard-|prepared|unfinished).*\.tmp")  # by a killed process
# What the writer says in words, and cli.run tells in one line.
_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


@dataclass(frozen=True)
class ShardFolder:
    """Shards, a file of counts beside each, and one file that says what was asked.

    Attributes:
        path: of the folder.
        shards: how many it has when it is whole.
    """

    path: Path
    shards: int

    def shard(self, at: int) -> Path:
        """Where a shard goes."""
        return self.path / f"shard-{at:05d}-of-{self.shards:05d}.array_record"

    def counts(self, at: int) -> dict[str, Any]:
        """What was counted in a finished shard."""
        path = self.shard(at).with_suffix(".json")
        return json.loads(path.read_text(encoding="utf-8"))

    def has(self, at: int) -> bool:
        """Whether a shard is finished."""
        try:
            return self.counts(at)["bytes"] == stamp(self.shard(at)).size
        except (InputError, OSError, ValueError, KeyError, TypeError):
            return False

    @contextmanager
    def new_shard(
        self, at: int
    ) -> Iterator[tuple[Callable[[bytes], None], dict[str, Any]]]:
        """Write a shard, which is there only when all went well.

        Args:
            at: its number.

        Yields:
            A function that writes a record, and where to put what was counted.

        Raises:
            OSError: the folder cannot be written to, or the disk is full.
        """
        path = self.shard(at)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        counts: dict[str, Any] = {}
        try:
            with _writer(temporary) as write:
                yield write, counts
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            counts["bytes"] = temporary.stat().st_size
            files.write_text(path.with_suffix(".json"), json.dumps(counts) + "\n")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def claim(self, asked: Mapping[str, Any], *, fresh: bool) -> bool:
        """Make the folder, or check that the same was asked for before.

        Args:
            asked: has `format`, `settings`, and name and fingerprint of the `source`.
            fresh: remove what is there.

        Returns:
            Whether the folder is whole already.

        Raises:
            InputError: other files are there, or something else was asked for.
        """
        self._require_ours()
        self.path.mkdir(parents=True, exist_ok=True)
        if fresh:
            self._remove(lambda name: True)
        self._remove(lambda name: _LEFT.fullmatch(name) is not None)
        whole = (self.path / PREPARED).exists()
        state = self.path / (PREPARED if whole else UNFINISHED)
        if state.exists():
            _require_same(state, asked)
        else:
            files.write_text(state, json.dumps(asked, indent=2) + "\n")
        if whole:
            self._tidy()
        return whole

    def give_back(self) -> None:
        """Leave no trace of a claim that no shard was written for."""
        if not any(_SHARD.fullmatch(path.name) for path in self.path.iterdir()):
            self._remove(lambda name: name == UNFINISHED)

    def finish(self, content: Mapping[str, Any]) -> None:
        """Say that the folder is whole.

        Args:
            content: of prepared.json.
        """
        text = json.dumps(content, indent=2, ensure_ascii=False)
        files.write_text(self.path / PREPARED, text + "\n")
        self._tidy()

    def _tidy(self) -> None:
        self._remove(
            lambda name: name == UNFINISHED or name.startswith("shard-"), ".json"
        )

    def _remove(self, chosen: Callable[[str], bool], suffix: str = "") -> None:
        for path in self.path.iterdir():
            if chosen(path.name) and path.name.endswith(suffix):
                path.unlink(missing_ok=True)

    def _require_ours(self) -> None:
        if not self.path.exists():
            return
        found = "a file"
        if self.path.is_dir():
            names = sorted(path.name for path in self.path.iterdir())
            others = [name for name in names if not _is_ours(name)]
            begun = {PREPARED, UNFINISHED} & {*names}
            found = f"other files: {', '.join(others[:3])}" if others else ""
            if not others and any(map(_SHARD.fullmatch, names)) and not begun:
                found = f"shards and no {UNFINISHED}"
        if found:
            expected = "a new or empty folder, or one that was begun before"
            do = "Name another folder."
            raise InputError(expected, found, where=str(self.path), do=do)


@contextmanager
def _writer(path: Path) -> Iterator[Callable[[bytes], None]]:
    # It has no type stubs.
    from array_record.python import array_record_module  # type: ignore[import-not-found]

    out = array_record_module.ArrayRecordWriter(str(path), _OPTIONS)

    def write(record: bytes) -> None:
        try:
            out.write(record)
        except RuntimeError as error:
            raise _told(error, path) from None

    try:
        yield write
    except BaseException:
        with suppress(RuntimeError):
            out.close()
        raise
    try:
        out.close()
    except RuntimeError as error:
        raise _told(error, path) from None


def _told(error: RuntimeError, path: Path) -> OSError:
    """The error of the file system that the writer tells in words."""
    codes = [code for code in _ERRORS if os.strerror(code) in str(error)]
    code = codes[0] if codes else errno.EIO
    text = os.strerror(code) if codes else str(error)
    return OSError(code, text, str(path))


def _is_ours(name: str) -> bool:
    known = name in (PREPARED, UNFINISHED)
    return known or bool(_SHARD.fullmatch(name) or _LEFT.fullmatch(name))


def _require_same(state: Path, asked: Mapping[str, Any]) -> None:
    try:
        before = json.loads(state.read_text(encoding="utf-8"))
        source = before["source"]["fingerprint"], before["source"]["name"]
        old = {"format": before["format"], **before["settings"]}
    except (ValueError, KeyError, TypeError) as error:
        found = f"something else ({error})"
        do = "Start anew (--fresh)."
        raise InputError("what was asked", found, where=str(state), do=do) from None
    differs = config.difference(old, {"format": asked["format"], **asked["settings"]})
    where = str(state.parent)
    if differs:
        raise InputError(
            "the settings that this folder was begun with",
            "others: " + ", ".join(differs),
            where=where,
            do="Ask for the same, name another folder, or start anew (--fresh).",
        )
    if source[0] != asked["source"]["fingerprint"]:
        raise InputError(
            f"{source[1]} as it was when this folder was begun",
            "one that has changed since, or another",
            where=where,
            do="Name another folder, or start anew (--fresh).",
        )
