"""Every measure of our embeddings beside that of sentence-transformers' embeddings.

    python -m benchmarks.retrieval --only parity --peer PEERS/bin/python \
        --model FOLDER --data FOLDER [--keep FOLDER]

Both libraries encode the same texts with the same weights in float32, 256 tokens at
most; the same functions then measure both. With --keep the embeddings stay in a folder
and are used again: it belongs to one model and one state of the code.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.retrieval_process import ask, end, start, telling
from benchmarks.table import Row
from m3jax import Embedder
from m3jax.data.config import Dataset
from m3jax.data.labelled import read_classification
from m3jax.data.records import Retrieval
from m3jax.data.retrieval import read_beir
from m3jax.data.similarity import read_similarity
from m3jax.evaluation import classification, clustering
from m3jax.evaluation.retrieval import measure
from m3jax.evaluation.similarity import correlate
from m3jax.inference.dense_search import top_k

LENGTH, K, CLOSE = 256, 100, 0.002
RETRIEVAL = "squad_dev", "medquad", "arxiv_titles", "cranfield"
SIMILARITY = ("stsb/en",)
LABELLED = "banking77", "clinc150"

# Texts come and embeddings go as files: a line has the names of both.
PEER = """
import json, os, sys, time, warnings
import numpy as np
warnings.filterwarnings("ignore")
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
model.max_seq_length = int(sys.argv[2])
for line in sys.stdin:
    name, source, out = json.loads(line)
    with open(source, encoding="utf-8") as file:
        texts = json.load(file)
    order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
    found, begun = [], time.perf_counter()
    for first in range(0, len(texts), 1_024):
        some = [texts[i] for i in order[first : first + 1_024]]
        found.append(model.encode(some, batch_size=32, normalize_embeddings=True))
        done = first + len(some)
        speed = done / (time.perf_counter() - begun)
        told = f"{name}, theirs: {done:,} of {len(texts):,} texts, {speed:.0f}/s"
        print(told, file=sys.stderr, flush=True)
    rows = np.concatenate(found)
    kept = np.empty_like(rows)
    kept[order] = rows
    np.save(out + ".part.npy", kept)
    os.replace(out + ".part.npy", out)
    print(json.dumps(len(kept)), flush=True)
"""


@dataclass(frozen=True)
class Side:
    """Where embeddings of one set come from: texts in, embeddings of both out."""

    peer: str
    model: str
    folder: Path

    def encode(self, name: str, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embed texts with both libraries, or read what they have made before."""
        digest = hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]
        stem = f"{name.replace('/', '_')}.{digest}"
        ours, theirs = (
            self.folder / f"{stem}.{side}.npy" for side in ("ours", "theirs")
        )
        if not theirs.exists():
            self._theirs(name, texts, theirs)
        if not ours.exists():
            embedder = Embedder.load(self.model)
            found = embedder.encode_passage(
                texts,
                prompt="",
                max_length=LENGTH,
                progress=telling(f"{name}, ours", len(texts)),
            )
            assert found.dense is not None
            np.save(ours.with_suffix(".part.npy"), found.dense)
            os.replace(ours.with_suffix(".part.npy"), ours)
        return np.load(ours), np.load(theirs)

    def _theirs(self, name: str, texts: list[str], out: Path) -> None:
        source = self.folder / "texts.json"
        source.write_text(json.dumps(texts), encoding="utf-8")
        process = start(self.peer, PEER, self.model, str(LENGTH))
        ask(process, json.dumps([name, str(source), str(out)]))
        end(process)
        source.unlink()


def rows(peer: str, model: str, data: Path, keep: Path | None) -> Iterator[Row]:
    """Encode and measure one set after the other.

    Args:
        peer: interpreter that has sentence-transformers.
        model: a folder of all-MiniLM-L6-v2.
        data: has the sets.
        keep: where embeddings stay; None = nowhere.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() if keep is None else nullcontext(keep) as folder:
        side = Side(peer, model, Path(folder))
        for name in RETRIEVAL:
            yield from _retrieval(name, read_beir(data / name), side)
        for name in SIMILARITY:
            yield from _similarity(name, data / name / "test.jsonl.gz", side)
        for name in LABELLED:
            yield from _labelled(name, data / name, side)


def _retrieval(name: str, task: Retrieval, side: Side) -> Iterator[Row]:
    queries, passages = list(task.queries), list(task.corpus)
    texts = [*task.queries.values(), *task.corpus.values()]
    both = side.encode(name, texts)
    found = []
    for embeddings in both:
        query, passage = np.split(embeddings, [len(queries)])
        scores, at = top_k(query, passage, K)
        results = {
            one: {passages[i]: x for i, x in zip(row, values, strict=True)}
            for one, row, values in zip(
                queries, at.tolist(), scores.tolist(), strict=True
            )
        }
        found.append(measure(results, task.qrels))
    yield from _compared(name, both, *found)


def _similarity(name: str, path: Path, side: Side) -> Iterator[Row]:
    task = read_similarity(Dataset(str(path)), cache_folder=str(side.folder / "cache"))
    both = side.encode(name, [*task.first, *task.second])
    found = []
    for embeddings in both:
        first, second = np.split(embeddings, 2)
        found.append(correlate(np.einsum("ne,ne->n", first, second), task.scores))
    yield from _compared(name, both, *found)


def _labelled(name: str, folder: Path, side: Side) -> Iterator[Row]:
    task = read_classification(folder)
    train, test = task.train, task.test
    both = side.encode(name, [*train.texts, *test.texts])
    found = []
    for embeddings in both:
        left, right = np.split(embeddings, [len(train.texts)])
        print(f"{name}: probe, neighbours, clusters", file=sys.stderr, flush=True)
        parts = left, train.labels, right, test.labels
        probe, nearest = classification.linear_probe(*parts), classification.knn(*parts)
        clusters = clustering.measure(right, test.labels)
        found.append(
            {
                **{f"linear probe, {key}": x for key, x in probe.scores.items()},
                **{f"5 neighbours, {key}": x for key, x in nearest.scores.items()},
                "v-measure": clusters["v_measure"],
            }
        )
    yield from _compared(name, both, *found)


def _compared(
    name: str,
    both: tuple[np.ndarray, np.ndarray],
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
) -> Iterator[Row]:
    cosine = np.einsum("ne,ne->n", *both).min()
    yield Row(f"{name}: least cosine of {len(both[0]):,} texts", f"{cosine:.7f}")
    for key, own in ours.items():
        yield Row(
            f"{name}: {key}",
            f"{own:.4f}",
            f"{theirs[key]:.4f}",
            f"{own - theirs[key]:+.4f}",
            f"within {CLOSE}",
        )
