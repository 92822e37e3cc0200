"""A corpus encoded part by part: the same numbers, and a stop costs one part."""

import functools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.inference.shards import encode_to, open_shards
from m3jax.nn.embedding import EmbeddingModule, init
from m3jax.testing import TEXTS, tiny_config, tiny_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "m3"
RECORDS = [(f"p\n{i}", f"{TEXTS[i % 3]}"[:16] + str(i)) for i in range(7)]
PROMPTS = Prompts(query="q: ", task="{task}: ")


@functools.cache
def embedder(seed: int = 0) -> Embedder:
    tokenizer = tiny_tokenizer()
    module = EmbeddingModule(tiny_config(tokenizer.vocab_size))
    params = init(module, jax.random.key(seed))
    return Embedder(module, params, tokenizer, PROMPTS, max_length=64)


def run(folder: Path, records: Any = RECORDS, **options: Any) -> list[Any]:
    model = options.pop("model", None) or embedder()
    return list(encode_to(model, records, folder, **{"shard_size": 3, **options}))


def rows(folder: Path) -> np.ndarray:
    parts = [dense(shard.encoded) for shard in open_shards(folder)]
    assert all(isinstance(part, np.memmap) for part in parts)
    return np.concatenate(parts)


def dense(encoded: Encoded) -> np.ndarray:
    assert encoded.dense is not None
    return encoded.dense


def stamps(folder: Path) -> dict[str, int]:
    return {
        path.name: (path / "dense.npy").stat().st_mtime_ns
        for path in folder.iterdir()
        if path.is_dir()
    }


def test_shards_hold_what_one_call_gives(tmp_path: Path) -> None:
    done = run(tmp_path / "out")
    assert [(s.folder.name, s.count, s.cut, s.found) for s in done] == [
        ("00000", 3, 0, False),
        ("00001", 3, 0, False),
        ("00002", 1, 0, False),
    ]
    opened = open_shards(tmp_path / "out")
    assert [name for shard in opened for name in shard.ids] == [i for i, _ in RECORDS]
    whole = embedder().encode_passage([text for _, text in RECORDS])
    np.testing.assert_allclose(rows(tmp_path / "out"), dense(whole), atol=1e-6)


def test_all_three_outputs(tmp_path: Path) -> None:
    model = Embedder.load(GOLDEN)
    outputs = ("dense", "sparse", "multivec")
    texts = [text for _, text in RECORDS[:4]]
    run(tmp_path, RECORDS[:4], model=model, outputs=outputs, max_length=4)
    with pytest.warns(UserWarning, match="were cut"):
        whole = model.encode_passage(texts, outputs=outputs, max_length=4)
    first, second = open_shards(tmp_path)
    assert (first.cut, second.cut) == (3, 1)
    sparse, multivec = second.encoded.sparse, second.encoded.multivec
    assert sparse is not None and multivec is not None
    assert whole.sparse is not None and whole.multivec is not None
    assert sparse[0] == pytest.approx(whole.sparse[3], abs=1e-6)
    np.testing.assert_allclose(multivec[0], whole.multivec[3], atol=1e-6)


def test_queries_have_their_prompt(tmp_path: Path) -> None:
    texts = [text for _, text in RECORDS[:3]]
    run(tmp_path, RECORDS[:3], kind="query", task="find it", dim=8)
    expected = embedder().encode_query(texts, task="find it", dim=8)
    np.testing.assert_array_equal(rows(tmp_path), dense(expected))


def test_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped() -> Iterator[tuple[str, str]]:
        yield from RECORDS[:5]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stopped())
    with pytest.raises(InputError, match="complete, found 1 shards and no end"):
        open_shards(tmp_path)
    before, seen = stamps(tmp_path), []
    encode = Embedder.encode_passage

    def record(self: Embedder, texts: list[str], **options: Any) -> Encoded:
        seen.extend(texts)
        return encode(self, texts, **options)

    monkeypatch.setattr(Embedder, "encode_passage", record)
    ticks: list[int] = []
    done = run(tmp_path, iter(RECORDS), progress=ticks.append)
    assert [shard.found for shard in done] == [True, False, False]
    assert seen == [text for _, text in RECORDS[3:]]
    assert before.items() <= stamps(tmp_path).items()
    assert sum(ticks) == 7
    # Complete, it only says what is there.
    assert all(shard.found for shard in run(tmp_path))
    assert len(seen) == 4


@pytest.mark.parametrize(
    "name", ["dense.npy", "ids.jsonl", "shard.json", "half an array", "half the ids"]
)
def test_a_damaged_shard_is_made_again(tmp_path: Path, name: str) -> None:
    run(tmp_path)
    expected, shard = rows(tmp_path), tmp_path / "00001"
    if name == "half an array":
        name = "dense.npy"
        (shard / name).write_bytes((shard / name).read_bytes()[:-8])
    elif name == "half the ids":
        name = "ids.jsonl"
        (shard / name).write_text('"a"\n"b')
    else:
        (shard / name).unlink()
    with pytest.raises(InputError, match=name):
        [(shard.ids, shard.encoded) for shard in open_shards(tmp_path)]
    said: list[str] = []
    assert [s.found for s in run(tmp_path, say=said.append)] == [True, False, True]
    assert len(said) == 1 and name in said[0] and "again" in said[0]
    np.testing.assert_array_equal(rows(tmp_path), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 2}, "shard_size: 3 -> 2"),
        ({"dim": 8, "max_length": 9}, "dim: None -> 8, max_length: 64 -> 9"),
        ({"model": embedder(1)}, "found another: model: "),
        ({"kind": "query"}, "prompt:  -> q: "),
        ({"records": RECORDS[1:]}, "00000: expected the texts that this shard was m"),
        ({"records": RECORDS[:3]}, "00001: expected .*, found the end of the input"),
        ({"records": [*RECORDS, ("new", "x")]}, "00002: expected the texts"),
        ({"records": [("x", RECORDS[0][1]), *RECORDS[1:]]}, "00000: expected the te"),
    ],
)
def test_another_question_is_refused(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    run(tmp_path)
    before = rows(tmp_path)
    with pytest.raises(InputError, match=message) as error:
        run(tmp_path, **options)
    assert "--fresh" in str(error.value)
    np.testing.assert_array_equal(rows(tmp_path), before)


def test_fresh_starts_anew(tmp_path: Path) -> None:
    run(tmp_path)
    assert not any(s.found for s in run(tmp_path, RECORDS[:3], dim=8, fresh=True))
    assert rows(tmp_path).shape == (3, 8)


def test_a_question_that_failed_binds_nobody(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="dim: expected a width from 1 to 16"):
        run(tmp_path, dim=17)
    assert len(run(tmp_path, dim=8)) == 3


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("name", ["notes.txt", "00000/dense.npy"])
def test_other_folders_are_left_alone(tmp_path: Path, name: str, fresh: bool) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        run(tmp_path, fresh=fresh)
    assert file.read_text() == "mine"
    with pytest.raises(InputError, match="found a file"):
        run(file, fresh=fresh)


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    run(tmp_path, RECORDS[:3])
    (tmp_path / ".00000.abc.tmp").mkdir()
    (tmp_path / ".meta.json.17.tmp").write_text("{")
    shutil.rmtree(tmp_path / "00000")
    run(tmp_path, RECORDS[:3])
    assert not (tmp_path / ".00000.abc.tmp").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard_size": 0}, "shard_size: expected a positive number, found 0"),
        ({"kind": "document"}, "kind: expected passage or query"),
        ({"task": "find"}, "task: expected a task for queries only"),
        ({"outputs": ("sparse",)}, "outputs: expected one or more of dense"),
        ({"records": []}, "expected a text to encode, found none"),
        ({"records": [("a", 1)]}, r"texts\[0\]: expected a string, found int"),
        ({"records": [(1, "a")]}, r"ids\[0\]: expected a string, found int"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(tmp_path, **options)


def test_folders_that_cannot_be_opened(tmp_path: Path) -> None:
    run(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    shutil.rmtree(tmp_path / "00001")
    with pytest.raises(InputError, match=r"of 7 texts in all, .*found 2 shards of 4"):
        open_shards(tmp_path)
    (tmp_path / "meta.json").write_text(json.dumps(meta)[:-9])
    with pytest.raises(InputError, match=r"meta\.json: expected JSON"):
        open_shards(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(InputError, match="expected a JSON object, found list"):
        open_shards(tmp_path)
