"""Small data sets, in files laid out as the published ones."""

import gzip
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = Sequence[Mapping[str, Any]]

PASSAGES = [
    {"_id": "4983", "title": "Salt", "text": "It dissolves."},
    {"_id": "5836", "title": "", "text": "Iron rusts."},
    {"_id": "7912", "title": "Gold", "text": "It does not."},
]
QUERIES = [
    {"_id": "0", "title": "", "text": "What dissolves?"},
    {"_id": "2", "title": "", "text": "What rusts?"},
    {"_id": "4", "title": "", "text": "Of another split."},
]


def write_beir(
    root: Path,
    name: str,
    *,
    forum: str = "",
    passages: Rows = PASSAGES,
    queries: Rows = QUERIES,
    qrels: Mapping[str, str] | None = None,
) -> None:
    base, judged = root / "BeIR" / name / forum, root / "BeIR" / f"{name}-qrels" / forum
    half = len(passages) // 2
    write_parquet(base / "corpus" / "corpus-00000-of-00002.parquet", passages[:half])
    write_parquet(base / "corpus" / "corpus-00001-of-00002.parquet", passages[half:])
    write_parquet(base / "queries" / "queries-00000-of-00001.parquet", queries)
    (base / "README.md").write_text("No file of the data.")
    judged.mkdir(parents=True, exist_ok=True)
    for split, lines in (qrels or {"test": "0\t4983\t1\n2\t5836\t2\n"}).items():
        header = "query-id\tcorpus-id\tscore\n"
        (judged / f"{split}.tsv").write_text(header + lines)


def write_miracl(
    root: Path,
    language: str,
    *,
    shards: Sequence[Rows],
    topics: str,
    qrels: str,
    split: str = "dev",
) -> None:
    stem = f"miracl-v1.0-{language}"
    for kind, lines in (("topics", topics), ("qrels", qrels)):
        folder = root / "miracl" / "miracl" / stem / kind
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{kind}.{stem}-{split}.tsv"
        file.write_text(lines, encoding="utf-8")
    corpus = root / "miracl" / "miracl-corpus" / f"miracl-corpus-v1.0-{language}"
    for number, rows in enumerate(shards):
        write_json_lines(corpus / f"docs-{number}.jsonl.gz", rows)


def write_mkqa(root: Path, questions: Mapping[str, Rows]) -> None:
    folder = root / "Shitao" / "bge-m3-data"
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / "MKQA_test-data.zip", "w") as packed:
        for language, rows in questions.items():
            packed.writestr(f"{language}.jsonl", json_lines(rows))
    write_beir(root, "nq", qrels={"test": ""})


def write_mldr(root: Path, language: str, *, passages: Rows, queries: Rows) -> None:
    folder = root / "Shitao" / "MLDR" / f"mldr-v1.0-{language}"
    write_json_lines(folder / "corpus.jsonl.gz", passages)
    write_json_lines(folder / "test.jsonl.gz", queries)


def write_parquet(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), path)


def write_json_lines(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(json_lines(rows).encode()))


def json_lines(rows: Rows) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
