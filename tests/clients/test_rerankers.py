"""Our rerankers in the hands of the real clients."""

import json
from typing import Any

import numpy as np
import pytest

from m3jax.data.pairs import BODY, PREFIX, SUFFIX
from m3jax.hub.reranker import TASK
from m3jax.inference import batches

CLASSIFIERS = ("bert", "xlmr", "reranker_bert", "reranker_xlmr")
CAUSAL = (
    *("qwen2", "qwen3", "qwen3 tied"),
    *("reranker_qwen3", "reranker_qwen3_untied"),
)
# None is cut, where the clients differ; and none has an empty passage, which
# FlagEmbedding 1.4.2 loses with transformers 5.
PAIRS = [
    ("what is a cell?", "the cell is the smallest unit of life"),
    ("what is a cell?", "Ärzte messen 37 °C, naïve café"),
    ("", "the unit of life"),
    ("the cell", "the cell"),
    ("細胞", "細胞は生命の単位です"),
    ("zebra quiz", "the zebra, the quiz and the cell"),
]


@pytest.fixture(scope="module")
def opened(exports, peer, tmp_path_factory) -> dict[str, dict[str, Any]]:
    """What the clients say about every folder."""
    folder = tmp_path_factory.mktemp("opened")
    body = BODY.format(task=TASK, query="{query}", passage="{passage}")
    jobs = [
        {
            "folder": str(exports[f"rerank {name}"]),
            "pairs": PAIRS,
            "chat": [PREFIX, body, SUFFIX] if name in CAUSAL else None,
        }
        for name in (*CLASSIFIERS, *CAUSAL)
    ]
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    peer("open_reranker.py", folder / "jobs.json", folder)
    found = {}
    for number, name in enumerate((*CLASSIFIERS, *CAUSAL)):
        with np.load(folder / f"{number}.npz") as file:
            found[name] = dict(file)
    return found


@pytest.mark.parametrize("name", [*CLASSIFIERS, *CAUSAL])
def test_our_reranker_opens(name, rerankers, opened, monkeypatch) -> None:
    # All in one batch, since compiling takes the time here.
    monkeypatch.setattr(batches, "RUNGS", ())
    model, found = rerankers[name], opened[name]
    assert found["wrong"].tolist() == []
    logits = model.logits(PAIRS, batch_tokens=1 << 20)
    scores = model.score(PAIRS, batch_tokens=1 << 20)
    print(f"{name}: {np.abs(found['probability'] - scores).max():.1e}")
    np.testing.assert_allclose(found["logits"], logits, atol=1e-4, rtol=0)
    np.testing.assert_allclose(found["probability"], scores, atol=1e-5, rtol=0)
    if name in CLASSIFIERS:
        np.testing.assert_allclose(found["flag_logits"], logits, atol=1e-4, rtol=0)
        theirs = found["flag_probability"]
        np.testing.assert_allclose(theirs, scores, atol=1e-5, rtol=0)
    assert np.ptp(scores) > 1e-2  # the pairs do not come out alike
