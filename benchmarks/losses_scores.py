"""Time and memory of scores with their gradients: sparse, and MaxSim.

    M3JAX_PEERS=PEERS/bin/python python -m benchmarks.losses --only scores [--rounds 5]

Sparse scores beside FlagEmbedding's own functions in PyTorch, which run in a process of
the interpreter that M3JAX_PEERS names; without it those rows are left out. MaxSim
beside the plain form, all products and a maximum, differentiated by jax. Both sides
compute in turn from the same numbers, and are compared first. Times are medians, a
ratio is one of medians. Memory is what XLA counts as temporary (`memory_analysis`), for
PyTorch the growth of the process's peak.
"""

import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Row
from m3jax.core.types import Multivec, Sparse
from m3jax.ops import scores

VOCABULARY = 250_002
THREADS = 2

_PEER = """
import sys, time
from types import SimpleNamespace
import numpy as np, torch
from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (
    EncoderOnlyEmbedderM3Model as Model,
)
folder, mode, threads, vocabulary = sys.argv[1:]
torch.set_num_threads(int(threads))
given = {k: torch.from_numpy(v) for k, v in np.load(folder + "/given.npz").items()}
model = SimpleNamespace(
    sparse_linear=torch.nn.Identity(),
    training=mode == "training",
    vocab_size=int(vocabulary),
    tokenizer=SimpleNamespace(
        cls_token_id=0, pad_token_id=1, eos_token_id=2, unk_token_id=3
    ),
)
def embed(name, weights):
    return Model._sparse_embedding(model, weights.unsqueeze(-1), given[name + "_ids"])
def run():
    query, passage = (
        given[name + "_weights"].requires_grad_(model.training)
        for name in ("query", "passage")
    )
    query.grad = passage.grad = None
    score = embed("query", query) @ embed("passage", passage).T
    if not model.training:
        return [score]
    (score * given["cotangent"]).sum().backward()
    return [score.detach(), query.grad, passage.grad]
def memory(line):
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) / 1024 for x in file if x.startswith(line))
before = memory("VmRSS")
found = run()
print(memory("VmHWM") - before, flush=True)
np.savez(folder + "/found.npz", *[x.numpy() for x in found])
print("ready", flush=True)
for _ in sys.stdin:
    start = time.perf_counter()
    run()
    print(time.perf_counter() - start, flush=True)
"""


def peer() -> str | None:
    """The interpreter that has FlagEmbedding, if one is named."""
    return os.environ.get("M3JAX_PEERS") or None


def sparse_text(rng: np.random.Generator, texts: int, tokens: int) -> Sparse:
    """Texts with repeats and padding; CLS, EOS and padding weigh 0."""
    ids = rng.zipf(1.2, (texts, tokens)) * 7919 % (VOCABULARY - 4) + 4
    weights = rng.random((texts, tokens)) + 1e-3
    real = np.arange(tokens) < rng.integers(tokens // 2, tokens + 1, (texts, 1))
    ids, weights = np.where(real, ids, 1), np.where(real, weights, 0)
    ids[:, 0], weights[:, 0] = 0, 0
    return Sparse(jnp.int32(ids), jnp.float32(weights))


def multivec_text(
    rng: np.random.Generator, texts: int, tokens: int, width: int
) -> Multivec:
    """Vectors of length 1, half of the tokens or more are real."""
    vectors = rng.normal(size=(texts, tokens, width))
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    mask = np.arange(tokens) < rng.integers(tokens // 2, tokens + 1, (texts, 1))
    vectors = np.where(mask[:, :, None], vectors, 0)
    return Multivec(jnp.float32(vectors), jnp.asarray(mask))


def compiled(function: Callable, *arguments: Any) -> tuple[Callable, float]:
    """The program, and its temporaries in MiB."""
    program = jax.jit(function).lower(*arguments).compile()
    analysis = program.memory_analysis()
    assert analysis is not None
    return program, analysis.temp_size_in_bytes / 2**20


def timed(program: Callable, *arguments: Any, times: int = 1) -> float:
    """Seconds, the median of some runs."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        jax.block_until_ready(program(*arguments))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def same(found: Any, expected: Any, tolerance: float = 1e-4) -> None:
    """Refuse to compare the times of different numbers."""
    for one, other in zip(found, expected, strict=True):
        scale = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def sparse_gradient(
    query: Sparse, passage: Sparse, cotangent: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Scores, and gradients by both weights."""

    def score(mine: jax.Array, theirs: jax.Array) -> jax.Array:
        return scores.sparse(Sparse(query.ids, mine), Sparse(passage.ids, theirs))

    found, back = jax.vjp(score, query.weights, passage.weights)
    return found, *back(cotangent)


def sparse_alone(rounds: int) -> list[Row]:
    """64 queries of 32 tokens against 512 passages of 512, value and gradient."""
    rng = np.random.default_rng(0)
    query, passage = sparse_text(rng, 64, 32), sparse_text(rng, 512, 512)
    given = query, passage, jnp.float32(rng.normal(size=(64, 512)))
    program, memory = compiled(sparse_gradient, *given)
    timed(program, *given)
    seconds = timed(program, *given, times=5 * rounds)
    name = "sparse + gradient, 64 x 32 against 512 x 512 tokens"
    return [
        Row(f"{name}, time", f"{1e3 * seconds:.1f} ms", "", "", "<= 50 ms"),
        Row(f"{name}, memory", f"{memory:.1f} MiB", "", "", "<= 64 MB"),
    ]


def sparse_beside_flagembedding(rounds: int, python: str, mode: str) -> list[Row]:
    """Its training ([B L V], backward) or inference ([B V], forward) beside ours.

    Args:
        rounds: runs of each, in turn.
        python: interpreter that has FlagEmbedding.
        mode: "training" or "inference".
    """
    rng = np.random.default_rng(1)
    training = mode == "training"
    (q, i), (p, j) = ((8, 128), (16, 128)) if training else ((64, 32), (512, 512))
    query, passage = sparse_text(rng, q, i), sparse_text(rng, p, j)
    cotangent = jnp.float32(rng.normal(size=(q, p)))
    given = (query, passage, cotangent) if training else (query, passage)
    program, memory = compiled(sparse_gradient if training else scores.sparse, *given)
    found = program(*given)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder) / "given.npz",
            query_ids=np.int64(query.ids),
            query_weights=query.weights,
            passage_ids=np.int64(passage.ids),
            passage_weights=passage.weights,
            cotangent=cotangent,
        )
        command = [python, "-c", _PEER, folder, mode, str(THREADS), str(VOCABULARY)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as worker:
            assert worker.stdin is not None and worker.stdout is not None
            their_memory = float(worker.stdout.readline())
            assert worker.stdout.readline() == "ready\n"
            theirs = np.load(Path(folder) / "found.npz")
            same(found if training else [found], theirs.values())
            times: list[tuple[float, float]] = []
            for _ in range(rounds):
                print(file=worker.stdin, flush=True)
                seconds = float(worker.stdout.readline())
                times.append((timed(program, *given, times=5), seconds))
            worker.stdin.close()
    ours, other = map(statistics.median, zip(*times, strict=True))
    what = "+ gradient" if training else "inference"
    name = f"sparse {what}, {q} x {i} against {p} x {j} tokens, FlagEmbedding"
    return [
        Row(
            f"{name}, time",
            f"{1e3 * ours:.1f} ms",
            f"{1e3 * other:.0f} ms",
            f"{other / ours:.0f} x faster",
            ">= 50 x",
        ),
        Row(
            f"{name}, memory",
            f"{memory:.1f} MiB",
            f"{their_memory:.0f} MiB",
            f"1/{their_memory / memory:.0f}",
            "<= 1/100" if training else "",
        ),
    ]


def plain_maxsim(query: Multivec, passage: Multivec) -> jax.Array:
    """MaxSim as it is written down."""
    products = jnp.einsum(
        "qie,pje->qpij",
        query.vectors,
        passage.vectors,
        precision=jax.lax.Precision.HIGHEST,
    )
    nearest = jnp.where(passage.mask[None, :, None], products, -jnp.inf).max(3)
    total = jnp.where(query.mask[:, None], nearest, 0).sum(2)
    return total / query.mask.sum(1)[:, None]


def maxsim(rounds: int) -> list[Row]:
    """64 queries of 32 tokens against 512 passages of 256, 128 wide, beside plain."""
    rng = np.random.default_rng(2)
    query, passage = multivec_text(rng, 64, 32, 128), multivec_text(rng, 512, 256, 128)
    cotangent = jnp.float32(rng.normal(size=(64, 512)))

    def gradient(form: Callable) -> Callable:
        def run(query: Multivec, passage: Multivec, cotangent: jax.Array) -> Any:
            def score(mine: jax.Array, theirs: jax.Array) -> jax.Array:
                return form(Multivec(mine, query.mask), Multivec(theirs, passage.mask))

            found, back = jax.vjp(score, query.vectors, passage.vectors)
            return found, *back(cotangent)

        return run

    given = query, passage, cotangent
    plain, plain_memory = compiled(gradient(plain_maxsim), *given)
    tiled, memory = compiled(gradient(scores.multivec), *given)
    same(tiled(*given), plain(*given))
    times = [(timed(tiled, *given), timed(plain, *given)) for _ in range(rounds)]
    ours, other = map(statistics.median, zip(*times, strict=True))
    name = "MaxSim + gradient, 64 x 32 against 512 x 256 tokens, plain"
    return [
        Row(
            f"{name}, time",
            f"{ours:.2f} s",
            f"{other:.2f} s",
            f"{ours / other:.2f}",
            "<= 0.5",
        ),
        Row(
            f"{name}, memory",
            f"{memory:.1f} MiB",
            f"{plain_memory:.0f} MiB",
            f"1/{plain_memory / memory:.0f}",
            "<= 1/50",
        ),
    ]


def rows(rounds: int, python: str | None) -> list[Row]:
    """The whole table."""
    found = sparse_alone(rounds) + maxsim(rounds)
    if python is not None:
        for mode in ("training", "inference"):
            found += sparse_beside_flagembedding(rounds, python, mode)
    return found
