"""All figures of the losses and scores, as one table.

    M3JAX_PEERS=PEERS/bin/python TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu \
        python -m benchmarks.losses [--rounds 5] [--only scores memory]

M3JAX_PEERS names an interpreter with FlagEmbedding, and `libtpu` is needed to compile
for a TPU (`pip install m3jax[tpu]`); rows that need what is not there are left out, and
a line says so. Takes some minutes, in which nothing else should run.
"""

import argparse
import importlib.util
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator

import jax

from benchmarks import losses_memory, losses_peers, losses_pod, losses_scores
from benchmarks.table import Row, show

_IMPORT = """
import time
import jax, jax.numpy
start = time.perf_counter()
import m3jax.losses
print(time.perf_counter() - start)
import sys
print(*[x for x in ("flax", "transformers", "grain", "torch") if x in sys.modules])
"""


def imports(rounds: int) -> Iterator[Row]:
    """Seconds that the losses need to be imported, over those of jax."""
    found = []
    for _ in range(rounds):
        done = subprocess.run(
            [sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True
        )
        seconds, heavy = done.stdout.split("\n")[:2]
        assert not heavy, heavy
        found.append(float(seconds))
    name = "import m3jax.losses over jax, without flax, transformers, grain, torch"
    yield Row(name, f"{statistics.median(found):.3f} s", target="<= 0.2 s")


def pod(_: int) -> Iterator[Row]:
    """What a pod slice needs, compiled ahead of time."""
    if importlib.util.find_spec("libtpu") is None:
        print("left out, libtpu is not installed: pod", file=sys.stderr)
        return
    yield from losses_pod.rows()


def peers(rounds: int) -> Iterator[Row]:
    """The whole of BGE-M3's loss beside FlagEmbedding's."""
    peer = losses_scores.peer()
    if peer is None:
        print("left out, M3JAX_PEERS is not set: FlagEmbedding", file=sys.stderr)
        return
    yield from losses_peers.rows(rounds + 1, peer)


PARTS: dict[str, Callable[[int], Iterator[Row]]] = {
    "memory": lambda rounds: iter(losses_memory.rows(rounds)),
    "scores": lambda rounds: iter(losses_scores.rows(rounds, losses_scores.peer())),
    "peers": peers,
    "pod": pod,
    "imports": imports,
}


def positive(text: str) -> int:
    """A number of rounds, of which a median can be taken."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected 1 or more, found {text}")
    return int(text)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    flags = parser.parse_args()
    peer = losses_scores.peer()
    if peer is not None and shutil.which(peer) is None:
        parser.error(f"M3JAX_PEERS: expected an interpreter, found {peer}")
    load = os.getloadavg()[0]
    print(
        f"Python {platform.python_version()}, jax {jax.__version__}, "
        f"{os.cpu_count()} cores, load average {load:.1f} at the start.\n"
    )
    show(row for name in flags.only for row in PARTS[name](flags.rounds))


if __name__ == "__main__":
    main()
