"""Who is told what when a process fails; the ends are in one process here."""

import json
import queue
import socket
import sys
import threading
from collections.abc import Sequence

import pytest

from m3jax.core import watch
from m3jax.core.watch import GONE, Failure, First, Other, verdict

BAD = Failure("expected a, found b", 2)
STOPPED = Failure("interrupted", 130, is_error=False)
Left = queue.Queue[tuple[tuple[str, ...], int]]


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> Left:
    """Instead of ending, each end puts here what it prints and its exit code."""
    found: Left = queue.Queue()

    def leave(lines: Sequence[str], code: int) -> None:
        found.put((tuple(lines), code))
        if threading.current_thread() is threading.main_thread():
            sys.exit()
        threading.Event().wait()  # a thread ends with its process

    monkeypatch.setattr(watch, "leave", leave)
    monkeypatch.setattr(watch, "_GRACE", 0.2)
    return found


def connect(first: First, token: str, process: int) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", first.port))
    hello = {"process": process, "token": token}
    connection.sendall(json.dumps(hello).encode() + b"\n")
    return connection


def read(connection: socket.socket) -> dict:
    with connection.makefile() as lines:
        return json.loads(lines.readline())


@pytest.mark.parametrize(
    ("failures", "lines", "code", "alike"),
    [
        ({0: BAD, 2: BAD, 1: BAD}, ["error: expected a, found b"], 2, True),
        ({0: BAD}, ["error: expected a, found b"], 2, False),
        ({0: BAD, 1: BAD}, ["error: processes 0, 1: expected a, found b"], 2, False),
        ({2: GONE}, [f"error: process 2: {GONE.message}"], 1, False),
        (
            {1: BAD, 0: STOPPED},
            ["error: process 1: expected a, found b", "interrupted"],
            2,
            False,
        ),
        ({0: STOPPED, 1: STOPPED, 2: STOPPED}, ["interrupted"], 130, True),
    ],
)
def test_what_is_told(failures, lines: list[str], code: int, alike: bool) -> None:
    found = verdict(failures, 3)
    assert [*found.lines] == lines
    assert (found.code, found.alike) == (code, alike)


def test_a_connection_that_breaks(left: Left, capfd: pytest.CaptureFixture) -> None:
    first = First(3)
    strange = connect(first, "guessed", 2)
    assert strange.recv(9) == b""  # shown the door, and no process
    strange.close()
    victim, other = connect(first, first.token, 1), connect(first, first.token, 2)
    victim.close()
    assert read(other)["stop"]["lines"] == [f"error: process 1: {GONE.message}"]
    other.close()
    assert left.get(timeout=9) == ((), 1)
    assert capfd.readouterr().err == f"error: process 1: {GONE.message}\n"
    first.close()


def test_others_that_fail_and_that_hear_of_it(
    left: Left, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "_PARTING", 1.0)
    first = First(3)
    ends = [Other(i, ("127.0.0.1", first.port), first.token) for i in (1, 2)]
    with pytest.raises(SystemExit):
        ends[0].fail(BAD)
    found = [left.get(timeout=9) for _ in range(4)]  # the first; the failed one twice
    assert found.count(((BAD.line(),), 2)) == 2
    assert (("stopped: process 1: expected a, found b",), 2) in found
    assert ((), 2) in found
    assert capfd.readouterr().err == "error: process 1: expected a, found b\n"
    first.close()


def test_who_parts_is_not_gone(left: Left) -> None:
    first = First(2)
    other = Other(1, ("127.0.0.1", first.port), first.token)
    other.close()
    first.close()
    other._connection.close()
    with pytest.raises(queue.Empty):
        left.get(timeout=0.6)


def test_the_first_is_gone(left: Left) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        other = Other(1, server.getsockname(), "token")
        connection, _ = server.accept()
        assert read(connection) == {"process": 1, "token": "token"}
        connection.close()
        assert left.get(timeout=9) == ((f"error: process 0: {GONE.message}",), 1)
        other.close()
