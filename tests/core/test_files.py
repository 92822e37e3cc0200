import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from m3jax.core import files


def test_text_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    files.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.write_text(path, "new" * 9999 + "\ud800")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with files.new_folder(path) as folder:
        (folder / "a").write_text("1")
    with pytest.raises(RuntimeError), files.new_folder(path) as folder:
        (folder / "a").write_text("2")
        raise RuntimeError("killed")
    assert (path / "a").read_text() == "1"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_takes_the_place_of_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "model"
    for name in ("a", "b"):
        with files.new_folder(path) as folder:
            (folder / name).write_text(name)
    assert [file.name for file in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


def test_leftovers_of_a_killed_process_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.xyz.tmp").mkdir()
    with files.new_folder(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / ".model.old.tmp").mkdir()
    (tmp_path / ".model.old.tmp" / "a").write_text("1")
    with pytest.raises(RuntimeError), files.new_folder(tmp_path / "model"):
        raise RuntimeError("and then something else")
    assert (tmp_path / "model" / "a").read_text() == "1"


def test_two_that_write_one_folder_leave_each_other_alone(tmp_path: Path) -> None:
    path = tmp_path / "model"
    with files.new_folder(path) as one:
        (one / "a").write_text("1")
        with files.new_folder(path) as two, files.scratch(path) as three:
            assert one.is_dir() and two.is_dir() and three.is_dir()
        (one / "b").write_text("1")
    assert sorted(file.name for file in path.iterdir()) == ["a", "b"]
    assert list(tmp_path.iterdir()) == [path]


def test_threads_that_write_one_folder_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, replace = tmp_path / "model", os.replace
    # Time for the others between the two renames.
    monkeypatch.setattr(os, "replace", lambda *x: (replace(*x), time.sleep(0.002)))

    def write(number: int) -> None:
        for _ in range(20):
            with files.new_folder(path) as folder:
                (folder / "a").write_text(f"{number}")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, range(4)))
    assert (path / "a").read_text() in "0123"
    assert list(tmp_path.iterdir()) == [path]


def test_scratch_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    """By a kill, the lock ends and the folder stays."""
    path = tmp_path / "mo[d]el"
    program = (
        "import os, pathlib, sys; from m3jax.core import files\n"
        "with files.scratch(pathlib.Path(sys.argv[1])) as folder:\n"
        "    (folder / 'a').touch(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, path], check=False)
    assert len(list(tmp_path.iterdir())) == 1
    with files.scratch(path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert list(tmp_path.iterdir()) == []


def test_what_a_longer_name_left_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / ".model.large.old.tmp").mkdir()
    with files.new_folder(tmp_path / "model"):
        pass
    with files.new_folder(tmp_path / "model.large"):
        assert (tmp_path / "model.large").is_dir()


def test_scratch_keeps_what_a_kill_between_the_renames_left(tmp_path: Path) -> None:
    (tmp_path / ".model.old.tmp").mkdir()
    with files.scratch(tmp_path / "model"):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
