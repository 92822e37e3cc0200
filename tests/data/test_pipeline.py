"""From files to arrays on devices."""

import dataclasses
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.core.mesh import make_mesh
from m3jax.core.mesh_config import MeshConfig
from m3jax.data import tokenize
from m3jax.data.batches import Batcher
from m3jax.data.pipeline import Stream, local_rows
from m3jax.data.prompts import Prompts
from m3jax.testing import TEXTS
from tests.mixtures import build, plain, texts_of

PAIRS = [
    {
        "query": f"question {i} {TEXTS[i % 3][: 4 * i]}",
        "pos": [f"answer {i} {TEXTS[i % 3]}"],
        "neg": [f"no {j} of {i}" for j in range(i % 4)],
    }
    for i in range(40)
]
LABELS = [{"text": TEXTS[i % 3][i:], "label": f"about {i % 3}"} for i in range(24)]


def mixture(folder: Path, **fields: Any) -> Batcher:
    options = {"labels": {"in_batch_negatives": False}}
    sets = {"pairs": PAIRS, "labels": LABELS}
    given: dict[str, Any] = {"negatives": 2} | fields
    return build(folder, sets, options=options, **given)


def assert_equal(one: Any, two: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_batch_holds_its_rows(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"query": "who", "pos": ["me"], "neg": ["you", "them", "us"]},
        {"query": "what", "pos": ["that"], "neg": ["this"]},
        {"query": "who", "pos": ["that", "that"]},
    ]
    rows[0]["prompt"] = "ask: "
    batcher = build(
        tmp_path,
        {"a": rows},
        batch_size=3,
        negatives=2,
        prompts=Prompts("query: ", "passage: "),
    )
    arrays = batcher(0)
    for place, texts in enumerate(texts_of(batcher, arrays)):
        row = rows[arrays["row"][place]]
        assert texts[0] == plain(row.get("prompt", "query: ") + row["query"])
        negatives = row.get("neg", [])
        there = arrays["where"][place]
        assert there.tolist() == [True] + [len(negatives) > i for i in range(2)]
        found = [text.removeprefix("passage:") for text in texts[1:]]
        assert found[0] in row["pos"] and set(found[1:]) <= set(negatives)
        assert len(set(found[1:])) == len(found[1:])
        assert not arrays["passage.mask"][place][~there].any()
    place = {int(row): i for i, row in enumerate(arrays["row"])}
    ids = arrays["passage_ids"]
    # The same passage under two queries has the same hash, others have their own.
    assert_equal(ids[place[1], 0], ids[place[2], 0])
    assert (ids[place[0], 0] != ids[place[1], 0]).any()
    # "who" with another prompt is another query.
    assert len({tuple(words) for words in arrays["query_ids"].tolist()}) == 3
    assert arrays["in_batch"].all() and "teacher_scores" not in arrays


def test_tokens_fit_and_nothing_is_lost(tmp_path: Path) -> None:
    batcher = mixture(tmp_path, homogeneity=0.5)
    for step in range(batcher.plan.steps_per_epoch):
        arrays = batcher(step)
        for kind, limit in (("query", 24), ("passage", 32)):
            mask = arrays[f"{kind}.mask"]
            assert mask.shape[-1] <= limit
            assert (arrays[f"{kind}.ids"][~mask] == batcher.tokenizer.pad_id).all()
        expected = tokenize.encode(
            batcher.tokenizer,
            [
                (PAIRS[row]["query"], LABELS[row % 24]["text"])[part]
                for row, part in zip(arrays["row"], arrays["dataset"], strict=True)
            ],
            max_length=24,
        )
        for ids, mask, tokens in zip(
            arrays["query.ids"], arrays["query.mask"], expected, strict=True
        ):
            assert_equal(ids[mask], tokens)


def test_each_row_brings_what_its_data_set_says(tmp_path: Path) -> None:
    sets = {"a": PAIRS, "b": LABELS}
    options = {
        "a": {"task": "search", "negatives": 1, "fill": "repeat"},
        "b": {"prompts": ("label: ",), "symmetric": True, "in_batch_negatives": False},
    }
    fields = {
        "prompts": Prompts("no", "passage: ", "Instruct: {task}\nQuery:"),
        "instructions": {"search": ("find", "see")},
        "homogeneity": 0.0,
        "query_length": 64,
    }
    batcher = build(tmp_path, sets, options=options, negatives=2, **fields)
    prompts = set()
    for step in range(8):
        arrays = batcher(step)
        # All rows have room for the passages of the data set with the most.
        assert arrays["where"].shape[1] == 3
        for i, texts in enumerate(texts_of(batcher, arrays)):
            if arrays["dataset"][i] == 0:
                prompts.add(texts[0].split("question")[0])
                assert all(text.startswith("passage:") for text in texts[1:])
                assert arrays["in_batch"][i] and not arrays["where"][i, 2]
            else:
                assert all(text.startswith("label:") for text in texts)
                assert not arrays["in_batch"][i] and len(texts) == 4
    assert prompts == {"instruct:findquery:", "instruct:seequery:"}


def test_steps_made_together_are_what_each_would_be(tmp_path: Path) -> None:
    batcher = mixture(tmp_path, homogeneity=0.75)
    for step, arrays in enumerate(batcher.batches(3, 12), start=3):
        assert_equal(arrays, batcher(step))


def test_a_text_that_grows_is_cut_as_its_tokenizer_would(tmp_path: Path) -> None:
    """Shuffled, a text may have a token more than it was measured with."""
    rows = [{"query": "q", "pos": [" ".join(TEXTS) + f" {i}"]} for i in range(8)]
    options = {"a": {"shuffle_ratio": 1.0}}
    batcher = build(tmp_path, {"a": rows}, options=options, passage_length=200)
    most = batcher.plan.shapes[-1].passage_length
    small = dataclasses.replace(batcher.plan.shapes[-1], passage_length=most - 40)
    plan = dataclasses.replace(batcher.plan, shapes=(small,))
    arrays = Batcher(batcher.sets, plan, batcher.tokenizer, batcher.local)(0)
    assert arrays["passage.mask"].all()
    end = batcher(0)["passage.ids"][0, 0][batcher(0)["passage.mask"][0, 0]][-1]
    assert (arrays["passage.ids"][..., -1] == end).all()


def test_scores_come_with_their_rows(tmp_path: Path) -> None:
    rows = [{"sentence1": f"a {i}", "sentence2": "b", "score": i} for i in range(16)]
    arrays = build(tmp_path, {"sts": rows})(1)
    assert_equal(arrays["label"], arrays["row"].astype(np.float32))


def test_teacher_scores_come_with_their_passages(tmp_path: Path) -> None:
    rows = [
        {"query": f"q{i}", "pos": ["p"], "neg": ["n"]}
        | {"pos_scores": [i], "neg_scores": [-i]}
        for i in range(8)
    ]
    options = {"a": {"teacher_scores": True}}
    arrays = build(tmp_path, {"a": rows}, options=options, negatives=2)(0)
    expected = np.stack([arrays["row"], -arrays["row"], 0 * arrays["row"]], 1)
    assert_equal(arrays["teacher_scores"], expected.astype(np.float32))


@pytest.mark.parametrize("homogeneity", [1.0, 0.5])
@pytest.mark.parametrize("hosts", [2, 4, 8])
def test_hosts_together_make_the_batch(
    tmp_path: Path, hosts: int, homogeneity: float
) -> None:
    whole = mixture(tmp_path, homogeneity=homogeneity)
    for step in (2, 9):
        expected = whole(step)
        size = int(expected.pop("size"))
        for host in range(hosts):
            local = {size: np.arange(size).reshape(hosts, -1)[host]}
            one = Batcher(whole.sets, whole.plan, whole.tokenizer, local)(step)
            assert int(one.pop("size")) == size
            assert_equal(one, {key: x[local[size]] for key, x in expected.items()})


@pytest.mark.parametrize("workers", [0, 2])
def test_workers_change_nothing_and_any_step_can_be_the_first(
    tmp_path: Path, workers: int
) -> None:
    mesh = make_mesh(MeshConfig(fsdp=2))
    batcher = mixture(tmp_path)
    stream = Stream(batcher, mesh, start=3, stop=9, workers=workers)
    found = [next(stream) for _ in range(2)]
    state = stream.state()
    found += list(stream)
    stream.restore(state)
    again = list(stream)
    stream.close()
    assert state == {"step": 5} and len(found) == 6
    for one, other in zip(found[2:], again, strict=True):
        assert_equal(one, other)
    for step, one in enumerate(found, start=3):
        arrays = batcher(step)
        assert_equal(one.query.ids, arrays["query.ids"])
        assert_equal(one.passage.mask, arrays["passage.mask"])
        for name in ("where", "query_ids", "passage_ids", "in_batch", "row", "dataset"):
            assert_equal(getattr(one, name), arrays[name])
        assert len(one.row.sharding.device_set) == 8
        assert one.passage.ids.addressable_shards[0].data.shape[0] == 1


def test_a_source_that_changes_stops_the_run(tmp_path: Path) -> None:
    batcher = mixture(tmp_path)
    batcher(0)
    path = tmp_path / "pairs.jsonl"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InputError, match=r"pairs\.jsonl: expected"):
        for step in range(4):
            batcher(step)


def test_an_error_in_a_worker_ends_the_stream(tmp_path: Path) -> None:
    batcher = mixture(tmp_path)
    stream = Stream(batcher, make_mesh(MeshConfig()), start=0, stop=9_999, workers=2)
    next(stream)
    (tmp_path / "pairs.jsonl").unlink()
    with pytest.raises(InputError, match=r"pairs\.jsonl"):
        list(stream)
    stream.close()
    assert_no_children()


class Long(Batcher):
    """Passages of 4,096 tokens: more than a pipe takes."""

    def batches(self, start: int, stop: int) -> list[dict[str, np.ndarray]]:
        found = super().batches(start, stop)
        for one in found:
            for name in ("passage.ids", "passage.mask"):
                more = 4_096 - one[name].shape[-1]
                one[name] = np.pad(one[name], ((0, 0), (0, 0), (0, more)))
        return found


def test_a_worker_with_a_full_pipe_ends_soon(tmp_path: Path) -> None:
    one = mixture(tmp_path)
    batcher = Long(one.sets, one.plan, one.tokenizer, one.local)
    mesh = make_mesh(MeshConfig())
    stream = Stream(batcher, mesh, start=0, stop=99_999, workers=1)
    next(stream)
    time.sleep(2)  # it makes what it may, and waits for somebody to read it
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 12
    assert_no_children()


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


def assert_no_children() -> None:
    deadline = time.time() + 10
    while multiprocessing.active_children() and time.time() < deadline:
        time.sleep(0.1)
    assert multiprocessing.active_children() == []


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads Linux's /proc")
def test_workers_are_small_and_touch_no_device(tmp_path: Path) -> None:
    before = dict(os.environ)
    mesh = make_mesh(MeshConfig())
    stream = Stream(mixture(tmp_path), mesh, start=0, stop=50, workers=2)
    next(stream)
    deadline = time.time() + 30  # the second may be on its way
    while len(multiprocessing.active_children()) < 2 and time.time() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    workers = worker_memory()
    assert len(workers) == 2
    assert all(size < 400 * 2**20 for size, _ in workers)
    # A backend would have started its thread pool.
    assert not any(backend for _, backend in workers)
    assert dict(os.environ) == before
    stream.close()
    assert_no_children()


def test_local_rows_are_those_of_the_devices_here() -> None:
    mesh = make_mesh(MeshConfig(fsdp=2, tensor=2))
    assert local_rows(mesh, 8).tolist() == list(range(8))
