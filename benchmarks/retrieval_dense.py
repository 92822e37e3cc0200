"""Exact dense search beside faiss's flat index: time, memory, and the same results.

    python -m benchmarks.retrieval --only dense --peer PEERS/bin/python

Random vectors of length 1 lie in a file that both sides map; faiss copies them into its
index, which is not timed. Each side has a process of its own, and they take turns.
Memory is the peak of the process, what it maps and what was imported counted.
"""

import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.retrieval_process import PEAK, ask, end, start
from benchmarks.table import Row

QUERIES, WIDTH, K, BLOCK = 1_000, 384, 100, 100_000
ASKED = {1_000_000: ">= 0.9 x", 200_000: ">= 1.0 x"}
CLOSE = 1e-5  # scores that two orders of summing may tell apart in either way

OURS = """
from m3jax.inference.dense_search import top_k
def search():
    return top_k(query, passage, k)
"""
FAISS = """
import faiss
faiss.omp_set_num_threads(2)
index = faiss.IndexFlatIP(passage.shape[1])
index.add(passage)
def search():
    return index.search(query, k)
"""
WORKER = """
import json, sys, time
import numpy as np
folder, count, k = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
passage = np.load(folder + "/passage.npy", mmap_mode="r")[:count]
query = np.load(folder + "/query.npy")
{side}
{peak}
for line in sys.stdin:
    begun = time.perf_counter()
    scores, at = search()
    seconds = time.perf_counter() - begun
    np.savez(line.strip(), scores=scores, at=at)
    print(json.dumps([seconds, peak()]), flush=True)
"""


def rows(peer: str, sizes: list[int], rounds: int) -> Iterator[Row]:
    """Search corpora of some sizes.

    Args:
        peer: interpreter that has faiss.
        sizes: passages.
        rounds: turns of each side; one more warms up.
    """
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), max(sizes))
        for count in sizes:
            yield from _rows(peer, count, rounds, Path(folder))


def write(folder: Path, count: int) -> None:
    """Write random vectors of length 1, a block at a time."""
    for name, size in (("passage", count), ("query", QUERIES)):
        rng = np.random.default_rng([len(name), 0])
        shape, path = (size, WIDTH), folder / f"{name}.npy"
        file = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        for first in range(0, size, BLOCK):
            block = rng.standard_normal((min(BLOCK, size - first), WIDTH), np.float32)
            block /= np.linalg.norm(block, axis=1, keepdims=True)
            file[first : first + len(block)] = block
        file.flush()


def _rows(peer: str, count: int, rounds: int, folder: Path) -> Iterator[Row]:
    # An odd round begins with the other side.
    sides = {
        name: start(
            python,
            WORKER.format(side=code, peak=PEAK),
            *(str(folder), str(count), str(K)),
        )
        for name, python, code in (
            ("ours", sys.executable, OURS),
            ("theirs", peer, FAISS),
        )
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    peaks = dict.fromkeys(sides, 0)
    for number in range(rounds + 1):
        for name in sorted(sides, reverse=bool(number % 2)):
            taken, peaks[name] = ask(sides[name], str(folder / f"{name}.npz"))
            if number:  # the first one compiles
                seconds[name].append(taken)
            told = f"{count:,} passages, {name}: {taken:.2f} s"
            print(told, file=sys.stderr, flush=True)
    for process in sides.values():
        end(process)
    ours, theirs = (statistics.median(seconds[name]) for name in sides)
    by_round = sorted(
        other / own
        for own, other in zip(seconds["ours"], seconds["theirs"], strict=True)
    )
    name = f"dense, {QUERIES:,} queries x {count:,} x {WIDTH}, top {K}, faiss"
    yield Row(
        f"{name}, time",
        f"{ours:.2f} s",
        f"{theirs:.2f} s",
        f"{theirs / ours:.2f} ({by_round[0]:.2f} to {by_round[-1]:.2f})",
        ASKED.get(count, ""),
    )
    corpus = count * WIDTH * 4
    yield Row(
        f"{name}, peak memory of the process",
        f"{peaks['ours'] / 1e6:,.0f} MB",
        f"{peaks['theirs'] / 1e6:,.0f} MB",
        f"corpus + {(peaks['ours'] - corpus) / 1e6:,.0f} MB",
        "<= corpus + 1,000 MB",
    )
    yield _same(name, *(np.load(folder / f"{side}.npz") for side in sides))


def _same(name: str, ours: np.lib.npyio.NpzFile, theirs: np.lib.npyio.NpzFile) -> Row:
    """Whether both have found the same passages, with the same scores."""
    apart = np.abs(ours["scores"] - theirs["scores"]).max()
    swapped = other_places(ours["at"], ours["scores"], theirs["at"])
    return Row(
        f"{name}, results",
        f"{ours['at'].size - swapped:,} of {ours['at'].size:,} places the same",
        "",
        f"scores {apart:.0e} apart",
        f"the same; scores {CLOSE:.0e}",
    )


def other_places(at: np.ndarray, scores: np.ndarray, expected: np.ndarray) -> int:
    """Count the places that have another passage; refuse any that is no near tie.

    Args:
        at: passage numbers that were found, `[q k]`.
        scores: of the same places.
        expected: those that are right.

    Returns:
        How many differ. All of these stand within 1e-5 of a neighbour's score or of
        the last one's, where another order of summing puts them otherwise.
    """
    other = at != expected
    for row in np.flatnonzero(other.any(axis=1)):
        where = dict(zip(at[row].tolist(), scores[row].tolist(), strict=True))
        for place in np.flatnonzero(other[row]):
            # One that we have left out may only miss the end.
            own = where.get(int(expected[row, place]), float(scores[row, -1]))
            assert abs(own - scores[row, place]) <= CLOSE, (row, place)
    return int(other.sum())
