"""Texts in the cells of a table."""

import pytest

from m3jax.core.show import print_table, shorten


def test_long_passages_are_cut() -> None:
    assert shorten("name\n\n  code\nmore") == "name\n  code…"
    assert shorten("name\ncode\n") == "name\ncode"
    assert shorten("x" * 201) == "x" * 200 + "…"


def test_a_title_is_cut_and_steers_no_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_table("q" * 900, ("id", "text"), [("a\0b", "\x1b[2Jc\td")])
    out = capsys.readouterr().out
    assert out.count("q") == 200 and "…" in out
    assert "a\ufffdb" in out and "\ufffd[2Jc" in out
    assert "\0" not in out and "\x1b" not in out


def test_brackets_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("[bold]all[/bold]", ("score>", "text"), [("0.5", "a [red]hill[/red]")])
    out = capsys.readouterr().out
    assert "[bold]all[/bold]" in out
    assert "a [red]hill[/red]" in out
