"""Texts in the cells of a table."""

import pytest

from m3jax.core.show import print_table, shorten


def test_long_passages_are_cut() -> None:
    assert shorten("name\n\n  code\nmore") == "name\n  code…"
    assert shorten("name\ncode\n") == "name\ncode"
    assert shorten("x" * 201) == "x" * 200 + "…"


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[bold]all[/bold]", ("score>", "text"), [("0.5", "a [red]hill[/red]")])
    out = capsys.readouterr().out
    assert "[bold]all[/bold]" in out
    assert "a [red]hill[/red]" in out
