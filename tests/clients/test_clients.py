"""Our embedding models in the hands of the real clients."""

import json
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import scores
from m3jax.core.types import Tokens
from m3jax.data import tokenize
from m3jax.inference import batches
from m3jax.inference.embedder import Embedder
from m3jax.inference.encoded import Encoded
from m3jax.nn.encoder import make_encoder

SMALL = (
    *("bert mean", "bert cls", "bert last", "bert mlp head", "bert in training"),
    *("bert pairs", "bert bfloat16", "xlmr mean", "xlmr heads mean"),
    *("qwen2 mean", "qwen2 bidirectional", "qwen3 last", "qwen3 bidirectional"),
    *("qwen3 pairs", "qwen3 bfloat16", "qwen3 sharded"),
)
GOLDEN = ("bert", "m3", "qwen2", "qwen3", "roberta", "simcse")
HEADS = ("xlmr heads mean", "m3")
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("what is a cell?", "Ärzte messen 37 °C, naïve café"),
    ("the cell, the cell", "the cell and the cell and the unit of the cell"),
    ("a", ""),
    ("細胞", "細胞は生命の単位です"),
    ("what is life?", "the unit of life is a cell, and what is life? " * 60),
]
# Keys of FlagEmbedding's compute_score, and ours.
KEYS = {
    "dense": "dense",
    "sparse": "sparse",
    "colbert": "multivec",
    "sparse+dense": "dense+sparse",
    "colbert+sparse+dense": "all",
}


def wanted(name: str, texts: list[str]) -> list[str]:
    # Without a token at all, as in qwen2's empty text, clients make nan.
    return [text for text in texts if text] if name.startswith("qwen2") else texts


@pytest.fixture(scope="module")
def opened(exports, peer, texts, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What the clients say about every folder."""
    folder = tmp_path_factory.mktemp("opened")
    names = [*SMALL, *GOLDEN]
    jobs = [
        {
            "folder": str(exports[name]),
            "texts": wanted(name, texts),
            "pairs": PAIRS if name in HEADS else None,
            "pooling": "mean" if name.endswith("mean") else "cls",
        }
        for name in names
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    peer("open_export.py", folder / "jobs.json", folder)
    return {name: read(folder / f"{at}.npz") for at, name in enumerate(names)}


def read(path: Path) -> dict[str, Any]:
    with np.load(path) as file:
        return dict(file)


def encode(model: Embedder, texts: list[str], *outputs: str) -> Encoded:
    """All in one batch, since compiling takes the time here."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a text was cut
        patch.setattr(batches, "RUNGS", ())
        return model.encode_passage(
            texts, prompt="", outputs=outputs or ("dense",), batch_tokens=1 << 20
        )


def in_float32(model: Embedder, folder: Path) -> Embedder:
    """The model as it is, or as we load it in float32 if it is bfloat16."""
    if model.module.config.encoder.dtype == "float32":
        return model
    return Embedder.load(folder)


def states(model: Embedder, texts: list[str]) -> tuple[list[list[int]], np.ndarray]:
    """Ids of each text, and the hidden states of all, one after the other."""
    rows = tokenize.encode(model.tokenizer, texts, max_length=model.max_length)
    padded = tokenize.pad(rows, max(map(len, rows)), model.tokenizer.pad_id)
    ids, mask = map(jax.numpy.asarray, padded)
    params = {"params": model.params["encoder"]}
    encoder = jax.jit(make_encoder(model.module.config.encoder).apply)
    hidden = encoder(params, Tokens(ids, mask))
    return [row.tolist() for row in rows], np.asarray(hidden)[padded[1]]


@pytest.mark.parametrize("name", [*SMALL, *GOLDEN])
def test_our_export_opens(name, embedders, exports, opened, texts) -> None:
    model, found = in_float32(embedders[name], exports[name]), opened[name]
    config = embedders[name].module.config
    texts = wanted(name, texts)
    # Nothing is missing but the pooler, which no embedding depends on.
    pooler = {"pooler.dense.weight", "pooler.dense.bias"}
    assert set(found["wrong"]) <= (set() if config.mlp_head == "always" else pooler)
    assert found["dtype"] == f"torch.{config.encoder.dtype}"
    head = ["Dense"] if config.mlp_head == "always" else []
    assert list(found["modules"]) == ["Transformer", "Pooling", *head, "Normalize"]
    assert found["max_length"] == model.max_length
    assert found["similarity"] == "cosine"

    rows, hidden = states(model, texts)
    real = found["mask"]
    assert [
        ids[mask].tolist() for ids, mask in zip(found["ids"], real, strict=True)
    ] == rows
    np.testing.assert_allclose(found["hidden"][real], hidden, atol=1e-4, rtol=0)
    prompts = {
        "plain": "",
        "query": model.prompts.query,
        "passage": model.prompts.passage,
    }
    prompted = [prompt + text for prompt in prompts.values() for text in texts]
    encoded = encode(model, prompted).dense
    assert encoded is not None
    vectors = np.split(encoded, len(prompts))
    for (kind, prompt), ours in zip(prompts.items(), vectors, strict=True):
        print(f"{name}, {kind}: {np.abs(found[kind] - ours).max():.1e}")
        np.testing.assert_allclose(found[kind], ours, atol=1e-5, rtol=0, err_msg=kind)
        if prompt:
            assert np.abs(found[kind] - found["plain"]).max() > 1e-2
    if name in SMALL:
        assert np.abs(found["query"] - found["passage"]).max() > 1e-2
    if config.encoder.dtype == "bfloat16":
        low = encode(embedders[name], texts).dense
        assert (low * found["plain"]).sum(-1).min() > 0.999


@pytest.mark.parametrize("name", HEADS)
def test_flag_embedding_opens_all_heads(name, embedders, opened, texts) -> None:
    model, found = embedders[name], opened[name]
    outputs = ("dense", "sparse", "multivec")
    sides = [pair[side] for side in (0, 1) for pair in PAIRS]
    encoded = encode(model, [*texts, *sides], *outputs)
    ours, sides = encoded[: len(texts)], encoded[len(texts) :]
    query, passage = sides[: len(PAIRS)], sides[len(PAIRS) :]
    assert ours.sparse is not None and ours.multivec is not None
    assert ours.dense is not None
    np.testing.assert_allclose(found["flag_dense"], ours.dense, atol=1e-5, rtol=0)
    theirs = json.loads(str(found["flag_sparse"]))
    for weights, row in zip(theirs, ours.sparse, strict=True):
        assert {int(token) for token in weights} == set(row)
        for token, weight in weights.items():
            assert row[int(token)] == pytest.approx(weight, abs=1e-5)
    assert sum(map(len, ours.sparse)) > 20
    assert found["flag_counts"].tolist() == [len(rows) for rows in ours.multivec]
    vectors = np.concatenate(list(ours.multivec))
    np.testing.assert_allclose(found["flag_vectors"], vectors, atol=1e-5, rtol=0)
    for kind, weights in (("equal", (1, 1, 1)), ("weighted", (0.4, 0.2, 0.4))):
        said = scores.pairs(query, passage, weights=weights)
        for key, name in KEYS.items():
            np.testing.assert_allclose(
                found[f"{kind} {key}"], said[name], atol=1e-4, rtol=0, err_msg=key
            )
