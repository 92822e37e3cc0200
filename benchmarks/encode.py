"""Passages per second beside sentence-transformers: same texts, weights and threads.

    python benchmarks/encode.py --model FOLDER --corpus corpus.jsonl.gz \
        --peer PEERS/bin/python --rounds 5 --threads 2

Both libraries stay in a process of their own and encode the whole corpus in turn, so
that a noisy machine is noisy for both. Printed: the median of each, the ratio of the
medians, and the least cosine between their embeddings. Float32, 256 tokens at most; the
first round, which compiles, is not counted.
"""

import argparse
import gzip
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

_ENCODE = {
    "m3jax": """
import m3jax
model = m3jax.Embedder.load(folder)
def encode():
    return model.encode_passage(texts, max_length=256, prompt="").dense
""",
    "sentence-transformers": """
import torch
torch.set_num_threads(threads)
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(folder, device="cpu")
model.max_seq_length = 256
def encode():
    return model.encode(texts, batch_size=batch_size, normalize_embeddings=True)
""",
}
_WORKER = """
import json, sys, time, warnings
import numpy as np
warnings.filterwarnings("ignore")
folder, texts_file, out, threads, batch_size = sys.argv[1:]
threads, batch_size = int(threads), int(batch_size)
texts = json.load(open(texts_file, encoding="utf-8"))
{encode}
print("ready", flush=True)
for line in sys.stdin:
    start = time.perf_counter()
    found = encode()
    print(time.perf_counter() - start, flush=True)
    np.save(out, found)
"""


def read(path: Path, limit: int | None) -> list[str]:
    """Passages of a BEIR corpus."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [f"{row.get('title', '')} {row['text']}".strip() for row in rows][:limit]


def start(name: str, python: str, *args: str, threads: int) -> subprocess.Popen[str]:
    """A process that encodes the corpus whenever a line comes."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": str(threads),
    }
    code = _WORKER.replace("{encode}", _ENCODE[name])
    process = subprocess.Popen(
        ["taskset", "-c", f"0-{threads - 1}", python, "-c", code, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", name
    return process


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--corpus", required=True, type=Path)
    parser.add_argument("--peer", required=True, help="python of the other library")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, help="passages, all by default")
    parser.add_argument("--peer-batch", type=int, default=32, help="their batch size")
    args = parser.parse_args()
    texts = read(args.corpus, args.limit)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps(texts), encoding="utf-8")
        outs = {name: Path(folder) / f"{name}.npy" for name in _ENCODE}
        pythons = {"m3jax": sys.executable, "sentence-transformers": args.peer}
        workers = {
            name: start(
                name,
                pythons[name],
                args.model,
                str(file),
                str(outs[name]),
                str(args.threads),
                str(args.peer_batch),
                threads=args.threads,
            )
            for name in _ENCODE
        }
        times: dict[str, list[float]] = {name: [] for name in workers}
        for number in range(args.rounds + 1):
            for name, worker in workers.items():
                assert worker.stdin is not None and worker.stdout is not None
                print(file=worker.stdin, flush=True)
                seconds = float(worker.stdout.readline())
                if number:  # the first one compiles
                    times[name].append(seconds)
                print(f"{name:22} {len(texts) / seconds:7.1f} passages/s", flush=True)
        time.sleep(0.5)  # the last file is being written
        for worker in workers.values():
            assert worker.stdin is not None
            worker.stdin.close()
            worker.wait()
        ours, theirs = (np.load(outs[name]) for name in _ENCODE)
    medians = {name: statistics.median(found) for name, found in times.items()}
    for name, median in medians.items():
        print(f"median {name:22} {len(texts) / median:7.1f} passages/s")
    rounds = zip(times["sentence-transformers"], times["m3jax"], strict=True)
    ratios = [other / own for other, own in rounds]
    speed = medians["sentence-transformers"] / medians["m3jax"]
    print(
        f"ratio of the medians {speed:.3f}; by round {min(ratios):.3f} to "
        f"{max(ratios):.3f}; least cosine {(ours * theirs).sum(-1).min():.8f}"
    )


if __name__ == "__main__":
    main()
