"""Several real processes of the training program, as on several hosts."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit code, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines that say why; the libraries below have lines of their own."""
        words = ("error: ", "stopped: ", "interrupted", "Traceback")
        return [line for line in self.err.splitlines() if line.startswith(words)]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def launch(
    folders: Sequence[Path], *words: str, devices: int = 1
) -> list[subprocess.Popen]:
    """Start one process in each folder, a group of its own each."""
    flags = os.environ.get("XLA_FLAGS", "")
    if devices > 1:
        flags += f" --xla_force_host_platform_device_count={devices}"
    address = f"127.0.0.1:{free_port()}"
    joined = ["--coordinator", address, "--processes", f"{len(folders)}"]
    command = [sys.executable, "-m", "m3jax.train", "--config", "tiny.py", *joined]
    return [
        subprocess.Popen(
            [*command, "--process", f"{number}", *words],
            cwd=folder,
            env=os.environ | {"XLA_FLAGS": flags},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for number, folder in enumerate(folders)
    ]


def ended(processes: Sequence[subprocess.Popen], seconds: float = 300) -> list[Ended]:
    """Wait for all; none may be left after so many seconds."""
    until = time.monotonic() + seconds
    found = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=max(until - time.monotonic(), 0.1))
            found.append(Ended(process.returncode, out, err))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.communicate()
    return found
