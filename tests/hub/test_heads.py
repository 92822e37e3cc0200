"""The files of BGE-M3's heads, whole, damaged, hostile or missing."""

import pickle
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.hub import torch_file
from m3jax.hub.folder import load

M3 = Path(__file__).parent.parent / "golden" / "m3"
SPARSE, MULTIVEC = "sparse_linear.pt", "colbert_linear.pt"


class Evil:
    """Pickled as a call that leaves a file behind."""

    def __reduce__(self) -> Any:
        return open, ("pwned", "w")


def head(name: str, **tensors: np.ndarray) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        torch_file.write(folder / name, tensors)

    return change


def content(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes(
        change((folder / name).read_bytes())
    )


ONE, WIDE = np.ones((1, 16), np.float32), np.ones((8, 16), np.float32)
EVIL = pickle.dumps({"weight": Evil()}, 2)
BAD = {
    # name: (change, file that is named, message)
    "hostile sparse head": (
        content(SPARSE, lambda _: EVIL),
        SPARSE,
        r"global _?io\.open",
    ),
    "hostile multi-vector head": (
        content(MULTIVEC, lambda _: EVIL),
        MULTIVEC,
        r"global _?io\.open",
    ),
    "hostile weights": (
        content("pytorch_model.bin", lambda _: EVIL),
        "pytorch_model.bin",
        r"global _?io\.open",
    ),
    "cut sparse head": (content(SPARSE, lambda b: b[:-90]), SPARSE, "a whole zip"),
    "cut weights": (
        content("pytorch_model.bin", lambda b: b[:-90]),
        "pytorch_model.bin",
        "a whole zip archive",
    ),
    "wide sparse head": (
        head(SPARSE, weight=WIDE, bias=np.ones(8, np.float32)),
        SPARSE,
        r"shape \(1,\) for bias, found \(8,\)",
    ),
    "no bias": (head(SPARSE, weight=ONE), SPARSE, "expected a tensor bias, found none"),
    "one tensor more": (
        head(SPARSE, weight=ONE, bias=np.ones(1, np.float32), scale=ONE),
        SPARSE,
        "a parameter for every tensor, found none for scale",
    ),
    "a head of another model": (
        head(MULTIVEC, weight=np.ones((8, 4), np.float32), bias=ONE[0, :8]),
        MULTIVEC,
        r"shape \(8, 16\) for weight, found \(8, 4\)",
    ),
    "a head without weight": (
        head(MULTIVEC, bias=ONE[0, :8]),
        MULTIVEC,
        "for bias, found|a tensor weight, found none",
    ),
    "integers": (
        head(SPARSE, weight=np.ones((1, 16), np.int64), bias=ONE[0, :1]),
        SPARSE,
        "floats in weight, found int64",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(case, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    change, name, message = BAD[case]
    shutil.copytree(M3, tmp_path / "m3")
    change(tmp_path / "m3")
    with pytest.raises(InputError, match=message) as error:
        m3jax.Embedder.load(tmp_path / "m3")
    assert error.value.where == str(tmp_path / "m3" / name)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["m3"]  # nothing was run


@pytest.mark.parametrize(
    ("names", "outputs"),
    [
        ([SPARSE], ("dense", "multivec")),
        ([MULTIVEC], ("dense", "sparse")),
        ([SPARSE, MULTIVEC], ("dense",)),
    ],
)
def test_heads_that_are_not_there(names, outputs, tmp_path) -> None:
    shutil.copytree(M3, tmp_path / "m3")
    for name in names:
        (tmp_path / "m3" / name).unlink()
    # Ours may have one head; of FlagEmbedding's two, one alone is half a download.
    (tmp_path / "m3" / "m3jax.json").write_text("{}")
    model = load(tmp_path / "m3")
    assert model.config.outputs == outputs
    assert {"sparse", "multivec"} & set(model.params) == set(outputs[1:])
    lost = ({"sparse", "multivec"} - set(outputs)).pop()
    with pytest.raises(InputError, match=f"has heads, found {lost}"):
        m3jax.Embedder.load(tmp_path / "m3").encode_query(["a"], outputs=[lost])


def test_pooling_where_no_file_says_it(tmp_path) -> None:
    shutil.copytree(M3, tmp_path / "m3")
    (tmp_path / "m3" / "modules.json").unlink()
    assert load(tmp_path / "m3").config.pooling == "cls"
    for name in (SPARSE, MULTIVEC):
        (tmp_path / "m3" / name).unlink()
    assert load(tmp_path / "m3").config.pooling == "mean"
    assert load(tmp_path / "m3", pooling="last").config.pooling == "last"
    assert load(tmp_path / "m3", like="BAAI/bge-m3").config.pooling == "cls"


def test_a_name_that_the_zoo_does_not_know() -> None:
    with pytest.raises(InputError, match=r"a model of m3jax\.nn\.zoo, found bge-m4"):
        load(M3, like="bge-m4")


def test_the_code_of_the_card_gives_all_heads(tmp_path, capsys) -> None:
    model = m3jax.Embedder.load(M3)
    model.save(tmp_path / "m3")
    card = (tmp_path / "m3" / "README.md").read_text(encoding="utf-8")
    first, all_heads = re.findall(
        r"```python\n(import m3jax.*?|heads.*?)```", card, re.S
    )
    exec(first.replace("FOLDER", str(tmp_path / "m3")) + all_heads, {})
    outputs = ("dense", "sparse", "multivec")
    query = model.encode_query(["what is a cell?"], outputs=outputs)
    passage = model.encode_passage(
        ["A cell is the smallest unit of life."], outputs=outputs
    )
    scores = [getattr(m3jax.scores, name)(query, passage).item() for name in outputs]
    said = [float(line.strip("[]")) for line in capsys.readouterr().out.splitlines()]
    assert said == pytest.approx([scores[0], *scores], abs=1e-5)
    model = m3jax.Embedder.load(M3.parent / "bert")
    model.save(tmp_path / "bert")
    assert "heads =" not in (tmp_path / "bert" / "README.md").read_text()
