"""A server that is down, slow or busy: tried again, then a clear stop, then completed.

The server here speaks Qdrant's REST interface and hands every request to an embedded
Qdrant, unless it was told to fail.
"""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from m3jax.core.errors import InputError
from m3jax.inference import qdrant_calls
from m3jax.inference.encoded import Encoded
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.qdrant import Uploaded, connect, search, upload
from m3jax.inference.sparse_rows import SparseRows

ABOUT: dict[str, str | int] = {"model": "random"}
CORPUS = {f"p{i}": f"text {i}" for i in range(12)}
UNIT = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
UNIT /= np.linalg.norm(UNIT, axis=1, keepdims=True)
PASSAGES = Encoded(
    UNIT,
    SparseRows.from_tokens(np.arange(12)[:, None], np.ones((12, 1)), 12),
    MultivecRows(UNIT, np.arange(13)),
)
QUERIES = PASSAGES[:3]
SLEEP = time.sleep


class Server(ThreadingHTTPServer):
    """Fails as often as it was told, each time in the way that comes next."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.qdrant = QdrantClient(":memory:")
        self.lock = threading.Lock()
        self.failures: list[Any] = []
        self.fails: Callable[[str, str], bool] = lambda method, path: True
        self.requests: list[str] = []
        self.keys: set[str | None] = set()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone away is no error."""


class Handler(BaseHTTPRequestHandler):
    server: Server  # type: ignore[assignment]

    def do_GET(self) -> None:
        self.answer()

    do_PUT = do_POST = do_GET

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server, path = self.server, self.path.partition("?")[0]
        server.keys.add(self.headers.get("api-key"))
        server.requests.append(f"{self.command} {path}")
        failure = None
        if server.failures and server.fails(self.command, path):
            failure = server.failures.pop(0)
        if isinstance(failure, tuple):
            return self.send(*failure)
        if failure == "slow":
            SLEEP(1.2)
        elif failure == "drop":
            return None
        with server.lock:
            result = self.result(path, json.loads(body or "null"))
        if failure != "lost":  # done, but nobody hears of it
            self.send(200, {"result": result, "status": "ok", "time": 0.0})
        return None

    def send(
        self, status: int, content: Any, headers: dict[str, str] | None = None
    ) -> None:
        raw = (
            content.encode()
            if isinstance(content, str)
            else json.dumps(content).encode()
        )
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def result(self, path: str, body: Any) -> Any:
        here, name = self.server.qdrant, path.split("/")[2]
        match self.command, path.split("/")[3:]:
            case "GET", ["exists"]:
                return {"exists": here.collection_exists(name)}
            case "GET", []:
                return here.get_collection(name).model_dump(mode="json")
            case "PUT", []:
                made = models.CreateCollection(**body)
                return here.create_collection(
                    name,
                    vectors_config=made.vectors,  # type: ignore[arg-type]
                    sparse_vectors_config=made.sparse_vectors,
                    metadata=made.metadata,
                )
            case "POST", ["points"]:
                asked = models.PointRequest(**body)
                fields: Any = asked.with_payload
                found = here.retrieve(name, asked.ids, with_payload=fields)
                return [point.model_dump(mode="json") for point in found]
            case "PUT", ["points"]:
                here.upsert(name, models.PointsList(**body).points)
                return {"status": "completed"}
            case "POST", ["points", "query", "batch"]:
                queries = models.QueryRequestBatch(**body).searches
                for query in queries:
                    query.params = None  # an embedded Qdrant is exact
                found = here.query_batch_points(name, queries)
                return [answer.model_dump(mode="json") for answer in found]
        raise AssertionError(f"{self.command} {path}")

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(qdrant_calls, "WAITS", (0.0,) * 5)
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_server_does_as_an_embedded_one(server: Server) -> None:
    here, there = connect(":memory:"), connect(server.address)
    for client in (here, there):
        options: Any = {"about": ABOUT, "batch": 5}
        done = upload(client, "c", CORPUS, PASSAGES, **options)
        assert done == Uploaded(12, 0)
        done = upload(client, "c", CORPUS, PASSAGES, **options)
        assert done == Uploaded(0, 12)
    modes: Any = "dense", "sparse", "multivec", "dense+sparse", "hybrid", "rrf"
    for mode in modes:
        found = search(there, "c", QUERIES, mode=mode)
        assert found == search(here, "c", QUERIES, mode=mode)
        assert [row[0][0] for row in found] == ["p0", "p1", "p2"]
    assert server.requests.count("PUT /collections/c/points") == 3
    there.close()


def busy(status: int) -> tuple[Any, ...]:
    return status, {"status": {"error": "not now"}}


@pytest.mark.parametrize(
    "failures",
    [
        [busy(503)] * 5,
        [busy(500), "drop", busy(429), "lost", busy(408)],
        ["drop"] * 5,
        ["lost"] * 5,
    ],
)
@pytest.mark.parametrize("path", ["c", "c/points", "c/exists"])
def test_tried_again(server: Server, path: str, failures: list[Any]) -> None:
    """Whichever request fails, and wherever it is lost, all is there once."""
    server.failures = list(failures)
    server.fails = lambda method, to: to == f"/collections/{path}"
    client = connect(server.address)
    done = upload(client, "c", CORPUS, PASSAGES, about=ABOUT, batch=5)
    assert done == Uploaded(12, 0)
    assert server.failures == []
    assert server.qdrant.count("c").count == 12
    server.failures = list(failures)
    server.fails = lambda method, to: to.endswith("batch")
    assert [row[0][0] for row in search(client, "c", QUERIES)] == ["p0", "p1", "p2"]
    assert server.failures == []
    client.close()


def test_slow(server: Server) -> None:
    server.failures = ["slow"]
    server.fails = lambda method, path: path.endswith("points")
    client = connect(server.address, timeout=1)
    done = upload(client, "c", CORPUS, PASSAGES, about=ABOUT)
    assert done == Uploaded(12, 0)
    assert server.requests.count("PUT /collections/c/points") == 2
    client.close()


def test_down_from_the_start(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
        client = connect(address)
        message = (
            f"'c': expected a Qdrant server that answers, found Connect.* at {address}"
            r".*, 6 times\. Is the server running\?"
        )
        for ask in (
            lambda: upload(client, "c", CORPUS, PASSAGES, about=ABOUT),
            lambda: search(client, "c", QUERIES),
        ):
            with pytest.raises(InputError, match=message) as error:
                ask()
            assert "\n" not in str(error.value)
            waits = capsys.readouterr().err.splitlines()
            assert len(waits) == 5
            assert waits[0].startswith(f"collection 'c': ConnectError at {address}")
            assert waits[0].endswith("; trying again in 0 s")
    client.close()


@pytest.mark.parametrize(
    ("failure", "found"),
    [(busy(503), "503 Service Unavailable: not now"), ("drop", "RemoteProtocolError")],
)
@pytest.mark.parametrize(
    ("method", "options", "there"),
    [
        ("PUT", {"batch": 4}, 4),
        ("POST", {"batch": 4}, 8),  # the question what is there of the third batch
        ("PUT", {"request_bytes": 1}, 1),
    ],
)
def test_down_in_the_middle(
    server: Server, method: str, options: Any, there: int, failure: Any, found: str
) -> None:
    client = connect(server.address)
    written = 0

    def fails(command: str, path: str) -> bool:
        nonlocal written
        written += command == "PUT"
        return written > 2 and command == method and path == "/collections/c/points"

    server.failures, server.fails = [failure] * 6, fails
    options = {"about": ABOUT} | options
    message = (
        rf"collection 'c': expected a Qdrant server that answers, found {found}.*, "
        rf"6 times\. Is the server running\? {there} passages are in it; the same "
        "call again goes on from"
    )
    with pytest.raises(InputError, match=message):
        upload(client, "c", CORPUS, PASSAGES, **options)
    assert server.qdrant.count("c").count == there
    again = upload(client, "c", CORPUS, PASSAGES, **options)
    assert again == Uploaded(sent=12 - there, kept=there)
    assert server.qdrant.count("c").count == 12
    client.close()


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (
            (401, "Invalid api key"),
            "expected a request .*, found 401 .*: Invalid api k",
        ),
        (busy(400), "found 400 Bad Request: not now$"),
        ((413, ""), r"found 413 .*\. Keep fewer tokens .* max_request_size_mb"),
        ((200, {"result": [1]}), "found ValidationError: "),
        ((200, "<html>"), "expected an answer of Qdrant, found JSONDecodeE"),
    ],
)
def test_refused_at_once(server: Server, failure: Any, message: str) -> None:
    server.failures = [failure] * 2
    server.fails = lambda method, path: method == "PUT"
    client = connect(server.address)
    with pytest.raises(InputError, match=message) as error:
        upload(client, "c", CORPUS, PASSAGES, about=ABOUT)
    assert len(server.failures) == 1 and "\n" not in str(error.value)
    client.close()


def test_waits(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as long each time, or as long as the server says, but no hour."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(qdrant_calls, "WAITS", (0.5, 1.0, 2.0, 4.0))
    server.failures = [
        busy(503),
        (429, {"status": {"error": ""}}, {"Retry-After": "7"}),
        (429, "", {"Retry-After": "9999"}),
        (429, "", {"Retry-After": "Fri, 31 Dec 1999 23:59:59 GMT"}),
    ]
    client = connect(server.address)
    with pytest.raises(InputError, match="a collection of this name, found none"):
        search(client, "c", QUERIES)
    assert slept == [0.5, 7.0, 60.0, 4.0]
    client.close()


def test_key_is_sent(server: Server) -> None:
    with pytest.warns(UserWarning, match="insecure connection"):
        client = connect(server.address, api_key="secret")
    assert not server.requests  # nothing before it is asked for
    upload(client, "c", CORPUS, PASSAGES, about=ABOUT)
    assert server.keys == {"secret"}
    client.close()


def test_a_server_that_keeps_no_record(server: Server) -> None:
    """Before 1.16 Qdrant had no metadata of collections."""
    create = server.qdrant.create_collection
    server.qdrant.create_collection = lambda *a, metadata, **o: create(*a, **o)  # type: ignore
    client = connect(server.address)
    with pytest.raises(InputError, match=r"server must be Qdrant 1\.16 or newer"):
        upload(client, "c", CORPUS, PASSAGES, about=ABOUT)
    client.close()
