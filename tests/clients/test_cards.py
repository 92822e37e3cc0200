"""The code of our model cards runs as it is, in every client."""

import contextlib
import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

QUERY, PASSAGE = "what is a cell?", "A cell is the smallest unit of life."
KNOWN = "the cell is the smallest unit of life"
# Client -> the variable that its block leaves.
EMBEDDERS = {"SentenceTransformer": "queries", "AutoModel": "vectors"}
BLOCKS = [
    *[
        (name, client)
        for name in (
            *("bert mean", "bert cls", "bert last", "bert mlp head", "xlmr mean"),
            *("qwen2 mean", "qwen2 bidirectional", "qwen3 last", "qwen3", "simcse"),
        )
        for client in EMBEDDERS
    ],
    ("xlmr heads mean", "BGEM3FlagModel"),
    ("m3", "BGEM3FlagModel"),
    *[
        (f"rerank {name}", client)
        for name in ("bert", "xlmr")
        for client in ("CrossEncoder", "FlagReranker")
    ],
    *[
        (f"rerank {name}", "AutoModelForCausalLM")
        for name in ("qwen3", "qwen3 tied", "reranker_qwen3")
    ],
]


def block(folder: Path, client: str) -> str:
    """The block of the card that uses a client, with the real folder."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    (code,) = (code for code in blocks if re.search(rf"\b{client}[.(]", code))
    assert "FOLDER" in code
    if client == "FlagReranker":
        # FlagEmbedding 1.4.2 goes back to text with transformers 5, which loses what
        # the small vocabulary does not know: capitals and full stops.
        code = code.replace(PASSAGE, KNOWN)
    return code.replace("FOLDER", str(folder))


@pytest.fixture(scope="module")
def found(exports, peer, tmp_path_factory) -> dict[tuple[str, str], Any]:
    """What every block says."""
    variables = {**EMBEDDERS, "BGEM3FlagModel": "found"}
    jobs = [
        (block(exports[name], client), variables.get(client, "scores"))
        for name, client in BLOCKS
    ]
    path = tmp_path_factory.mktemp("cards") / "blocks.json"
    path.write_text(json.dumps(jobs), encoding="utf-8")
    values = json.loads(peer("run_blocks.py", path).splitlines()[-1])
    return dict(zip(BLOCKS, values, strict=True))


@pytest.mark.parametrize(("name", "client"), BLOCKS)
def test_the_code_of_the_card_runs(name, client, found, embedders, rerankers) -> None:
    value = found[name, client]
    if name.startswith("rerank "):
        passage = KNOWN if client == "FlagReranker" else PASSAGE
        ours = rerankers[name.removeprefix("rerank ")].score([(QUERY, passage)])
        np.testing.assert_allclose(np.ravel(value), ours, atol=1e-5, rtol=0)
        return
    model = embedders[name]
    if client in EMBEDDERS:
        ours = model.encode_query([QUERY]).dense
        np.testing.assert_allclose(value, ours, atol=1e-5, rtol=0)
        return
    ours = model.encode_passage(
        [QUERY], prompt="", outputs=("dense", "sparse", "multivec")
    )
    np.testing.assert_allclose(value["dense_vecs"], ours.dense, atol=1e-5, rtol=0)
    weights = {int(token): float(x) for token, x in value["lexical_weights"][0].items()}
    assert weights == pytest.approx(ours.sparse[0], abs=1e-5)
    vectors = value["colbert_vecs"][0]
    np.testing.assert_allclose(vectors, ours.multivec[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["bert mean", "rerank qwen3"])
def test_our_own_code_of_the_card_runs(name, exports, embedders, rerankers) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(block(exports[name], "load"), {})
    if name.startswith("rerank "):
        ours = rerankers[name.removeprefix("rerank ")].score([(QUERY, PASSAGE)])
    else:
        model = embedders[name]
        ours = (
            model.encode_query([QUERY]).dense @ model.encode_passage([PASSAGE]).dense.T
        )
    said = float(out.getvalue().strip(" []\n"))
    assert said == pytest.approx(ours.item(), abs=1e-5)
