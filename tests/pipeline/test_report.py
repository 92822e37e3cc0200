"""What a finished run prints."""

import json
from pathlib import Path
from typing import Any

import pytest

from m3jax.pipeline import report


def stage(folder: Path, before: float, after: float, **sets: str) -> Path:
    sizes = dict.fromkeys(sets, "40 queries, 40 passages")
    rows: dict[str, Any] = {
        "before training": {"ndcg@10": before},
        "after training (step 3)": {"ndcg@10": after},
        "BM25": {"ndcg@10": 0.5},
    }
    results = dict.fromkeys(sets, rows)
    folder.mkdir(parents=True)
    report.finish(folder, {"step": 3, "results": results, "sizes": sizes, "sets": sets})
    return folder


def test_stages_share_a_table_where_they_share_a_set(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Sets of one size are not one set."""
    stages = {
        "one": stage(tmp_path / "one", 0.1, 0.2, dev="ab", test="ef"),
        "two": stage(tmp_path / "two", 0.3, 0.4, dev="cd", test="ef"),
        "three": stage(tmp_path / "three", 0.6, 0.7, dev="cd"),
    }
    report.show(tmp_path, stages)
    said = capsys.readouterr().out
    tables = said.split(" set")
    assert len(tables) == 4
    assert tables[0].strip() == "dev" and tables[1].startswith(" of one")
    assert "before one" in tables[1] and "two" not in tables[1]
    assert tables[2].startswith(" of two, three") and "before two" in tables[2]
    assert "after two" in tables[2] and "after three" in tables[2]
    assert "before three" not in tables[2] and "before one" not in tables[2]
    assert "after one" in tables[3] and "after two" in tables[3]


def test_the_next_command_is_one_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs = stage(tmp_path / "run", 0.1, 0.2, test="ab")
    report.show(logs, {"train": logs})
    found = json.loads((logs / "results.json").read_text())
    found["sizes"]["test"] = "9 graded pairs"
    report.finish(logs, found)
    report.show(logs, {"train": logs})
    report.show(logs, {"train": logs}, reranks=True)
    said = capsys.readouterr().out.splitlines()
    searches = [line for line in said if "m3jax.search" in line]
    assert len(searches) == 2
    assert "--corpus" not in searches[0] and "--corpus FILE" in searches[1]
    assert said[-1].startswith("rerank  python -m m3jax.rerank --model")


def test_several_stages_in_one_file(tmp_path: Path) -> None:
    stages = {
        "one": stage(tmp_path / "one", 0.1, 0.2, dev="ab", test="ef"),
        "two": stage(tmp_path / "two", 0.3, 0.4, dev="cd", test="ef"),
        "three": stage(tmp_path / "three", 0.6, 0.7, dev="cd"),
    }
    report.summarize(tmp_path, stages)
    found = json.loads((tmp_path / "results.json").read_text())["stages"]
    assert list(found) == list(stages)
    for name, logs in stages.items():
        assert found[name] == json.loads((logs / "results.json").read_text())
    drawn = {path.name for path in (tmp_path / "plots").iterdir()}
    # One stage alone is no curve.
    assert drawn == {"dev-three.png", "test.png"}
