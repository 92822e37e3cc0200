"""Every family through the public API, against what the real clients said of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import m3jax
from m3jax.core.types import Tokens
from m3jax.hub import torch_file
from m3jax.nn.encoder import make_encoder

GOLDEN = Path(__file__).parent.parent / "golden"
ALL = ("dense", "sparse", "multivec")
SIMCSE = "princeton-nlp/{}-simcse-bert-base-uncased"
# Golden folder, what it is asked for, name of its ids and states in expected.npz.
STATES = [
    ("bert", "", "hidden"),
    ("roberta", "", "hidden"),
    ("simcse", "", "hidden"),
    ("m3", "_16", "hidden_16"),
    ("qwen2", "", "hidden"),
    ("qwen3", "", "hidden"),
]
# Golden folder, kind of text, array of expected.npz, how it is loaded and called, and
# the rows that are compared: few where only the last step differs.
DENSE: list[tuple[str, str, str, dict, dict, slice]] = [
    ("bert", "plain", "mean", {}, {}, slice(None)),
    ("m3", "plain", "mean_16", {"pooling": "mean"}, {"max_length": 16}, slice(None)),
    ("qwen2", "passage", "document", {}, {}, slice(None)),
    ("qwen2", "passage", "document_8", {}, {"dim": 8}, slice(1)),
    ("qwen3", "passage", "document", {}, {}, slice(None)),
    ("qwen3", "query", "query", {}, {}, slice(None)),
    ("qwen3", "query", "query_8", {}, {"dim": 8}, slice(3)),
    (
        "simcse",
        "plain",
        "pooler_normalized",
        {"like": SIMCSE.format("sup")},
        {"max_length": 24},
        slice(None),
    ),
    (
        "simcse",
        "plain",
        "cls_normalized",
        {"like": SIMCSE.format("unsup")},
        {"max_length": 24},
        slice(None),
    ),
]
IDS = [f"{case[0]}-{case[2]}" for case in DENSE]

# The goldens hold texts far longer than the models.
pytestmark = pytest.mark.filterwarnings("ignore:.*were cut")


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / name / "expected.npz") as file:
        return dict(file)


def encode(model: m3jax.Embedder, kind: str, texts: list[str], **options: Any) -> Any:
    if kind == "query":
        return model.encode_query(texts, **options)
    if kind == "plain":
        options["prompt"] = ""
    return model.encode_passage(texts, **options)


def near(found: Any, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=atol, rtol=0)


def weights_of(expected: dict[str, np.ndarray], name: str) -> list[dict[int, float]]:
    """FlagEmbedding's lexical_weights, a dictionary a text."""
    rows: list[dict[int, float]] = [{} for _ in expected["texts"]]
    columns = (expected[f"sparse_{name}_{part}"] for part in ("text", "id", "weight"))
    for text, token, weight in zip(*columns, strict=True):
        rows[text][int(token)] = float(weight)
    return rows


def hidden(model: m3jax.Embedder, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    encoder = make_encoder(model.module.config.encoder)
    tokens = Tokens(jnp.asarray(ids), jnp.asarray(mask, bool))
    found = jax.jit(encoder.apply)({"params": model.params["encoder"]}, tokens)
    return np.asarray(found, np.float32)


@pytest.mark.parametrize(("name", "end", "states"), STATES, ids=lambda case: case)
def test_hidden_states(name, end, states) -> None:
    model, expected = m3jax.Embedder.load(GOLDEN / name), golden(name)
    mask = expected[f"mask{end}"].astype(bool)
    found = hidden(model, expected[f"ids{end}"], mask)
    near(found[mask], expected[states][mask])


@pytest.mark.parametrize("case", DENSE, ids=IDS)
def test_dense(case) -> None:
    name, kind, array, loading, calling, rows = case
    expected = golden(name)
    model = m3jax.Embedder.load(GOLDEN / name, **loading)
    found = encode(model, kind, expected["texts"][rows].tolist(), **calling).dense
    near(found, expected[array][rows])
    assert expected[array].std(0).mean() > 0.02  # the texts do differ


def cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    product = (left * right).sum(-1)
    return product / np.linalg.norm(left, axis=-1) / np.linalg.norm(right, axis=-1)


# Where texts of one length, so that one program is compiled, are enough for every day.
BFLOAT16 = ["bert-mean", "qwen2-document", "qwen3-query", "simcse-pooler_normalized"]


@pytest.mark.parametrize(
    ("case", "all_of_them"),
    [
        *((case, False) for case in BFLOAT16),
        *(pytest.param(case, True, marks=pytest.mark.slow) for case in IDS),
    ],
)
def test_bfloat16(case, all_of_them) -> None:
    name, kind, array, loading, calling, rows = DENSE[IDS.index(case)]
    expected = golden(name)
    model = m3jax.Embedder.load(GOLDEN / name, dtype="bfloat16", **loading)
    dtypes = {str(leaf.dtype) for leaf in jax.tree.leaves(model.params)}
    assert dtypes == {"bfloat16"}
    if not all_of_them:
        rows = np.flatnonzero(expected["mask"].sum(1) > 16)
    found = encode(model, kind, expected["texts"][rows].tolist(), **calling).dense
    assert found.dtype == np.float32
    assert cosines(found, expected[array][rows]).min() > 0.999


@pytest.fixture(scope="module")
def m3() -> m3jax.Embedder:
    return m3jax.Embedder.load(GOLDEN / "m3")


@pytest.mark.parametrize("length", [16, 512])
def test_sparse_and_multivec(length, m3) -> None:
    expected = golden("m3")
    texts = expected["texts"].tolist()
    found: Any = m3.encode_passage(texts, outputs=ALL, max_length=length)
    near(found.dense, expected[f"dense_{length}"])
    for ours, theirs in zip(
        found.sparse, weights_of(expected, str(length)), strict=True
    ):
        assert ours == pytest.approx(theirs, abs=1e-5)
    if length == 16:
        near(found.multivec.vectors, expected["colbert_16"])
        np.testing.assert_array_equal(
            found.multivec.offsets, expected["colbert_16_offsets"]
        )
    else:
        longest = max(found.multivec, key=len)
        near(longest[expected["colbert_512_row"]], expected["colbert_512"])


def test_a_narrower_multivec_head(tmp_path) -> None:
    expected = golden("m3")
    shutil.copytree(GOLDEN / "m3", tmp_path / "m3")
    head = {"weight": expected["small_weight"], "bias": expected["small_bias"]}
    (tmp_path / "m3" / "colbert_linear.pt").unlink()
    torch_file.write(tmp_path / "m3" / "colbert_linear.pt", head)
    model = m3jax.Embedder.load(tmp_path / "m3")
    assert model.module.config.multivec == 8
    texts = expected["texts"].tolist()
    found: Any = model.encode_passage(texts, outputs=["multivec"], max_length=16)
    near(found.multivec.vectors, expected["small_16"])


SCORES = {
    "dense": "score_dense",
    "sparse": "score_sparse",
    "multivec": "score_colbert",
    "dense+sparse": "{}_sparse_dense",
    "all": "{}_colbert_sparse_dense",
}


@pytest.mark.parametrize(
    ("weights", "start"), [((1, 1, 1), "score"), ((0.4, 0.2, 0.4), "weighted")]
)
def test_compute_score(weights, start, m3) -> None:
    expected = golden("m3")
    queries, passages = expected["pairs"].T.tolist()
    query = m3.encode_query(queries, outputs=ALL)
    passage = m3.encode_passage(passages, outputs=ALL)
    found = m3jax.scores.pairs(query, passage, weights=weights)
    assert found.keys() == SCORES.keys()
    for name, array in SCORES.items():
        near(found[name], expected[array.format(start)], atol=1e-4)
    # The matrices of all pairs say the same.
    whole = m3jax.scores.hybrid(query, passage, weights=weights)
    near(whole.diagonal(), found["all"])


def test_bfloat16_of_all_three_outputs() -> None:
    expected = golden("m3")
    model = m3jax.Embedder.load(GOLDEN / "m3", dtype="bfloat16")
    texts = expected["texts"].tolist()
    found: Any = model.encode_passage(texts, outputs=ALL, max_length=16)
    assert cosines(found.dense, expected["dense_16"]).min() > 0.999
    assert cosines(found.multivec.vectors, expected["colbert_16"]).min() > 0.999
    for ours, theirs in zip(found.sparse, weights_of(expected, "16"), strict=True):
        tokens = sorted({*ours, *theirs})
        left, right = ([row.get(t, 0.0) for t in tokens] for row in (ours, theirs))
        if any(right):
            assert cosines(np.array(left), np.array(right)) > 0.999


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_bidirectional(name, tmp_path) -> None:
    expected = golden(name)
    shutil.copytree(GOLDEN / name, tmp_path / name)
    path = tmp_path / name / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "is_causal": False}))
    model = m3jax.Embedder.load(tmp_path / name)
    encoder: Any = model.module.config.encoder
    assert encoder.attention == "bidirectional"
    rows = np.flatnonzero(expected["mask"].sum(1) > 16)
    rows = rows[:-1]  # of one length
    found = model.encode_passage(expected["texts"][rows].tolist()).dense
    near(found, expected["document_bidirectional"][rows])
    assert np.abs(found - expected["document"][rows]).max() > 0.01


RERANKERS: dict[str, dict[str, Any]] = {
    "reranker_xlmr": {"max_length": 64},
    "reranker_bert": {},
    "reranker_qwen3": {"max_length": 201},
    "reranker_qwen3_untied": {"max_length": 201},
}


def logits_of(name: str, expected: dict[str, np.ndarray]) -> np.ndarray:
    if "qwen3" in name:
        return expected["yes"] - expected["no"]
    return expected["score"]


def asked(name: str, expected: dict[str, np.ndarray]) -> dict[str, Any]:
    task = {"task": str(expected["instruction"])} if "qwen3" in name else {}
    return {**RERANKERS[name], **task}


@pytest.mark.parametrize("name", RERANKERS)
def test_rerankers(name) -> None:
    expected = golden(name)
    model = m3jax.Reranker.load(GOLDEN / name)
    pairs = [tuple(pair) for pair in expected["pairs"].tolist()]
    options = asked(name, expected)
    logits = logits_of(name, expected)
    near(model.logits(pairs, **options), logits)
    found = model.score(iter(pairs), **options)
    near(found, 1 / (1 + np.exp(-logits)))
    for array in ("score_normalized", *(["score"] if "qwen3" in name else [])):
        if array in expected:
            near(found, expected[array])
    assert found.dtype == np.float32
    assert found.std() > 0.01  # the pairs do differ


@pytest.mark.parametrize("name", ["reranker_xlmr", "reranker_qwen3"])
def test_rerankers_in_bfloat16(name) -> None:
    expected = golden(name)
    model = m3jax.Reranker.load(GOLDEN / name, dtype="bfloat16")
    rows = [1, -1] if "qwen3" in name else [0, 1]  # of one length
    pairs = [tuple(pair) for pair in expected["pairs"][rows].tolist()]
    found = model.score(pairs, **asked(name, expected))
    said = 1 / (1 + np.exp(-logits_of(name, expected)[rows]))
    np.testing.assert_allclose(found, said, atol=0.02)
