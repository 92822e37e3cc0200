import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from m3jax.training import notice

SECONDS = 20.0


@pytest.fixture
def told() -> Iterator[threading.Event]:
    """Whether SIGTERM came."""
    found = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: found.set())
    yield found
    signal.signal(signal.SIGTERM, before)


class Metadata:
    """A metadata server: what it was asked, and what it says.

    Args:
        failures: numbers of the requests that it has no answer to; the notice is
            given before the answer to the one after the last of them.
    """

    def __init__(self, *failures: int) -> None:
        self.asked: list[str] = []
        self.waited = threading.Event()
        self.preempted = threading.Event()
        self.failures = failures

    def answer(self, path: str, flavor: str | None) -> tuple[int, str]:
        if flavor != "Google":
            return 403, "no Metadata-Flavor"
        self.asked.append(path)
        if len(self.asked) in self.failures:
            return 503, "busy"
        if self.failures and len(self.asked) > max(self.failures):
            self.preempted.set()
        known = f"last_etag={int(self.preempted.is_set())}"
        if "wait_for_change=true" in path and path.endswith(known):
            self.waited.set()
            assert self.preempted.wait(SECONDS)
        return 200, "TRUE\n" if self.preempted.is_set() else "FALSE\n"


@contextmanager
def serve(server: Metadata) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = server.answer(self.path, self.headers["Metadata-Flavor"])
            self.send_response(code)
            self.send_header("ETag", f"{int(server.preempted.is_set())}")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        server.preempted.set()
        http.shutdown()
        http.server_close()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notice, "_AGAIN", 0.01)
    monkeypatch.setattr(notice, "_PAUSE", 0.01)


def test_the_notice_becomes_sigterm(
    told: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Metadata()
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with serve(server) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with notice.listen():
            assert server.waited.wait(SECONDS)
            assert not told.is_set()
            server.preempted.set()
            assert told.wait(SECONDS)
    assert [path.partition("?")[0] for path in server.asked] == [
        "/computeMetadata/v1/instance/preempted"
    ] * 2


@pytest.mark.parametrize("failures", [(1,), (1, 2), (2,), (2, 3)])
def test_a_notice_that_comes_while_the_server_does_not_answer(
    failures: tuple[int, ...],
    told: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = Metadata(*failures)
    with serve(server) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with notice.listen():
            assert told.wait(SECONDS)
    assert not server.waited.is_set(), "waited for what had come"


def test_a_notice_given_before(
    told: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Metadata()
    server.preempted.set()
    with serve(server) as host:
        monkeypatch.setenv("GCE_METADATA_HOST", host)
        with notice.listen():
            assert told.wait(SECONDS)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("product", "host"),
    [
        ("Google Compute Engine\n", "metadata.google.internal"),
        ("Google\n", "metadata.google.internal"),
        ("ProLiant\n", None),
        (None, None),
    ],
)
def test_whose_machine_it_is(
    product: str | None,
    host: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GCE_METADATA_HOST", raising=False)
    file = tmp_path / "product_name"
    if product is not None:
        file.write_text(product)
    monkeypatch.setattr(notice, "_PRODUCT", file)
    assert notice._host() == host
