"""From files to arrays on devices."""

import multiprocessing
import os
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data import batches, pipeline, tokenize
from m3jax.data.pipeline import DataConfig
from m3jax.data.prompts import Prompts
from m3jax.data.records import Pairs
from m3jax.testing import TEXTS, tiny_tokenizer, write_jsonl

ROWS = [
    Pairs(f"question {i} {TEXTS[i % 3][: 4 * i]}", (f"answer {i} {TEXTS[i % 3]}",))
    for i in range(40)
]
CONFIG = DataConfig(
    batch_size=8, negatives=2, query_length=24, passage_length=32, buckets=(8, 16, 32)
)


def build(rows=ROWS, config: DataConfig = CONFIG, local=None) -> batches.Batcher:
    texts = [text for row in rows for text in (row.query, *row.pos, *row.neg)]
    tokenizer = tiny_tokenizer([*texts, "query: passage: ask:"], vocab_size=99)
    return batches.Batcher(
        rows=rows,
        plan=pipeline.make_plan(config, rows, tokenizer, seed=0),
        tokenizer=tokenizer,
        prompts=config.prompts,
        negatives=config.negatives,
        query_length=config.query_length,
        passage_length=config.passage_length,
        local=np.arange(config.batch_size) if local is None else local,
    )


def assert_equal(one, two) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, two)


def plain(text: str) -> str:
    return text.replace(" ", "").replace("\u2581", "")


def test_a_batch_holds_its_rows() -> None:
    rows = [
        Pairs("who", ("me",), ("you", "them", "us"), prompt="ask: "),
        Pairs("what", ("that",), ("this",)),
        Pairs("who", ("that", "that"), ()),
    ]
    config = DataConfig(
        batch_size=3,
        negatives=2,
        query_length=24,
        passage_length=32,
        prompts=Prompts("query: ", "passage: "),
    )
    batcher = build(rows, config)
    arrays = batcher(0)
    decode = batcher.tokenizer.backend.decode
    for place, row in enumerate(arrays["row"]):
        record = rows[row]
        real = arrays["query.mask"][place]
        text = plain(decode(arrays["query.ids"][place][real].tolist()))
        expected = (record.prompt or "query: ") + record.query
        assert text == plain(expected)
        there = arrays["where"][place]
        assert there.tolist() == [True] + [len(record.neg) > i for i in range(2)]
        found = []
        for g in np.flatnonzero(there):
            real = arrays["passage.mask"][place, g]
            found.append(decode(arrays["passage.ids"][place, g][real].tolist()))
        texts = [plain(text).removeprefix("passage:") for text in found]
        assert texts[0] in record.pos and set(texts[1:]) <= set(record.neg)
        assert len(set(texts[1:])) == len(texts[1:])
        assert not arrays["passage.mask"][place][~there].any()
    place = {int(row): i for i, row in enumerate(arrays["row"])}
    ids = arrays["passage_ids"]
    # The same passage under two queries has the same hash, others have their own.
    assert_equal(ids[place[1], 0], ids[place[2], 0])
    assert (ids[place[0], 0] != ids[place[1], 0]).any()
    # "who" with another prompt is another query.
    assert len({tuple(words) for words in arrays["query_ids"].tolist()}) == 3


def test_negatives_and_positives_are_drawn_anew() -> None:
    row = Pairs("q", tuple("abcd"), tuple("efghijk"))
    drawn = {
        batches.draw(row, negatives=3, rng=np.random.default_rng((0, epoch, 5)))
        for epoch in range(30)
    }
    assert {texts[0] for texts in drawn} == set("abcd")
    assert {text for texts in drawn for text in texts[1:]} == set("efghijk")
    assert all(len(set(texts[1:])) == 3 for texts in drawn)


def test_tokens_fit_and_nothing_is_lost() -> None:
    batcher = build()
    for step in range(batcher.plan.steps_per_epoch):
        arrays = batcher(step)
        for kind, limit in (("query", 24), ("passage", 32)):
            mask = arrays[f"{kind}.mask"]
            lengths = mask.sum(-1)
            assert mask.shape[-1] <= limit
            assert (arrays[f"{kind}.ids"][~mask] == batcher.tokenizer.pad_id).all()
            if kind == "query":
                expected = tokenize.encode(
                    batcher.tokenizer,
                    [ROWS[row].query for row in arrays["row"]],
                    max_length=limit,
                )
                assert lengths.tolist() == [len(ids) for ids in expected]


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_and_any_step_can_be_the_first(workers: int) -> None:
    mesh = make_mesh(MeshConfig(fsdp=2))
    batcher = build()
    stream = pipeline.stream(batcher, mesh, start=3, stop=9, workers=workers)
    found = list(stream)
    assert len(found) == 6
    for step, one in enumerate(found, start=3):
        arrays = batcher(step)
        assert_equal(one.query.ids, arrays["query.ids"])
        assert_equal(one.passage.mask, arrays["passage.mask"])
        assert_equal(one.where, arrays["where"])
        assert_equal(one.query_ids, arrays["query_ids"])
        assert_equal(one.passage_ids, arrays["passage_ids"])
        assert_equal(one.row, arrays["row"])
        assert len(one.row.sharding.device_set) == 8
        assert one.passage.ids.addressable_shards[0].data.shape[0] == 1


def test_hosts_together_make_the_batch() -> None:
    whole = build()(2)
    halves = [build(local=np.arange(8)[half::2])(2) for half in (0, 1)]
    for name, array in whole.items():
        assert_equal(array[0::2], halves[0][name])
        assert_equal(array[1::2], halves[1][name])


def worker_memory() -> list[tuple[int, bool]]:
    """Resident bytes of each worker, and whether it holds a jax backend."""
    found = []
    for child in multiprocessing.active_children():
        status = Path(f"/proc/{child.pid}/status").read_text()
        line = next(row for row in status.splitlines() if row.startswith("VmRSS"))
        maps = Path(f"/proc/{child.pid}/task").iterdir()
        names = {(task / "comm").read_text().strip() for task in maps}
        found.append((int(line.split()[1]) * 1024, any("XLA" in n for n in names)))
    return found


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads Linux's /proc")
def test_workers_are_small_and_touch_no_device() -> None:
    mesh = make_mesh(MeshConfig())
    stream = pipeline.stream(build(), mesh, start=0, stop=50, workers=2)
    next(stream)
    time.sleep(0.5)
    workers = worker_memory()
    assert len(workers) == 2
    assert all(size < 400 * 2**20 for size, _ in workers)
    # A backend would have started its thread pool.
    assert not any(backend for _, backend in workers)
    stream.close()  # type: ignore[attr-defined]
    deadline = time.time() + 10
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.1)
    assert multiprocessing.active_children() == []


def test_workers_leave_the_environment_alone() -> None:
    before = dict(os.environ)
    list(pipeline.stream(build(), make_mesh(MeshConfig()), start=0, stop=1, workers=1))
    assert dict(os.environ) == before


def test_open_data_holds_out_by_query(tmp_path: Path) -> None:
    rows = [{"query": f"question {i % 900}", "pos": [f"p{i}"]} for i in range(1000)]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    data = pipeline.open_data(DataConfig(train=str(path), batch_size=8))
    assert data.dev is not None and data.test is None
    held = set(data.dev.queries.values())
    assert 5 <= len(held) <= 40
    assert not held & {row.query for row in data.rows}
    assert len(held) + len({row.query for row in data.rows}) == 900


def test_too_little_data(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"query": "q", "pos": ["p"]}] * 5)
    with pytest.raises(InputError, match=r"a\.jsonl: expected at least one batch of 8"):
        pipeline.open_data(DataConfig(train=str(path), batch_size=8))


def test_a_batch_that_does_not_divide() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2))
    pipeline.check_batch(DataConfig(batch_size=32), mesh, sub_batches=4)
    for size, sub_batches in ((12, 1), (16, 4), (0, 1)):
        with pytest.raises(InputError, match=r"data\.batch_size: .* 8 shards"):
            pipeline.check_batch(DataConfig(batch_size=size), mesh, sub_batches)
