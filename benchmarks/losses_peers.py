"""BGE-M3's loss against FlagEmbedding's, forward and backward from the same embeddings.

    M3JAX_PEERS=PEERS/bin/python python -m benchmarks.losses --only peers

64 queries of 32 tokens, 8 passages each of 256 tokens, 1,024 wide; on both sides the
sparse weights have no repeats. The two take turns, with two threads each. Memory: what
the process of FlagEmbedding grows by at its peak, and what XLA counts as temporary of
ours, both without the embeddings and the gradients by them; then with the gradients.
"""

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.table import Row
from m3jax import losses
from m3jax.core.types import Embeddings, Multivec, Sparse

B, G, E, VOCAB, TEMPERATURE = 64, 8, 1_024, 250_002, 0.02
SIDES = ("query", B, 32), ("passage", B * G, 256)  # texts, tokens

PEER = """
import json, sys, time
from types import SimpleNamespace
import numpy as np, torch
from FlagEmbedding.finetune.embedder.encoder_only.m3.modeling import (
    EncoderOnlyEmbedderM3Model as M3)
torch.set_num_threads(2)
data = {name: torch.tensor(x) for name, x in np.load(sys.argv[1]).items()}
model = M3.__new__(M3)
torch.nn.Module.__init__(model)
model.temperature, model.unified_finetuning = float(sys.argv[2]), True
model.use_self_distill, model.self_distill_start_step, model.step = True, -1, 0
model.negatives_cross_device, model.kd_loss_type, model.use_mrl = False, "kl_div", False
model.cross_entropy = torch.nn.CrossEntropyLoss()
model.encode = lambda part: part
model._get_queries_attention_mask = lambda part: data["query_attention"]
model.train()
def pooled(name):
    table = torch.zeros(len(data[name + "_ids"]), int(sys.argv[3]))
    return table.scatter_(1, data[name + "_ids"], data[name + "_weights"])
sides = [
    [data[name + "_dense"], pooled(name), data[name + "_vectors"]]
    for name in ("query", "passage")
]
for side in sides:
    for x in side:
        x.requires_grad_()
def peak():
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith("VmHWM"))
before = peak()
for line in sys.stdin:
    for side in sides:
        for x in side:
            x.grad = None
    start = time.perf_counter()
    loss = model(tuple(sides[0]), tuple(sides[1])).loss
    loss.backward()
    seconds = time.perf_counter() - start
    grown = peak() - before
    kept = sum(x.grad.nbytes for side in sides for x in side)
    print(json.dumps([seconds, grown * 1024, kept, float(loss.detach())]), flush=True)
"""


def embeddings(seed: int = 0) -> dict[str, np.ndarray]:
    """What the heads of a model give, with padding; ids of a text are distinct."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, count, length in SIDES:
        lengths = rng.integers(length // 2, length + 1, count)
        # One place more, for CLS, which has no vector.
        mask = np.arange(length + 1)[None] <= lengths[:, None]
        dense = rng.normal(size=(count, E)).astype(np.float32)
        vectors = rng.normal(size=(count, length, E)).astype(np.float32)
        for x in (dense, vectors):
            x /= np.linalg.norm(x, axis=-1, keepdims=True)
        ids = np.stack(
            [rng.choice(VOCAB - 4, length, replace=False) for _ in range(count)]
        )
        weights = np.abs(rng.normal(size=(count, length))).astype(np.float32)
        found[f"{name}_dense"] = dense
        found[f"{name}_vectors"] = vectors * mask[:, 1:, None]
        found[f"{name}_ids"] = ids.astype(np.int64) + 4
        found[f"{name}_weights"] = weights * mask[:, 1:]
        found[f"{name}_attention"] = mask.astype(np.int64)
    return found


def rows(rounds: int, peer: str) -> list[Row]:
    """Take turns, and say how much faster and smaller ours is.

    Args:
        rounds: one more than what counts, for the first one warms up.
        peer: interpreter that has FlagEmbedding.
    """
    with tempfile.TemporaryDirectory() as folder:
        return _rows(rounds, peer, Path(folder))


def _rows(rounds: int, peer: str, folder: Path) -> list[Row]:
    data = embeddings()
    np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]

    def side(name: str) -> Embeddings:
        found = Embeddings(
            data[f"{name}_dense"],
            Sparse(data[f"{name}_ids"].astype(np.int32), data[f"{name}_weights"]),
            Multivec(data[f"{name}_vectors"], data[f"{name}_attention"][:, 1:] > 0),
        )
        if name == "query":
            return jax.tree.map(jnp.asarray, found)
        return jax.tree.map(lambda x: jnp.asarray(x.reshape(B, G, *x.shape[1:])), found)

    def mean(query: Embeddings, passage: Embeddings) -> jax.Array:
        found = losses.m3(
            query, passage, temperature=TEMPERATURE, distill=1.0, compat="flagembedding"
        )
        return found.loss.mean()

    arrays = side("query"), side("passage")
    step = jax.jit(jax.value_and_grad(mean, (0, 1), allow_int=True))
    compiled = step.lower(*arrays).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    command = [peer, "-c", PEER, str(folder / "data.npz"), str(TEMPERATURE), str(VOCAB)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert process.stdin is not None and process.stdout is not None
    ours, theirs, peak, kept, loss, value = [], [], 0.0, 0.0, 0.0, 0.0
    for _ in range(rounds):
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, peak, kept, loss = json.loads(process.stdout.readline())
        theirs.append(seconds)
        start = time.perf_counter()
        value = jax.block_until_ready(compiled(*arrays))[0]
        ours.append(time.perf_counter() - start)
    process.stdin.close()
    process.wait()
    # The first round of each warms up.
    mine, other = statistics.median(ours[1:]), statistics.median(theirs[1:])
    ratios = sorted(t / o for t, o in zip(theirs[1:], ours[1:], strict=True))
    np.testing.assert_allclose(value, loss, rtol=1e-4)
    name = "m3, all heads, 64 queries x 512 passages, FlagEmbedding"
    gradients = memory.output_size_in_bytes
    return [
        Row(
            f"{name}, time",
            f"{mine:.2f} s",
            f"{other:.2f} s",
            f"{other / mine:.2f} x faster ({ratios[0]:.2f} to {ratios[-1]:.2f})",
            ">= 1.5 x",
        ),
        memory_row(
            f"{name}, memory without gradients",
            memory.temp_size_in_bytes,
            peak - kept,
            "<= 1/8",
        ),
        memory_row(
            f"{name}, memory with gradients of the embeddings",
            memory.temp_size_in_bytes + gradients,
            peak,
            "",
        ),
    ]


def memory_row(name: str, ours: float, other: float, target: str) -> Row:
    """Two sizes in bytes."""
    return Row(
        name,
        f"{ours / 2**20:.0f} MiB",
        f"{other / 2**20:.0f} MiB",
        f"1/{other / ours:.1f}",
        target,
    )
