import signal
from collections.abc import Iterator

import pytest

from m3jax.training import preemption


@pytest.fixture(autouse=True)
def handler() -> Iterator[None]:
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(preemption.os, "_exit", found.append)
    return found


def test_outside_of_the_loop_it_ends_at_once(
    ended: list[int], capfd: pytest.CaptureFixture[str]
) -> None:
    with preemption.leaving():
        signal.raise_signal(signal.SIGTERM)
    assert ended == [0]
    said = capfd.readouterr().err
    assert said.count("run the same command again") == said.count("\n") == 1


def test_in_the_loop_it_waits_for_the_step(ended: list[int]) -> None:
    with preemption.leaving(), preemption.watch() as stop:
        assert not stop(1)
        signal.raise_signal(signal.SIGTERM)
        assert stop(2) and not ended
    with preemption.leaving():
        with preemption.watch():
            pass
        signal.raise_signal(signal.SIGTERM)
    assert ended == [0]


def test_what_comes_after_the_last_step_is_not_forgotten(ended: list[int]) -> None:
    with preemption.leaving():
        with preemption.watch() as stop:
            assert not stop(1)
            signal.raise_signal(signal.SIGTERM)  # in the last evaluation
            assert not ended
        assert ended == [0]
