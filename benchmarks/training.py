r"""Training beside sentence-transformers: same pairs, weights, recipe and threads.

    python -m benchmarks.training --model FOLDER --data BEIR_FOLDER \
        --peer PEERS/bin/python [--only parity] [--rounds 5]

FOLDER is an embedding model, BEIR_FOLDER has a `train.jsonl.gz` of pairs beside corpus,
queries and judgements. The two trainers, each in a process of its own, take turns of
`--steps` updates, so that a noisy machine is noisy for both. Float32, 256 tokens at
most, InfoNCE at 0.05, AdamW at 2e-5 under a linear schedule.

    speed   batch 32, each library drawing its own batches
    cached  batch 512, encoded 32 at a time (theirs: CachedMultipleNegativesRankingLoss)
    parity  200 updates on the same batches in the same order, then nDCG@10 of both
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import jax
from jax.sharding import Mesh

from m3jax.core.mesh import make_mesh
from m3jax.core.types import Batch, Params
from m3jax.data import batching, pipeline, plan
from m3jax.data.batches import Batcher
from m3jax.data.config import DataConfig
from m3jax.data.draws import Dice
from m3jax.data.examples import TrainingSet, example
from m3jax.data.training_sets import measure, open_data
from m3jax.hub import folder as folders
from m3jax.nn.embedding import EmbeddingModule
from m3jax.pipeline.build import build
from m3jax.pipeline.learner import Learner, make_learner
from m3jax.pipeline.origin import in_shape_of, open_origin
from m3jax.pipeline.stage import Train
from m3jax.training.abstract import abstract_batch
from m3jax.training.ahead import compile_step
from m3jax.training.checkpoint import Checkpoints
from m3jax.training.loop import Loop, train
from m3jax.training.objectives import ContrastiveConfig, SubBatches
from m3jax.training.optimizer import OptimizerConfig
from m3jax.training.state import TrainState, new_state
from m3jax.training.step import Step
from m3jax.training.writer import Writer, read

LENGTH, PART, TEMPERATURE, RATE, WARMUP, SEED = 256, 32, 0.05, 2e-5, 0.1, 0
TOLD = "benchmark "


@dataclass
class Case:
    """What is compared, and what is asked for."""

    name: str
    batch: int
    steps: int
    every: int
    in_order: bool = False


@dataclass
class Round:
    """What some updates took; tokens with and without padding."""

    seconds: float
    read: int
    padded: int


class Peer:
    """The other trainer, in its own process."""

    def __init__(self, python: str, settings: dict[str, Any], folder: Path) -> None:
        file = folder / "settings.json"
        file.write_text(json.dumps(settings), encoding="utf-8")
        script = Path(__file__).with_name("training_peer.py")
        self._process = subprocess.Popen(
            [python, str(script), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"HF_HUB_OFFLINE": "1"},
        )
        self._told()

    def _told(self) -> dict[str, Any]:
        out: IO[str] = self._process.stdout  # type: ignore[assignment]
        for line in out:
            if line.startswith(TOLD):
                return json.loads(line.removeprefix(TOLD))
        raise SystemExit("the other trainer ended early; see above")

    def turn(self) -> Round:
        """Let it take a round."""
        to: IO[str] = self._process.stdin  # type: ignore[assignment]
        to.write("\n")
        to.flush()
        return Round(**self._told())

    def end(self) -> None:
        """Wait until its model is saved."""
        self._told()
        self._process.wait()


class Turns:
    """Our step, before each round of which the other trainer has its turn."""

    def __init__(self, step: Step, every: int, peer: Peer) -> None:
        self._step, self._every, self._peer = step, every, peer
        self._metrics: list[dict[str, jax.Array]] = []
        self._since, self._padded = 0.0, 0
        self.ours: list[Round] = []
        self.theirs: list[Round] = []

    def __call__(self, state: TrainState, batch: Batch) -> Any:
        """Take a step, and end the round where this was its last."""
        if not self._metrics:
            self.theirs.append(self._peer.turn())
            self._since, self._padded = time.perf_counter(), 0
        state, metrics = self._step(state, batch)
        self._metrics.append(metrics)
        self._padded += sum(tokens.ids.size for tokens in batch.texts)
        if len(self._metrics) == self._every:
            jax.block_until_ready(state.params)
            seconds = time.perf_counter() - self._since
            tokens = sum(int(one["tokens"]) for one in self._metrics)
            self.ours.append(Round(seconds, tokens, self._padded))
            self._metrics = []
            print(
                f"round {len(self.ours)}: ours {seconds:.1f} s, theirs "
                f"{self.theirs[-1].seconds:.1f} s",
                flush=True,
            )
        return state, metrics


def config(case: Case, model: str, data: Path) -> Train:
    """The recipe."""
    return Train(
        init=model,
        data=DataConfig(
            train=str(data / "train.jsonl.gz"),
            dev=str(data),
            batch_size=case.batch,
            query_length=LENGTH,
            passage_length=LENGTH,
        ),
        objective=ContrastiveConfig(temperature=TEMPERATURE),
        sub_batches=SubBatches(count=case.batch // PART),
        optimizer=OptimizerConfig(learning_rate=RATE, warmup=WARMUP, weight_decay=0.0),
        steps=case.steps,
        seed=SEED,
    )


def run(case: Case, model: str, data: Path, python: str, folder: Path) -> None:
    """Train both by turns, and print what came out."""
    stage = config(case, model, data)
    origin = open_origin(stage)
    assert origin is not None
    tokenizer = origin.tokenizer
    stage = in_shape_of(stage, origin.config, origin.prompts)
    mesh = make_mesh(stage.mesh)
    learner = make_learner(stage, tokenizer, mesh)
    module = learner.module
    assert isinstance(module, EmbeddingModule)
    opened = open_data(stage.data)
    sets = measure(stage.data, opened, tokenizer)
    planned = batching.make_plan(
        stage.data, sets, seed=SEED, multiple=stage.sub_batches.count
    )
    lasting = planned.lasting(case.steps)
    pairs = folder / "pairs.jsonl"
    order = plan.batches(lasting, 0, case.steps) if case.in_order else None
    write_pairs(pairs, sets[0], order)

    built = build(stage, mesh, None, case.steps)
    start = time.perf_counter()
    for shape, rows in zip(lasting.shapes, lasting.sizes, strict=True):
        batch = abstract_batch(
            mesh,
            rows,
            1,
            query_length=shape.query_length,
            passage_length=shape.passage_length,
        )
        compile_step(built.step, built.like, batch)
    shapes, seconds = len(lasting.shapes), time.perf_counter() - start
    print(f"{case.name}: {shapes} shapes compiled in {seconds:.0f} s", flush=True)

    out = folder / "theirs"
    settings = {
        "model": model,
        "pairs": str(pairs),
        "out": str(out),
        "batch": case.batch,
        "part": PART,
        "length": LENGTH,
        "temperature": TEMPERATURE,
        "learning_rate": RATE,
        "warmup": WARMUP,
        "steps": case.steps,
        "every": case.every,
        "in_order": case.in_order,
        "seed": SEED,
        "threads": os.cpu_count(),
    }
    peer = Peer(python, settings, folder)
    turns = Turns(built.step, case.every, peer)
    state = new_state(
        built.start, built.objective, built.tx, built.like, SEED,
        params=origin.read(mesh),
    )  # fmt: skip
    batcher = Batcher(
        sets,
        lasting,
        tokenizer,
        {size: pipeline.local_rows(mesh, size) for size in set(lasting.sizes)},
    )
    stream = pipeline.Stream(batcher, mesh, start=0, stop=case.steps, workers=1)
    checkpoints = Checkpoints(folder / "checkpoints", None, stage.checkpoints)
    writer = Writer(folder, 0)
    end = train(
        state,
        turns,
        stream,
        Loop(steps=case.steps, evaluate_every=case.steps, about={}),
        evaluators={},
        checkpoints=checkpoints,
        writer=writer,
    )
    stream.close()
    writer.close()
    checkpoints.close()
    peer.end()
    report(case, turns, [row for row in read(folder) if "loss" in row])
    if case.in_order:
        compare(learner, end.state.params, out / "model", mesh, opened.dev)


def write_pairs(path: Path, one: TrainingSet, order: list[plan.Planned] | None) -> None:
    """Write what the other trainer reads: all rows, or those of some batches."""
    if order is None:
        rows = [(row, 0) for row in range(len(one.rows.source))]
    else:
        places = [zip(x.rows.tolist(), x.epochs.tolist(), strict=True) for x in order]
        rows = [pair for batch in places for pair in batch]
    with path.open("w", encoding="utf-8") as file:
        for row, epoch in rows:
            found = example(one, row, Dice(SEED, 0, epoch, row), longest=LENGTH)
            pair = {"query": found.query, "passage": found.passages[0]}
            file.write(json.dumps(pair) + "\n")


def report(case: Case, turns: Turns, lines: list[dict[str, Any]]) -> None:
    """Print speeds, padding and what the loop cost."""
    pairs = case.batch * case.every
    ours, theirs = turns.ours, turns.theirs
    medians = [statistics.median(x.seconds for x in side) for side in (ours, theirs)]
    rounds = [t.seconds / o.seconds for o, t in zip(ours, theirs, strict=True)]
    # Seconds for a token of what is computed, padding included.
    each = [
        sum(x.seconds for x in side) / sum(x.padded for x in side)
        for side in (ours, theirs)
    ]
    full = [
        sum(x.read for x in side) / sum(x.padded for x in side)
        for side in (ours, theirs)
    ]
    print(
        f"{case.name}: ours {pairs / medians[0]:.2f} pairs/s, theirs "
        f"{pairs / medians[1]:.2f}; ratio of the medians "
        f"{medians[1] / medians[0]:.3f}, by round {min(rounds):.3f} to "
        f"{max(rounds):.3f}"
    )
    print(
        f"{case.name}: tokens that are no padding, ours {full[0]:.3f}, theirs "
        f"{full[1]:.3f}; ratio at equal padding (time for a token, padding included) "
        f"{each[1] / each[0]:.3f}"
    )
    # Shares are of ten steps: of these none may hold a turn of the other trainer.
    alone = [line for line in lines if (line["step"] - 1) % case.every >= 10]
    if alone:
        own = statistics.median(line["overhead_share"] for line in alone)
        wait = statistics.median(line["data_wait_share"] for line in alone)
        print(f"{case.name}: overhead of our loop {own:.3%}, wait for data {wait:.3%}")


def compare(
    learner: Learner, params: Params, other: Path, mesh: Mesh, test: Any
) -> None:
    """Score both models in the same way."""
    _, read_params = folders.open_model(str(other))
    own = learner.score(params, test)["ndcg@10"]
    theirs = learner.score(read_params(mesh), test)["ndcg@10"]
    print(
        f"nDCG@10 after training: ours {own:.4f}, theirs {theirs:.4f}, difference "
        f"{own - theirs:+.4f}"
    )


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="an embedding model")
    parser.add_argument("--data", required=True, type=Path, help="a BEIR folder")
    parser.add_argument("--peer", required=True, help="python of the other library")
    parser.add_argument("--only", default="", help="cases whose name has this")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=8, help="updates of a round")
    args = parser.parse_args()
    every, rounds = args.steps, args.rounds
    cases = (
        Case("speed", 32, rounds * every, every),
        Case("cached", 512, rounds, 1),
        Case("parity", 32, 200, 20, in_order=True),
    )
    for case in cases:
        if args.only in case.name:
            with tempfile.TemporaryDirectory() as folder:
                run(case, args.model, args.data, args.peer, Path(folder))


if __name__ == "__main__":
    main()
