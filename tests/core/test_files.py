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
