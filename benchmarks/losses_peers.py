"""BGE-M3's loss against FlagEmbedding's, forward and backward from the same embeddings.

    M3JAX_PEERS=PEERS/bin/python python -m benchmarks.losses_peers

64 queries of 32 tokens, 8 passages each of 256 tokens, 1,024 wide; on both sides the
sparse weights have no repeats. The two take turns, with two threads each. Memory: what
the process of FlagEmbedding grows by at its peak, and XLA's arguments, results and
temporaries of ours.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

B, G, I, J, E, VOCAB, TEMPERATURE = 64, 8, 32, 256, 1_024, 250_002, 0.02

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
    print(json.dumps([seconds, grown * 1024, float(loss)]), flush=True)
"""


def embeddings(seed: int = 0) -> dict[str, np.ndarray]:
    """What the heads of a model give, with padding; ids of a text are distinct."""
    rng = np.random.default_rng(seed)
    found: dict[str, np.ndarray] = {}
    for name, rows, length in (("query", B, I), ("passage", B * G, J)):
        lengths = rng.integers(length // 2, length + 1, rows)
        # One place more, for CLS, which has no vector.
        mask = np.arange(length + 1)[None] <= lengths[:, None]
        dense = rng.normal(size=(rows, E)).astype(np.float32)
        vectors = rng.normal(size=(rows, length, E)).astype(np.float32)
        for x in (dense, vectors):
            x /= np.linalg.norm(x, axis=-1, keepdims=True)
        ids = np.stack(
            [rng.choice(VOCAB - 4, length, replace=False) for _ in range(rows)]
        )
        weights = np.abs(rng.normal(size=(rows, length))).astype(np.float32)
        found[f"{name}_dense"] = dense
        found[f"{name}_vectors"] = vectors * mask[:, 1:, None]
        found[f"{name}_ids"] = ids.astype(np.int64) + 4
        found[f"{name}_weights"] = weights * mask[:, 1:]
        found[f"{name}_attention"] = mask.astype(np.int64)
    return found


def compare(peer: str, rounds: int, folder: Path) -> dict[str, float]:
    """Take turns, and say how much faster and smaller ours is."""
    import jax

    from m3jax import losses
    from m3jax.core.types import Embeddings, Multivec, Sparse

    data = embeddings()
    np.savez(folder / "data.npz", **data)  # type: ignore[arg-type]

    def side(name: str) -> Embeddings:
        found = Embeddings(
            data[f"{name}_dense"],
            Sparse(data[f"{name}_ids"].astype(np.int32), data[f"{name}_weights"]),
            Multivec(data[f"{name}_vectors"], data[f"{name}_attention"][:, 1:] > 0),
        )
        if name == "query":
            return jax.tree.map(jax.numpy.asarray, found)
        return jax.tree.map(
            lambda x: jax.numpy.asarray(x.reshape(B, G, *x.shape[1:])), found
        )

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
    ours, theirs, peak, loss = [], [], 0.0, 0.0
    for _ in range(rounds):
        process.stdin.write("\n")
        process.stdin.flush()
        seconds, peak, loss = json.loads(process.stdout.readline())
        theirs.append(seconds)
        start = time.perf_counter()
        value = jax.block_until_ready(compiled(*arrays))[0]
        ours.append(time.perf_counter() - start)
    process.stdin.close()
    process.wait()
    # The first round of each warms up.
    ratios = [t / o for t, o in zip(theirs[1:], ours[1:], strict=True)]
    return {
        "ours, s": statistics.median(ours[1:]),
        "FlagEmbedding, s": statistics.median(theirs[1:]),
        "speed": statistics.median(theirs[1:]) / statistics.median(ours[1:]),
        "least by round": min(ratios),
        "most by round": max(ratios),
        "our temporaries, bytes": memory.temp_size_in_bytes,
        "our results, bytes": memory.output_size_in_bytes,
        "their growth, bytes": peak,
        "loss": float(value),
        "their loss": loss,
    }


def main() -> None:
    """Print the comparison."""
    import tempfile

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peer", default=os.environ.get("M3JAX_PEERS"))
    parser.add_argument("--rounds", type=int, default=6)
    flags = parser.parse_args()
    if not flags.peer:
        sys.exit("set M3JAX_PEERS to a python with FlagEmbedding")
    with tempfile.TemporaryDirectory() as folder:
        for name, x in compare(flags.peer, flags.rounds, Path(folder)).items():
            print(
                f"{name}: {x:,.4g}"
                if "bytes" not in name
                else f"{name}: {x / 2**20:,.1f} MiB"
            )


if __name__ == "__main__":
    main()
