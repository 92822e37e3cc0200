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
    """A metadata server: what it was asked, and what it says."""

    def __init__(self, failures: int = 0) -> None:
        self.asked: list[str] = []
        self.waited = threading.Event()
        self.preempted = threading.Event()
        self.failures = failures

    def answer(self, path: str, flavor: str | None) -> tuple[int, str]:
        if flavor != "Google":
            return 403, "no Metadata-Flavor"
        self.asked.append(path)
        if self.failures:
            self.failures -= 1
            return 503, "busy"
        if "wait_for_change=true" in path:
            self.waited.set()
            assert self.preempted.wait(SECONDS)
        return 200, "TRUE\n" if self.preempted.is_set() else "FALSE\n"


@contextmanager
def serve(server: Metadata) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            code, text = server.answer(self.path, self.headers["Metadata-Flavor"])
            self.send_response(code)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{http.server_port}"
    finally:
        server.preempted.set()
        http.shutdown()
        http.server_close()


def test_the_notice_becomes_sigterm(
    told: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Metadata(failures=1)
    monkeypatch.setattr(notice, "_AGAIN", 0.01)
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
    ] * 3


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
