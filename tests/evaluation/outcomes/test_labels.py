"""Texts with labels: all that a set is large enough for, and a note of the rest."""

from pathlib import Path

import pytest

from m3jax.evaluation import clustering
from m3jax.evaluation.outcomes import labels
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.testing import write_jsonl
from tests.evaluation.stubs import hashed


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means has tests of its own, and takes seconds."""
    found = {"v_measure": 0.5}
    monkeypatch.setattr(clustering, "measure", lambda *words, **options: found)


def write(folder: Path, **parts: str) -> Path:
    """A letter a row is its label."""
    folder.mkdir()
    for part, letters in parts.items():
        rows = [{"text": f"{part} {i}", "label": x} for i, x in enumerate(letters)]
        write_jsonl(folder / f"{part}.jsonl", rows)
    return folder


def measured(folder: Path, split: str = "test") -> tuple[dict, list, list[str], list]:
    told: list[str] = []
    settings = Settings(say=told.append)
    model = hashed()
    every = list(labels.outcomes("set", model, folder, settings, split=split))
    maps = [picture for _, picture in every if picture is not None]
    return {one.kind: one for one, _ in every}, maps, told, model.texts


def test_fewer_training_rows_than_neighbours(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", train="abab", test="abba")
    found, maps, _, _ = measured(folder)
    assert list(found) == ["classification", "zero_shot", "clustering"]
    probe = found["classification"]
    assert list(probe.values) == ["linear probe", "few-shot, 8", "4 neighbours"]
    assert "4 neighbours for 5: train has no more rows." in probe.notes
    assert len(maps[0].points) == 4
    enough = write(tmp_path / "enough", train="ababa", test="abba")
    probe = measured(enough)[0]["classification"]
    assert "5 neighbours" in probe.values
    assert not any("neighbours" in note for note in probe.notes)


@pytest.mark.parametrize(
    ("train", "test", "kinds", "note"),
    [
        (
            "ababa",
            "bbb",
            ["classification", "zero_shot"],
            "Not clustered, because all rows of test are 'b'.",
        ),
        ("ababa", "b", ["classification", "zero_shot"], "Not clustered, because all"),
        (
            "aaa",
            "abab",
            ["clustering"],
            "Not classified, because all rows of train are 'a'.",
        ),
    ],
)
def test_one_label_on_one_side(
    tmp_path: Path, train: str, test: str, kinds: list[str], note: str
) -> None:
    folder = write(tmp_path / "set", train=train, test=test)
    found, maps, told, _ = measured(folder)
    assert list(found) == kinds and told == []
    assert any(one.startswith(note) for one in found[kinds[0]].notes)
    assert len(maps) == (len(test) > 1 and "classification" in kinds)


def test_nothing_to_tell_apart(tmp_path: Path) -> None:
    found, _, told, read = measured(write(tmp_path / "set", train="aaa", test="bb"))
    assert not found and not read
    assert told == ["set is left out: train and test have one label each"]


def test_another_split(tmp_path: Path) -> None:
    folder = write(tmp_path / "set", train="ababab", test="ab", dev="abab")
    found, _, _, read = measured(folder, "dev")
    assert found["classification"].counts["test rows"] == 4
    assert "dev 3" in read and "test 0" not in read
