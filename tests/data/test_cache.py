import errno
import fcntl
import gzip
import io
import os
import random
import re
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import fsspec
import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data import cache, packed
from m3jax.data.lines import lines

TEXT = b"".join(b"line %d\n" % random.Random(i).getrandbits(64) for i in range(9_000))


def zstd(data: bytes) -> bytes:
    return pyarrow.compress(data, codec="zstd", asbytes=True)


def zstd_stream(data: bytes) -> bytes:
    """Packed without knowing the size ahead, as `zstd < FILE` does it."""
    sink = pyarrow.BufferOutputStream()
    with pyarrow.CompressedOutputStream(sink, "zstd") as file:
        file.write(data)
    return sink.getvalue().to_pybytes()


def two_parts(pack: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda data: pack(data[:99]) + pack(data[99:])


SKIPPABLE = bytes.fromhex("512a4d18") + (4).to_bytes(4, "little") + b"note"
PACKS = {
    "gzip": gzip.compress,
    "gzip in two parts": two_parts(gzip.compress),
    "zstd": zstd,
    "zstd of a stream": zstd_stream,
    "zstd in two parts": two_parts(zstd),
    "zstd after a note": lambda data: SKIPPABLE + zstd(data),
}


def left(folder: Path) -> list[str]:
    """Files of a cache but for its locks."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path.name for path in found if path.suffix != ".lock")


@pytest.fixture
def memory() -> fsspec.AbstractFileSystem:
    files = fsspec.filesystem("memory")
    files.store.clear()
    return files


# Folders and entries


def test_the_cache_is_the_users_unless_told(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.root(None, "a") == tmp_path / "m3jax" / "data"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert cache.root(None, "a") == Path("/home/me/.cache/m3jax/data")
    assert cache.root("mine", "/b/a") == Path("mine")
    assert cache.root("beside", "/b/a") == Path("/b/.m3jax")
    with pytest.raises(InputError, match="gs://b/a: expected a local file, found a"):
        cache.root("beside", "gs://b/a")


def test_entries_differ_by_name_and_by_version():
    folder = Path("cache")
    names = {
        cache.entry(folder, name, *version).name
        for name in ("/x/a.jsonl", "/y/a.jsonl")
        for version in ((), (1,), (1, 2), ("1",))
    }
    assert len(names) == 8
    assert all(name.startswith("a.jsonl-") for name in names)
    odd = cache.entry(folder, "gs://bucket/é ?*[x]/" + "n" * 99)
    assert odd.parent == folder
    assert len(odd.name) < 80
    assert cache.entry(folder, "/").name.startswith("data-")
    assert not cache.entry(folder, "/x/..").name.startswith(".")


def test_older_versions_are_dropped_and_other_files_kept(tmp_path: Path):
    new, old, other = (
        cache.entry(tmp_path, name, version)
        for name, version in (("/a", 2), ("/a", 1), ("/b/a", 1))
    )
    new.mkdir()
    other.mkdir()
    old.write_bytes(b"")
    assert cache.drop_older(new)
    assert sorted(tmp_path.iterdir()) == sorted([new, other])
    assert not cache.drop_older(new)


def test_a_second_process_waits(tmp_path: Path, capsys):
    target = cache.entry(tmp_path, "a")
    code = (
        "import sys, time; from pathlib import Path; from m3jax.data import cache\n"
        "with cache.claimed(Path(sys.argv[1])):\n"
        "    print('mine', flush=True); time.sleep(0.3); Path(sys.argv[1]).touch()"
    )
    command = [sys.executable, "-c", code, str(target)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"mine\n"
        with cache.claimed(target):
            assert target.exists()
    assert "waiting for another process" in capsys.readouterr().err


# Globs


def test_a_glob_is_sorted(tmp_path: Path):
    for name in ("b.jsonl", "a.jsonl", "c.txt", "[x].jsonl"):
        (tmp_path / name).touch()
    found = cache.expand(f"{tmp_path}/?.jsonl")
    assert found == [f"{tmp_path}/a.jsonl", f"{tmp_path}/b.jsonl"]
    # A file may be called like a glob.
    assert cache.expand(f"{tmp_path}/[x].jsonl") == [f"{tmp_path}/[x].jsonl"]
    with pytest.raises(InputError, match="expected files that fit the pattern, found"):
        cache.expand(f"{tmp_path}/*.parquet")


def test_a_glob_of_urls(tmp_path: Path, memory):
    memory.pipe({"/b/2.jsonl": b"", "/b/1.jsonl": b"", "/b/c.txt": b""})
    found = cache.expand("memory://b/*.jsonl")
    assert found == ["memory:///b/1.jsonl", "memory:///b/2.jsonl"]
    memory.pipe("/b/1.jsonl", TEXT)
    assert cache.local(found[0], tmp_path).read_bytes() == TEXT
    with pytest.raises(InputError, match=r"memory://b/.*pq: expected files that fit"):
        cache.expand("memory://b/*.pq")


# URLs


def test_a_url_is_fetched_once(tmp_path: Path, memory, monkeypatch):
    memory.pipe("/b/a.jsonl", TEXT)
    first = cache.local("memory://b/a.jsonl", tmp_path)
    assert first.read_bytes() == TEXT
    stamp = first.stat().st_mtime
    monkeypatch.setattr(memory, "open", None)
    assert cache.local("memory://b/a.jsonl", tmp_path) == first
    monkeypatch.undo()
    # The same file has the same time on another machine.
    again = cache.local("memory://b/a.jsonl", tmp_path / "other")
    assert again.stat().st_mtime == stamp
    memory.pipe("/b/a.jsonl", TEXT[::-1])
    assert cache.local("memory://b/a.jsonl", tmp_path).read_bytes() == TEXT[::-1]
    assert len(left(tmp_path / "fetched")) == 1
    assert cache.local("plain.jsonl", tmp_path) == Path("plain.jsonl")


def test_a_url_that_cannot_be_read(tmp_path: Path, memory, monkeypatch):
    with pytest.raises(InputError, match="memory://no: expected a file, found nothing"):
        cache.local("memory://no", tmp_path)
    memory.pipe("/b/a", b"")
    with pytest.raises(InputError, match=r"expected a file, found a folder\. Name the"):
        cache.local("memory://b", tmp_path)
    with pytest.raises(InputError, match=r"of URL that fsspec reads: .* found x-y://$"):
        cache.local("x-y://a", tmp_path)

    def refuse(path: str):
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr(memory, "info", refuse)
    with pytest.raises(InputError, match="a file that can be read, found no route"):
        cache.local("memory://b/a", tmp_path)
    assert left(tmp_path) == []


def test_a_package_for_urls_that_is_missing(tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(InputError) as caught:
        cache.local("gs://bucket/a.jsonl", tmp_path)
    assert str(caught.value) == (
        "gs://bucket/a.jsonl: expected the package gcsfs, which gs:// needs, found "
        "none. pip install gcsfs"
    )


def test_a_file_that_ends_early_is_not_kept(tmp_path: Path, memory, monkeypatch):
    memory.pipe("/b/a", TEXT)
    info = memory.info("/b/a")
    monkeypatch.setattr(memory, "info", lambda path: {**info, "size": len(TEXT) + 1})
    size = len(TEXT)
    with pytest.raises(InputError, match=f"found {size} of its {size + 1} bytes"):
        cache.local("memory://b/a", tmp_path)
    assert left(tmp_path) == []


Usage = namedtuple("Usage", "total used free")


def test_a_file_that_does_not_fit_is_not_fetched(tmp_path: Path, memory, monkeypatch):
    memory.pipe("/b/a", TEXT)
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, len(TEXT) - 1))
    with pytest.raises(InputError) as caught:
        cache.local("memory://b/a", tmp_path)
    assert f"expected {len(TEXT):,} bytes free in {tmp_path}" in str(caught.value)
    assert caught.value.do.endswith("set data.cache to a folder on another disk.")


# Packed files


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_a_packed_file_is_unpacked_once(tmp_path: Path, pack, monkeypatch):
    path = tmp_path / "a.jsonl"  # whatever the name
    path.write_bytes(pack(TEXT))
    plain = cache.unpacked(path, tmp_path / "cache")
    assert plain.read_bytes() == TEXT
    with monkeypatch.context() as patch:
        patch.setattr(packed, "unpacking", None)
        assert cache.unpacked(path, tmp_path / "cache") == plain
    os.utime(path, (1, 1))
    path.write_bytes(pack(TEXT[::-1]))
    assert cache.unpacked(path, tmp_path / "cache").read_bytes() == TEXT[::-1]
    assert not plain.exists()
    assert len(left(tmp_path / "cache")) == 1


@pytest.mark.parametrize("damage", [b"", TEXT[:100], TEXT[::-1]])
def test_a_damaged_copy_is_made_again(tmp_path: Path, memory, capsys, damage: bytes):
    (tmp_path / "a.gz").write_bytes(gzip.compress(TEXT))
    memory.pipe("/b/a", TEXT)

    def unpacked() -> Path:
        return cache.unpacked(tmp_path / "a.gz", tmp_path / "cache", name="mine")

    def fetched() -> Path:
        return cache.local("memory://b/a", tmp_path / "cache")

    for make, name in ((unpacked, "mine"), (fetched, "memory://b/a")):
        copy = make()
        assert make() == copy and capsys.readouterr().err == ""
        copy.write_bytes(damage)
        assert make().read_bytes() == TEXT
        assert capsys.readouterr().err == f"copy of {name} is damaged: made again\n"
        assert make() == copy and capsys.readouterr().err == ""


def test_a_plain_file_stays_where_it_is(tmp_path: Path):
    (tmp_path / "a.gz").write_bytes(TEXT)
    assert cache.unpacked(tmp_path / "a.gz", tmp_path / "cache") == tmp_path / "a.gz"
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
@pytest.mark.parametrize("damage", ["cut", "tail", "last byte"])
def test_a_damaged_file_leaves_nothing(tmp_path: Path, pack, damage: str):
    data = pack(TEXT)
    cut = {"cut": data[: len(data) // 2], "tail": data + b"tail"}
    path = tmp_path / "a.gz"
    path.write_bytes(cut.get(damage, data[:-1]))
    kind = "zstd" if pack in list(PACKS.values())[2:] else "gzip"
    with pytest.raises(InputError, match=f"a whole {kind} file, found one") as caught:
        cache.unpacked(path, tmp_path / "cache")
    assert caught.value.where == str(path)
    told = re.search(r"damaged after (line \d+)", caught.value.found)
    assert told is not None
    assert left(tmp_path / "cache") == []
    # The same where lines are read without unpacking the file.
    read = []
    with pytest.raises(InputError, match=f"whole {kind} file, found .* after line"):
        for _, line in lines(path):
            read.append(line)
    assert read == TEXT.splitlines()[: len(read)]
    assert told[1] == f"line {len(read)}"


@pytest.mark.parametrize("pack", PACKS.values(), ids=PACKS)
def test_lines_of_a_packed_file(tmp_path: Path, pack):
    path = tmp_path / "a"
    path.write_bytes(pack(b"\xef\xbb\xbfone\r\n\n two"))
    assert list(lines(path)) == [(f"{path}:1", b"one"), (f"{path}:3", b" two")]


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (gzip.compress(TEXT, mtime=0), len(TEXT)),
        (zstd(TEXT), len(TEXT)),
        (zstd(TEXT[:300]), 300),
        (zstd(TEXT[:20] * 4), 80),
        (zstd(TEXT * 8), 8 * len(TEXT)),
        (gzip.compress(b"", mtime=0)[:7], packed.MULTIPLE * 7),
    ],
)
def test_the_size_that_a_packed_file_tells(data: bytes, size: int):
    assert packed.unpacked_size(io.BytesIO(data)) == size


@pytest.mark.parametrize("name", [n for n in PACKS if n not in ("gzip", "zstd")])
def test_a_size_that_is_not_told_is_taken_from_the_packed_one(name: str):
    data = PACKS[name](TEXT)
    found = packed.unpacked_size(io.BytesIO(data))
    assert found == (len(TEXT) - 99 if name == "gzip in two parts" else 5 * len(data))


def test_a_file_that_does_not_fit_is_not_unpacked(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(TEXT))
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, len(TEXT) - 1))
    with pytest.raises(InputError, match=f"a.gz: expected {len(TEXT):,} bytes free in"):
        cache.unpacked(path, tmp_path / "cache")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(0, 0, len(TEXT)))
    cache.unpacked(path, tmp_path / "cache")


def test_a_disk_that_gets_full(tmp_path: Path, monkeypatch):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(TEXT))

    def full(handle: int):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        InputError, match=r"expected enough room in .* found a full disk"
    ):
        cache.unpacked(path, tmp_path / "cache")
    assert left(tmp_path / "cache") == []


def test_what_a_killed_process_left_is_removed(tmp_path: Path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(TEXT))
    plain = cache.unpacked(path, tmp_path)
    dead = plain.with_name(f".{plain.name}.x.tmp")
    plain.rename(dead)
    assert cache.unpacked(path, tmp_path) == plain
    assert not dead.exists()


def test_a_missing_file_gets_the_nearest_name(tmp_path: Path):
    (tmp_path / "train.gz").touch()
    with pytest.raises(InputError, match=r"Did you mean .*train.gz\?"):
        cache.unpacked(tmp_path / "trian.gz", tmp_path)


def test_locks_are_let_go(tmp_path: Path):
    target = cache.entry(tmp_path, "a")
    with pytest.raises(KeyError), cache.claimed(target):
        raise KeyError
    (lock,) = tmp_path.glob(".*.lock")
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    assert time.time() - lock.stat().st_mtime < 60
