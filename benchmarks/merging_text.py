"""Two fine-tunings of one model on real text, and everything between them.

    M3JAX_DATA=FOLDER python -m benchmarks.merging_text --model MINILM --output FOLDER \
        [--steps 200] [--passage-length 128] [--small]

MINILM is a folder of all-MiniLM-L6-v2. It is trained once on MedQuAD's questions and
once on titles of arXiv with their abstracts; FOLDER (of the data) holds `medquad` and
`arxiv_titles`. What is held out of training (2 % of the queries) becomes dev sets, of
which the mean selects; the test sets are those of the folders. Then every method is
swept, and the curves are in OUTPUT/METHOD-sweep.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from m3jax.core import files
from m3jax.data.config import DataConfig
from m3jax.data.records import Pairs, Retrieval
from m3jax.data.retrieval import QRELS_HEADER
from m3jax.data.training_sets import Data, open_data
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.pipeline.train import run_stages
from m3jax.training.objectives import ContrastiveConfig
from m3jax.training.optimizer import OptimizerConfig

SETS = ("medquad", "arxiv_titles")
_PASSAGES = 1_000  # of training, in a dev set
SWEEPS = {
    "slerp": "t=0:1:0.1",
    "linear": "t=0:1:0.25",
    "task_arithmetic": "scale=0.4:1:0.3",
    "ties": "scale=0.6:1.4:0.4",
}


def main() -> None:
    """Train, merge, measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--passage-length", type=int, default=128)
    parser.add_argument("--small", action="store_true", help="8 steps, few points")
    options = parser.parse_args()
    data = Path(os.environ["M3JAX_DATA"])
    runs = {name: options.output / name for name in SETS}
    for name, run in runs.items():
        steps = 8 if options.small else options.steps
        length = options.passage_length
        stage = stage_of(options.model, data / name, steps, length)
        run_stages({"train": stage}, run)
        write_beir(options.output / "dev" / name, harder(open_data(stage.data)))
    for method, sweep in SWEEPS.items():
        if options.small:
            sweep = sweep.split("=")[0] + "=0.5"
        words = ["--method", method, "--models", *map(str, runs.values())]
        words += ["--output", str(options.output / method), "--sweep", sweep]
        words += ["--dev", *(str(options.output / "dev" / name) for name in SETS)]
        words += ["--test", *(str(data / name) for name in SETS)]
        words += ["--max-length", str(options.passage_length)]
        if method in ("task_arithmetic", "ties"):
            words += ["--base", options.model]
        print(f"\n{method}", flush=True)
        subprocess.run([sys.executable, "-m", "m3jax.merge", *words], check=True)


def stage_of(model: str, data: Path, steps: int, length: int) -> Train:
    """A short fine-tuning, the same for both sets."""
    return Train(
        init=model,
        data=DataConfig(
            train=str(data / "train.jsonl.gz"),
            batch_size=64,
            query_length=32,
            passage_length=length,
            shapes=4,
        ),
        model=EmbeddingConfig(BertConfig(remat="none"), "mean"),
        objective=ContrastiveConfig(temperature=0.05),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup=0.1),
        steps=steps,
        evaluate_every=max(1, steps // 4),
    )


def harder(data: Data) -> Retrieval:
    """The queries that were held out, to be found among passages of training too."""
    held, (rows,) = data.dev, data.sets
    assert isinstance(held, Retrieval)
    numbers = range(len(rows.source)) if rows.kept is None else rows.kept.tolist()
    there = set(held.corpus.values())
    more = {
        f"train-{number}": row.pos[0]
        for number in numbers[:_PASSAGES]
        if isinstance(row := rows.source[number], Pairs) and row.pos[0] not in there
    }
    return Retrieval(held.queries, {**held.corpus, **more}, held.qrels)


def write_beir(folder: Path, task: Retrieval) -> None:
    """Write a retrieval task as a folder in BEIR's layout."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    for name, texts in (("corpus", task.corpus), ("queries", task.queries)):
        rows = (json.dumps({"_id": key, "text": x}) for key, x in texts.items())
        files.write_text(folder / f"{name}.jsonl", "\n".join(rows) + "\n")
    judged = [
        f"{query}\t{passage}\t{grade}"
        for query, row in task.qrels.items()
        for passage, grade in row.items()
    ]
    text = "\n".join(["\t".join(QRELS_HEADER), *judged]) + "\n"
    files.write_text(folder / "qrels" / "test.tsv", text)


if __name__ == "__main__":
    main()
