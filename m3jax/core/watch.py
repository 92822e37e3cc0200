"""The failure of one process ends all: who learns of it, and what each one prints.

Every process keeps a connection to the first one. It carries the reason of a failure;
and when a process is killed, its system closes the connection at once.
"""

import hmac
import json
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol

# Seconds for those that fail for the same reason: it is then told once.
_GRACE = 1.5
# Seconds for the others to hear of it.
_PARTING = 5.0
_CONNECT = 10.0
_HELLO = 30.0


@dataclass(frozen=True)
class Failure:
    """Why a process ends.

    Attributes:
        message: the reason.
        code: exit code.
        is_error: whether it is one; to be interrupted is none.
    """

    message: str
    code: int
    is_error: bool = True

    def line(self, who: str = "") -> str:
        """What the user is told.

        Example:
            >>> Failure("expected a, found b", 2).line("process 3")
            'error: process 3: expected a, found b'
        """
        word = "error: " if self.is_error else ""
        return f"{word}{who}: {self.message}" if who else f"{word}{self.message}"


GONE = Failure("gone without a word: killed, out of memory, or its host is lost", 1)


@dataclass(frozen=True)
class Verdict:
    """What is told of all failures.

    Attributes:
        lines: of the first process.
        code: exit code of those that have not failed themselves.
        alike: whether all processes failed, and for the same reason.
    """

    lines: tuple[str, ...]
    code: int
    alike: bool


def verdict(failures: Mapping[int, Failure], processes: int) -> Verdict:
    """Put failures in words: each reason once, with the processes that have it.

    Args:
        failures: of each process, in the order in which they came; at least one.
        processes: how many there are.

    Returns:
        The verdict.

    Example:
        >>> bad = Failure("expected a, found b", 2)
        >>> verdict({0: bad, 1: bad}, 2)
        Verdict(lines=('error: expected a, found b',), code=2, alike=True)
        >>> verdict({3: bad, 2: bad}, 4).lines
        ('error: processes 2, 3: expected a, found b',)
    """
    reasons: dict[Failure, list[int]] = {}
    for process, failure in failures.items():
        reasons.setdefault(failure, []).append(process)
    alike = len(failures) == processes and len(reasons) == 1
    lines = []
    for failure, who in reasons.items():
        word = "process" if len(who) == 1 else "processes"
        named = f"{word} {', '.join(map(str, sorted(who)))}"
        # What the first process says of itself needs no name.
        lines.append(failure.line("" if alike or who == [0] else named))
    return Verdict(tuple(lines), next(iter(failures.values())).code, alike)


class Watch(Protocol):
    """One end of the connections."""

    def fail(self, failure: Failure) -> NoReturn:
        """Tell the others why this process ends, and end it."""
        ...

    def close(self) -> None:
        """Part from the others; what they do then is their own business."""
        ...


class First:
    """The end of the first process: it hears of every failure, and decides.

    Args:
        processes: how many there are.
    """

    def __init__(self, processes: int) -> None:
        self._processes = processes
        self.token = secrets.token_hex(16)
        self._failures: dict[int, Failure] = {}
        self._connected: dict[int, socket.socket] = {}
        self._parted: set[int] = set()
        self._change = threading.Condition()
        self._server = listen(0)
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def fail(self, failure: Failure) -> NoReturn:
        """See `Watch`."""
        self._report(0, failure)
        while True:  # the thread that decides ends the process
            time.sleep(60)

    def close(self) -> None:
        """See `Watch`."""
        with self._change:
            self._change.wait_for(
                lambda: self._parted >= self._connected.keys(), _PARTING
            )
            self._parted |= self._connected.keys()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:  # closed
                return
            threading.Thread(
                target=self._listen, args=(connection,), daemon=True
            ).start()

    def _listen(self, connection: socket.socket) -> None:
        process = None
        try:
            with connection, connection.makefile(encoding="utf-8") as lines:
                connection.settimeout(_HELLO)
                hello = _read(lines.readline())
                if not hmac.compare_digest(str(hello.get("token")), self.token):
                    return  # somebody else's
                process = int(hello["process"])
                connection.settimeout(None)
                _keep_alive(connection)
                with self._change:
                    self._connected[process] = connection
                for line in lines:
                    told = _read(line)
                    if "failure" in told:
                        self._report(process, Failure(**told["failure"]))
                    elif "parted" in told:
                        self._part(process)
        except (OSError, ValueError, KeyError):
            pass
        if process is not None and process not in self._parted:
            self._report(process, GONE)  # unless it has told why
            self._part(process)

    def _part(self, process: int) -> None:
        with self._change:
            self._parted.add(process)
            self._change.notify_all()

    def _report(self, process: int, failure: Failure) -> None:
        with self._change:
            if process in self._failures:
                return
            self._failures[process] = failure
            self._change.notify_all()
            if len(self._failures) == 1:
                threading.Thread(target=self._decide, daemon=True).start()

    def _decide(self) -> None:
        with self._change:
            self._change.wait_for(
                lambda: len(self._failures) == self._processes, _GRACE
            )
            found = verdict(self._failures, self._processes)
            for connection in self._connected.values():
                _send(connection, {"stop": found.__dict__})
            _tell(found.lines)
            # This process is what the others are connected to: it is the last to go.
            self._change.wait_for(
                lambda: self._parted >= self._connected.keys(), _PARTING
            )
        leave((), found.code)


class Other:
    """The end of any other process.

    Args:
        process: its number.
        address: host and port of the first.
        token: of the first.

    Raises:
        OSError: the first cannot be reached.
    """

    def __init__(self, process: int, address: tuple[str, int], token: str) -> None:
        self._failure: Failure | None = None
        self._parted = False
        self._connection = socket.create_connection(address, _CONNECT)
        self._connection.settimeout(None)
        _keep_alive(self._connection)
        _send(self._connection, {"process": process, "token": token})
        threading.Thread(target=self._listen, daemon=True).start()

    def fail(self, failure: Failure) -> NoReturn:
        """See `Watch`."""
        self._failure = failure
        _send(self._connection, {"failure": failure.__dict__})
        time.sleep(_PARTING)  # the answer ends the process
        leave([failure.line()], failure.code)

    def close(self) -> None:
        """See `Watch`."""
        self._parted = True
        _send(self._connection, {"parted": True})

    def _listen(self) -> None:
        try:
            connection = self._connection
            with connection, connection.makefile(encoding="utf-8") as lines:
                for line in lines:
                    told = _read(line)
                    if "stop" in told:
                        self._stop(Verdict(**told["stop"]))
        except (OSError, ValueError):
            pass
        if not self._parted:
            failure = self._failure
            leave([failure.line() if failure else GONE.line("process 0")], GONE.code)

    def _stop(self, found: Verdict) -> NoReturn:
        failure = self._failure
        if failure is not None:
            leave(() if found.alike else [failure.line()], failure.code)
        # Each host has a console, or a log, of its own.
        errors = [line for line in found.lines if line.startswith("error: ")]
        leave([line.replace("error", "stopped", 1) for line in errors], found.code)


def listen(port: int) -> socket.socket:
    """A server at a port of this host, on all of its addresses; 0 = any free port.

    Raises:
        OSError: the port is taken.

    Example:
        >>> listen(0).close()
    """
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=dual)


def leave(lines: Sequence[str], code: int) -> NoReturn:
    """End this process now, whatever its other threads are waiting for.

    Args:
        lines: printed on stderr.
        code: exit code.
    """
    _tell(lines)
    os._exit(code)


def _tell(lines: Sequence[str]) -> None:
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            pass
    # A progress bar hides the cursor, and cannot clean up behind itself.
    cursor = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""
    text = cursor + "".join(f"{line}\n" for line in lines)
    try:
        os.write(2, text.encode(errors="replace"))
    except OSError:
        pass


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(message).encode() + b"\n")
    except OSError:
        pass  # it is gone, which the one who listens notices


def _read(line: str) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise ValueError(line)
    return found


def _keep_alive(connection: socket.socket) -> None:
    """Let the system ask whether the other host is there: 25 seconds if it is lost."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("IDLE", 10), ("INTVL", 5), ("CNT", 3)):
        if (option := getattr(socket, f"TCP_KEEP{name}", None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
