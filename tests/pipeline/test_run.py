import errno
import json
from importlib import metadata
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig
from m3jax.data.training_sets import open_data
from m3jax.pipeline import run
from m3jax.testing import write_jsonl

CONFIG = {"train": {"seed": 0, "steps": 3}}
LINEAGE = {"train": {"data": {"train": {"rows": 2, "fingerprint": "ab"}}}}


def start(folder: Path, config: dict = CONFIG, lineage: dict = LINEAGE, fresh=False):
    run.check_folder(folder, config, fresh=fresh)
    run.open_folder(folder, config, lineage, fresh=fresh)


def test_a_run_goes_on_under_its_own_config(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(folder)
    (folder / "metrics.jsonl").write_text("kept")
    start(folder)
    assert (folder / "metrics.jsonl").read_text() == "kept"
    with pytest.raises(InputError, match=r"train\.seed: 0 -> 1"):
        start(folder, {"train": {"seed": 1, "steps": 3}})


def test_another_mesh_is_no_other_run(tmp_path: Path) -> None:
    """Nor are sub-batches or rematerialisation: the same comes out."""

    def config(fsdp: int, remat: str, dtype: str = "float32") -> dict:
        encoder = {"remat": remat, "dtype": dtype}
        stage = {"mesh": {"fsdp": fsdp}, "sub_batches": {"count": fsdp}}
        return {"train": {"seed": 0, "model": {"encoder": encoder}, **stage}}

    start(tmp_path / "run", config(8, "none"))
    start(tmp_path / "run", config(4, "full"))
    with pytest.raises(InputError) as error:
        start(tmp_path / "run", config(2, "dots", "bfloat16"))
    assert "dtype: float32 -> bfloat16" in str(error.value)
    assert "fsdp" not in str(error.value) and "remat" not in str(error.value)


def test_what_has_begun_has_something_to_lose(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(folder)
    (folder / "train/tokenizer").mkdir(parents=True)
    assert not run.has_begun(folder) and not run.has_begun(tmp_path / "none")
    (folder / "train/checkpoints/2").mkdir(parents=True)
    assert run.has_begun(folder)


def test_fresh_removes_the_run_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    start(folder)
    (folder / "metrics.jsonl").write_text("old")
    (tmp_path / "beside").write_text("kept")
    start(folder, {"train": {"seed": 1}}, fresh=True)
    assert {path.name for path in folder.iterdir()} == {"config.json", "lineage.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"run", "beside"}


@pytest.mark.parametrize("fresh", [True, False])
def test_a_link_stays_a_link(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "large disk").mkdir()
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "large disk")
    for _ in range(2):
        start(link, fresh=fresh)
    assert link.is_symlink() and (tmp_path / "large disk" / "lineage.json").exists()


def test_a_mount_point_is_emptied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It can be neither moved nor removed."""

    def busy(self: Path, target: Path) -> Path:
        raise OSError(errno.EBUSY, "Device or resource busy", str(self), str(target))

    folder = tmp_path / "run"
    start(folder)
    (folder / "train" / "checkpoints").mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("old")
    monkeypatch.setattr(Path, "rename", busy)
    start(folder, {"train": {"seed": 1}}, fresh=True)
    assert {path.name for path in folder.iterdir()} == {"config.json", "lineage.json"}
    (tmp_path / "empty").mkdir()
    start(tmp_path / "empty", fresh=True)


def test_fresh_spares_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match="other things in it"):
        start(tmp_path, fresh=True)
    assert (tmp_path / "thesis.tex").exists()


def test_another_programs_config_makes_no_run(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "thesis.tex").write_text("years of work")
    for fresh in (False, True):
        with pytest.raises(InputError, match="other things in it"):
            start(tmp_path, fresh=fresh)
    assert (tmp_path / "thesis.tex").exists()


@pytest.mark.parametrize("left", [[], [".config.json.9.tmp"], ["config.json"]])
def test_killed_in_the_first_moment(tmp_path: Path, left: list[str]) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    for name in left:
        (folder / name).write_text('{"train": {"seed": 0, "steps": 3}}')
    start(folder)
    assert (folder / "lineage.json").exists()


def test_two_programs_do_not_share_a_folder(tmp_path: Path) -> None:
    start(tmp_path / "run")
    with run.locked(tmp_path / "run"):
        with pytest.raises(InputError, match="no other program works in, found one"):
            with run.locked(tmp_path / "run"):
                pass
        with run.locked(tmp_path / "none"), run.locked(tmp_path):
            pass
    with run.locked(tmp_path / "run"):
        pass
    assert not list((tmp_path / "run").glob(".*"))


def test_other_data_is_noticed(tmp_path: Path) -> None:
    start(tmp_path / "run")
    changed = {"train": {"data": {"train": {"rows": 2, "fingerprint": "cd"}}}}
    with pytest.raises(InputError, match=r"data\.train\.fingerprint: ab -> cd"):
        start(tmp_path / "run", lineage=changed)
    path = tmp_path / "run" / "lineage.json"
    whole = json.loads(path.read_text())
    # Another version of a library, or of the code, is no reason to stop, but is noted.
    whole |= {"versions": {"jax": "9"}, "git": "abc"}
    path.write_text(json.dumps(whole))
    start(tmp_path / "run")
    start(tmp_path / "run")
    again = json.loads(path.read_text())
    assert again["git"] == "abc" and len(again["starts"]) == 1
    assert again["starts"][0]["versions"]["jax"] == metadata.version("jax")


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    def fingerprint(*rows: dict) -> str:
        # Each time another file, written at another time.
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        path = write_jsonl(folder / "a.jsonl", rows)
        config = DataConfig(
            train=str(path), dev="builtin", batch_size=1, cache=str(folder)
        )
        return run.describe(open_data(config), None)["data"]["train"]["fingerprint"]

    one, two = {"query": "a", "pos": ["b"]}, {"query": "c", "pos": ["d"], "neg": ["e"]}
    other = two | {"neg": ["f"]}
    assert fingerprint(one, two) == fingerprint(one, two)
    given = [(one, two), (two, one), (one,), (one, other), (one, one)]
    assert len({fingerprint(*rows) for rows in given}) == len(given)


def test_weights_of_the_parent_are_asked_for_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def weights() -> str:
        asked.append("0a1b")
        return asked[-1]

    for _ in range(2):
        run.check_folder(tmp_path / "run", CONFIG, fresh=False)
        run.open_folder(
            tmp_path / "run", CONFIG, LINEAGE, fresh=False, weights={"train": weights}
        )
    whole = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert whole["stages"]["train"]["parent_weights"] == "0a1b" and len(asked) == 1


def test_other_stages_are_named_and_no_more(tmp_path: Path) -> None:
    start(tmp_path / "run", {"a": {"seed": 1}, "b": {"seed": 2}})
    said = r"this run was made with: a, b, found train\. Name another --run-dir"
    with pytest.raises(InputError, match=said):
        run.check_folder(tmp_path / "run", {"train": {"seed": 1}}, fresh=False)
