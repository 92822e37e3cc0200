"""Bitexts: those that are there are passed over, and one of a single pair is."""

from pathlib import Path

from m3jax.evaluation.outcomes import translations
from m3jax.evaluation.outcomes.settings import Settings
from m3jax.testing import write_jsonl
from tests.evaluation.sets import write_bitext
from tests.evaluation.stubs import hashed


def test_a_single_pair_is_left_out(tmp_path: Path) -> None:
    folder = write_bitext(tmp_path / "a")
    write_jsonl(folder / "eus.jsonl", [{"text": "gatza", "english": "salt"}])
    told: list[str] = []
    settings = Settings(say=told.append)
    found = translations.outcomes("a", hashed(), {"": folder}, settings)
    assert [one.label for one in found] == ["a, deu", "a, fra"]
    assert told == ["a, eus is left out: it is one pair, and cannot err"]


def test_what_is_done_is_not_read(tmp_path: Path) -> None:
    parts = {one: write_bitext(tmp_path / one) for one in ("x", "y")}
    for one in parts:
        (tmp_path / one / "deu.jsonl").write_text("damaged")
    done = {"a, x, deu", "a, y, deu"}
    found = translations.outcomes("a", hashed(), parts, Settings(), done=done)
    assert [one.label for one in found] == ["a, x, fra", "a, y, fra"]
