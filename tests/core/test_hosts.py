"""Who says that there are several hosts."""

import http.server
import threading
from collections.abc import Iterator

import pytest

from m3jax.core import hosts

SLURM = {
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_NODELIST": "node[1-2]",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}
MPI = {"OMPI_MCA_orte_hnp_uri": "1.0;tcp://10.0.0.1:1", "OMPI_COMM_WORLD_SIZE": "2"}
CASES = [
    ({}, None),
    (SLURM, "Slurm"),
    (SLURM | {"SLURM_NTASKS": "1"}, None),
    # The script of sbatch itself, which no task is.
    ({k: v for k, v in SLURM.items() if k != "SLURM_STEP_NODELIST"}, None),
    (MPI, "Open MPI"),
    (MPI | {"OMPI_COMM_WORLD_SIZE": "1"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b"}, "Cloud TPU"),
    ({"TPU_WORKER_HOSTNAMES": "localhost"}, None),
    ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, "Cloud TPU"),
    ({"TPU_WORKER_HOSTNAMES": "a", "MEGASCALE_NUM_SLICES": "2"}, "Cloud TPU"),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "cpu"}, None),
    ({"TPU_WORKER_HOSTNAMES": "a,b", "JAX_PLATFORMS": "tpu,cpu"}, "Cloud TPU"),
]


@pytest.mark.parametrize(("environ", "expected"), CASES)
def test_variables(
    environ: dict[str, str], expected: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_has_chips", lambda: False)
    assert hosts.scheduler(environ) == expected


@pytest.fixture
def metadata() -> Iterator[tuple[str, list[bytes]]]:
    """A server that answers as the one of a TPU VM, with what the list holds."""
    answers: list[bytes] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = "instance/attributes/worker-network-endpoints"
            found = answers and self.path.endswith(asked)
            found = found and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(answers[0] if found else b"a,b,c")

        def log_message(self, *_: object) -> None:  # pyright: ignore
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}", answers
        server.shutdown()


def test_workers_of_a_tpu_vm(
    metadata: tuple[str, list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hosts, "_has_chips", lambda: True)
    server, answers = metadata
    environ = {"GCE_METADATA_IP": server}
    assert hosts.scheduler(environ) is None  # 404
    answers.append(b"unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2")
    assert hosts.scheduler(environ) == "Cloud TPU"
    assert hosts.scheduler(environ | {"TPU_SKIP_MDS_QUERY": "1"}) is None
    answers[0] = b"unknown:unknown:10.0.0.1"
    assert hosts.scheduler(environ) is None
    assert hosts.scheduler({"GCE_METADATA_IP": "127.0.0.1:1"}) is None  # nobody there
