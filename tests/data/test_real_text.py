"""Real text, where M3JAX_DATA names a folder that has it."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from m3jax.core import config
from m3jax.data.batches import Batcher
from m3jax.data.batching import make_plan
from m3jax.data.config import Dataset
from m3jax.data.plan import batch
from m3jax.data.records import Pairs
from m3jax.data.retrieval import read_beir
from m3jax.data.scan import scan
from m3jax.data.sources.open import open_source
from m3jax.data.training_sets import measure, open_data
from m3jax.testing import tiny_tokenizer
from tests.mixtures import texts_of

ROOT = Path(__file__).parent.parent.parent
FOLDER = Path(os.environ.get("M3JAX_DATA", ""))
MEDQUAD = FOLDER / "medquad"
needs_data = pytest.mark.skipif(
    "M3JAX_DATA" not in os.environ or not MEDQUAD.is_dir(),
    reason="M3JAX_DATA names no folder with medquad/",
)


@needs_data
def test_queries_that_come_twice_have_one_hash(tmp_path: Path) -> None:
    """Without query ids, 1,964 rows would have another answer of theirs as negative."""
    source = open_source(Dataset(str(MEDQUAD / "train.jsonl.gz")))
    assert len(source) == 14_271
    records = [source[i] for i in range(len(source))]
    counts = Counter(one.query for one in records if isinstance(one, Pairs))
    assert sum(n for n in counts.values() if n > 1) == 1_964
    assert len(np.unique(scan(source, root=tmp_path).query)) == len(counts)


@needs_data
def test_a_real_test_set_opens() -> None:
    data = read_beir(MEDQUAD)
    assert (len(data.queries), len(data.corpus)) == (1_492, 1_600)
    assert max(len(judged) for judged in data.qrels.values()) > 1


@needs_data
@pytest.mark.slow
def test_the_mixture_of_all_training_sets() -> None:
    """Four languages; pairs, triples and labels; a task each, an instruction a row."""
    stage = config.load(ROOT / "configs" / "mixture.py")()
    data = open_data(stage.data)
    counts = {one.name: one.count for one in data.sets}
    assert len(counts) == 10 and sum(counts.values()) > 150_000
    assert {one.scan.kind for one in data.sets} == {"pairs", "labelled"}
    sample = [text for one in data.sets for text in some_texts(one.source)]
    sample += [text for told in stage.data.instructions.values() for text in told] * 20
    sample += ["Instruct: Query: "] * 20
    tokenizer = tiny_tokenizer(sample, vocab_size=4_000)
    sets = measure(stage.data, data, tokenizer)
    plan = make_plan(stage.data, sets, seed=0).lasting(stage.steps)
    local = {size: np.arange(size) for size in plan.sizes}
    batcher = Batcher(sets, plan, tokenizer, local)
    rows = np.array(list(counts.values())) ** 0.5
    taken = np.zeros(len(rows))
    seen: set[tuple[int, int, int]] = set()
    shown = set()
    for step in range(stage.steps):
        planned = batch(plan, step)
        assert set(planned.parts.tolist()) == {planned.part}
        taken[planned.part] += 1
        assert np.abs(taken - (step + 1) * rows / rows.sum()).max() < 1
        ids = zip(
            planned.parts.tolist(),
            planned.epochs.tolist(),
            planned.rows.tolist(),
            strict=True,
        )
        for one in ids:
            assert one not in seen
            seen.add(one)
        if planned.part not in shown:  # a batch of each, as the model reads it
            shown.add(planned.part)
            arrays = batcher(step)
            texts = texts_of(batcher, arrays)
            assert all(one[0].startswith("instruct:") for one in texts)
            mine = sets[planned.part].rows.config
            assert (arrays["in_batch"] == mine.in_batch_negatives).all()
            if mine.negatives:
                assert arrays["where"].sum(1).tolist() == [8] * stage.data.batch_size
    assert len(shown) == 10


def some_texts(source) -> list[str]:
    records = [source[i] for i in range(0, len(source), len(source) // 200)]
    return [*map(str, (getattr(one, "query", None) or one.text for one in records))]
