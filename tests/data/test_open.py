"""README's "Bring your data": every place and every layout that it names."""

import functools
import gzip
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import fsspec
import grain
import pyarrow
import pytest

from m3jax.core.errors import InputError
from m3jax.data.batching import make_plan
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.prepare import prepare
from m3jax.data.records import Labelled, Pairs, Scored, Text
from m3jax.data.sources import open as opening
from m3jax.data.sources.open import open_source
from m3jax.data.tokenised import TokenText
from m3jax.data.training_sets import measure, open_data
from m3jax.testing import tiny_tokenizer, write_jsonl
from tests.data.test_array_records import encoded, write
from tests.data.test_arrow import cached
from tests.data.test_tfds import Tiny

ROOT = Path(__file__).parent.parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README[README.index("## Bring your data") :].split("\n## ")[0]
ROWS = [{"query": f"q{i}", "pos": [f"p{i}"]} for i in range(5)]
PAIRS = [Pairs(f"q{i}", (f"p{i}",)) for i in range(5)]


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", SECTION, flags=re.DOTALL)


def test_each_layout_is_seen_from_its_row(tmp_path: Path) -> None:
    (block,) = blocks("json")
    lines = block.splitlines()
    kinds = [Pairs, Pairs, Pairs, Pairs, Scored, Labelled, Text]
    record: Any = None
    for line, kind in zip(lines, kinds, strict=True):
        path = tmp_path / f"{len(line)}.jsonl"
        path.write_text(line)
        (record,) = open_source(Dataset(str(path)), cache_folder=str(tmp_path))
        assert type(record) is kind
        if kind is Pairs:
            assert record.query == "what is slerp?" and "Spherical" in record.pos[0]
    assert record.text.startswith("A text alone")


def test_columns_by_their_order(tmp_path: Path) -> None:
    assert "--data.reading.columns question answer" in SECTION
    path = write_jsonl(
        tmp_path / "a.jsonl", [{"answer": "4", "no": 1, "question": "2 + 2"}]
    )
    dataset = Dataset(str(path), columns=("question", "answer"))
    assert open_source(dataset, cache_folder=str(tmp_path))[0] == Pairs("2 + 2", ("4",))


def test_premises_and_hypotheses(tmp_path: Path) -> None:
    rows = [
        ("a", "b", "entailment"),
        ("a", "c", "contradiction"),
        ("a", "d", "neutral"),
    ]
    names = ("premise", "hypothesis", "label")
    path = write_jsonl(
        tmp_path / "a.jsonl", [dict(zip(names, row, strict=True)) for row in rows]
    )
    source = open_source(Dataset(str(path)), cache_folder=str(tmp_path))
    assert (len(source), source[0]) == (1, Pairs("a", ("b",), ("c",)))


def jsonl(folder: Path) -> str:
    return str(write_jsonl(folder / "pairs.jsonl", ROWS))


def glob(folder: Path) -> str:
    for name, rows in (("a", ROWS[:2]), ("b", ROWS[2:])):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    return str(folder / "*.jsonl.gz")


def zstd(folder: Path) -> str:
    path = Path(jsonl(folder))
    with pyarrow.output_stream(f"{path}.zst", compression="zstd") as file:
        file.write(path.read_bytes())
    path.unlink()
    return f"{path}.zst"


def texts(folder: Path) -> str:
    (folder / "texts.txt").write_text("".join(f"q{i}\n" for i in range(5)))
    return str(folder / "texts.txt")


def parquet(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).to_parquet(str(folder / "train.parquet"))
    return str(folder / "train.parquet")


def hub(folder: Path) -> str:
    cached(folder, "owner___name")
    return "owner/name"


def saved(folder: Path) -> str:
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return str(folder / "saved")


def beir(folder: Path) -> str:
    (folder / "beir" / "qrels").mkdir(parents=True)
    numbers = range(5)
    passages = [{"_id": f"d{i}", "title": "", "text": f"p{i}"} for i in numbers]
    write_jsonl(folder / "beir" / "corpus.jsonl", passages)
    queries = [{"_id": f"{i}", "text": f"q{i}"} for i in numbers]
    write_jsonl(folder / "beir" / "queries.jsonl", queries)
    judged = "".join(f"{i}\td{i}\t1\n" for i in numbers)
    path = folder / "beir" / "qrels" / "train.tsv"
    path.write_text(f"query-id\tcorpus-id\tscore\n{judged}")
    return str(folder / "beir")


def tfds(folder: Path) -> str:
    Tiny(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return "tfds:tiny"


def array_record(folder: Path) -> str:
    return str(write(folder / "rows.array_record", encoded(ROWS)))


def url(folder: Path) -> str:
    text = "".join(json.dumps(row) + "\n" for row in ROWS)
    fsspec.filesystem("memory").pipe("/bucket/pairs.jsonl", text.encode())
    return "memory://bucket/pairs.jsonl"


def builtin(folder: Path) -> str:
    return "builtin"


# The first words of each row of README's table -> a data set of that kind.
PLACES: dict[str, tuple[Callable[[Path], str], ...]] = {
    '`pairs.jsonl`, `"data/*.jsonl.gz"`, `pairs.jsonl.zst`': (jsonl, glob, zstd),
    "`texts.txt`": (texts,),
    "`train.parquet`": (parquet,),
    "`sentence-transformers/all-nli`": (hub,),
    "a folder": (saved, beir),
    "`tfds:NAME`": (tfds,),
    "`rows.array_record`": (array_record,),
    "`gs://bucket/pairs.jsonl`": (url,),
    "`builtin`": (builtin,),
}


def test_every_place_of_the_table_is_opened_below() -> None:
    rows = re.findall(r"^\| (.*?) \|", SECTION, flags=re.MULTILINE)
    assert rows[2:] == list(PLACES)


@pytest.mark.parametrize("make", [make for some in PLACES.values() for make in some])
def test_a_place(
    make: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_tfds = functools.partial(opening.tfds.open_tfds, data_dir=str(tmp_path))
    monkeypatch.setattr(opening.tfds, "open_tfds", open_tfds)
    # Of two of them the columns are not all known: some are named.
    options: dict[Any, Any] = {tfds: {"layout": "flagembedding"}}
    options[hub] = {"columns": ("text",)}
    dataset = Dataset(make(tmp_path), **options.get(make, {}))
    source = open_source(dataset, cache_folder=str(tmp_path))
    source.check()
    assert isinstance(source, grain.sources.RandomAccessDataSource)
    if make is texts:
        assert [source[i] for i in range(5)] == [Text(f"q{i}") for i in range(5)]
    elif make is builtin:
        assert len(source) > 1_000
    elif make in (hub, tfds):
        assert len(source) == (25 if make is hub else 10)
    else:
        assert [source[i] for i in range(len(source))] == PAIRS


def test_a_prepared_folder_is_a_data_set(tmp_path: Path) -> None:
    source = open_source(Dataset(jsonl(tmp_path)), cache_folder=str(tmp_path))
    prepare(source, tiny_tokenizer(), tmp_path / "prepared", root=tmp_path, show=False)
    found = open_source(Dataset(str(tmp_path / "prepared")))
    assert len(found) == 5
    query: Any = found[3].query  # type: ignore[union-attr]
    assert isinstance(query, TokenText)


def test_the_mixture_of_the_readme(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = [{"query": f"q{i}", "pos": [f"p{i}"], "neg": ["n"]} for i in range(300)]
    write_jsonl(Path("questions.jsonl"), pairs)
    write_jsonl(Path("nli.jsonl"), pairs[:200])
    intents = [{"text": f"t{i}", "label": f"l{i % 9}"} for i in range(130)]
    write_jsonl(Path("intents.jsonl"), intents)
    (code,) = blocks("python")
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    data: DataConfig = names["data"]
    opened = measure(data, open_data(data), tiny_tokenizer())
    assert [one.group for one in opened] == [1, 8, 8]
    assert len(opened[1].query_prompts) == 2
    plan = make_plan(data, opened, seed=0).lasting(50)
    assert [int((plan.turns[:50] == i).sum()) for i in range(3)] == [30, 10, 10]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("pairs.jsnl", "expected a file ending in .jsonl, .*found .jsnl"),
        ("pairs", "expected a file ending in .jsonl, .*found no ending"),
        ("pair.jsonl", "found nothing of that name. Did you mean .*pairs.jsonl"),
        ("*.zst", "found"),
        ("empty", "expected a folder that was prepared"),
    ],
)
def test_what_cannot_be_opened(path: str, said: str, tmp_path: Path) -> None:
    jsonl(tmp_path)
    (tmp_path / "pairs").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=said) as error:
        open_source(Dataset(str(tmp_path / path)), cache_folder=str(tmp_path))
    assert "\n" not in str(error.value)


def test_files_of_two_kinds_are_no_data_set(tmp_path: Path) -> None:
    jsonl(tmp_path)
    texts(tmp_path)
    with pytest.raises(InputError, match="files of one kind, found json, text"):
        open_source(Dataset(str(tmp_path / "*s.*")), cache_folder=str(tmp_path))


def test_the_first_good_row_tells_the_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"query": 1\n{"no": "layout"}\n' + json.dumps(ROWS[0]) + "\n")
    dataset = Dataset(str(path))
    with pytest.raises(InputError, match=r"a\.jsonl:1: expected a line of JSON"):
        open_source(dataset, cache_folder=str(tmp_path))
    skipping = Dataset(str(path), on_bad_row="skip")
    assert open_source(skipping, cache_folder=str(tmp_path))[2] == PAIRS[0]
    path.write_text('{"query": 1\n' * 120 + json.dumps(ROWS[0]) + "\n")
    said = r"a row among the first 100 that tells the layout, found none \(.*jsonl:1: "
    with pytest.raises(InputError, match=said):
        open_source(skipping, cache_folder=str(tmp_path))


@pytest.mark.parametrize(
    "text", ["[{rows}]", "[\n{rows}\n]\n", "\n  [{rows},\n{rows}]"]
)
@pytest.mark.parametrize("on_bad_row", ["stop", "skip"])
def test_an_array_of_rows_is_no_file_of_lines(
    text: str, on_bad_row: Any, tmp_path: Path
) -> None:
    (tmp_path / "a.json").write_text(text.replace("{rows}", json.dumps(ROWS[0])))
    dataset = Dataset(str(tmp_path / "a.json"), on_bad_row=on_bad_row)
    with pytest.raises(
        InputError, match=r"found one array of them\. Write each object"
    ):
        open_source(dataset, cache_folder=str(tmp_path))


def test_a_list_among_rows_is_a_bad_row(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(f"[1]\n{json.dumps(ROWS[0])}\n")
    dataset = Dataset(str(path), on_bad_row="skip")
    assert open_source(dataset, cache_folder=str(tmp_path))[1] == PAIRS[0]


def test_a_program_that_lost_its_guard_says_so(tmp_path: Path) -> None:
    """A script without `if __name__ == "__main__"` runs again in every process."""
    rows = ({"query": f"q{i}", "pos": ["p"]} for i in range(20_000))
    write_jsonl(tmp_path / "a.jsonl", rows)
    script = tmp_path / "script.py"
    script.write_text(
        "from m3jax.data.config import DataConfig\n"
        "from m3jax.data.training_sets import open_data\n"
        "open_data(DataConfig(train='a.jsonl', dev='builtin', cache='cache'))\n"
    )
    done = subprocess.run(
        [shutil.which("python") or "python", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode and "__main__" in done.stderr
