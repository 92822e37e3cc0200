import json
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data.corpora import passages


def test_ids_that_come_twice_are_counted(tmp_path: Path):
    file = tmp_path / "a.jsonl"
    names = ["a", "b", "c", "d", "b", "a", "e", "b", "c", "d"]
    rows = [json.dumps({"_id": name, "text": name}) for name in names]
    file.write_text("\n".join(rows))
    found = []
    with pytest.raises(InputError) as caught:
        for name, _ in passages(file):
            found.append(name)
    assert found == ["a", "b", "c", "d"]
    assert caught.value.where == f"{file}:5: _id"
    assert caught.value.found == "4 again: 'b', 'a', 'c', ..."


def test_numbers_of_lines_never_come_twice(tmp_path: Path):
    (tmp_path / "a.txt").write_text("salt\nsalt\n")
    assert list(passages(tmp_path / "a.txt")) == [("1", "salt"), ("2", "salt")]
