"""Files as they were when they were opened."""

from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.data.sources.stamps import stamp, unchanged


def test_a_file_that_goes_while_it_is_looked_at(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("{}")
    before = stamp(path)
    unchanged(before)
    path.unlink()
    monkeypatch.setattr(Path, "is_file", lambda self: True)  # a moment ago it was
    with pytest.raises(InputError, match="found none any more"):
        unchanged(before)
