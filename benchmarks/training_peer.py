"""sentence-transformers' trainer, a round at a time; `benchmarks.training` runs it.

    PEERS/bin/python training_peer.py SETTINGS.json

Every line that comes in lets it take `every` more steps; it then says in JSON how long
they took and how many tokens they had.
"""

import json
import sys
import time
import warnings
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
    losses,
)
from torch.utils.data import BatchSampler, SequentialSampler
from transformers import TrainerCallback

TOLD = "benchmark "


class Rounds(TrainerCallback):
    """Waits for a line before every round, and tells of it afterwards."""

    def __init__(self, every: int) -> None:
        self.every, self.seconds = every, 0.0
        self.read = self.padded = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait for our turn."""
        if state.global_step % self.every == 0:
            sys.stdin.readline()
            self.read = self.padded = 0
            self.seconds = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Tell of a round that is over."""
        if state.global_step % self.every == 0:
            seconds = time.perf_counter() - self.seconds
            told = {"seconds": seconds, "read": self.read, "padded": self.padded}
            print(TOLD + json.dumps(told), flush=True)


def counting(loss: Any, rounds: Rounds) -> Any:
    """The loss, counting the tokens that it is given."""
    forward = loss.forward

    def counted(features: Any, labels: Any) -> Any:
        features = list(features)
        for one in features:
            rounds.read += int(one["attention_mask"].sum())
            rounds.padded += one["attention_mask"].numel()
        return forward(features, labels)

    loss.forward = counted
    return loss


def in_order(dataset: Any, batch_size: int, **options: Any) -> BatchSampler:
    """Rows as they stand."""
    return BatchSampler(SequentialSampler(dataset), batch_size, drop_last=True)


def main() -> None:
    """Train as the settings say."""
    warnings.filterwarnings("ignore")
    with open(sys.argv[1], encoding="utf-8") as file:
        settings = json.load(file)
    torch.set_num_threads(settings["threads"])
    with open(settings["pairs"], encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    dataset = Dataset.from_dict(
        {name: [row[name] for row in rows] for name in ("query", "passage")}
    )
    model = SentenceTransformer(settings["model"], device="cpu")
    model.max_seq_length = settings["length"]
    scale, part = 1 / settings["temperature"], settings["part"]
    loss: Any = (
        losses.CachedMultipleNegativesRankingLoss(
            model, scale=scale, mini_batch_size=part
        )
        if part < settings["batch"]
        else losses.MultipleNegativesRankingLoss(model, scale=scale)
    )
    rounds = Rounds(settings["every"])
    arguments = SentenceTransformerTrainingArguments(
        output_dir=settings["out"] + "/trainer",
        per_device_train_batch_size=settings["batch"],
        max_steps=settings["steps"],
        learning_rate=settings["learning_rate"],
        warmup_ratio=settings["warmup"],
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=1.0,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=settings["seed"],
        **({"batch_sampler": in_order} if settings["in_order"] else {}),
    )
    trainer = SentenceTransformerTrainer(
        model,
        arguments,
        train_dataset=dataset,
        loss=counting(loss, rounds),
        callbacks=[rounds],
    )
    print(TOLD + "{}", flush=True)
    trainer.train()
    model.save(settings["out"] + "/model")
    print(TOLD + "{}", flush=True)


if __name__ == "__main__":
    main()
