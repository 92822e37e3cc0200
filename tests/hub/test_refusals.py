"""What cannot be meant is refused when a model is opened, and not guessed."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest

import m3jax
from m3jax.core.errors import InputError
from m3jax.hub.folder import load, save
from m3jax.nn.qwen import QwenConfig

GOLDEN = Path(__file__).parent.parent / "golden"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("bert", {"pooling": "max"}, "pooling: expected one of cls, mean, last, mcls"),
        ("bert", {"dtype": "float16"}, "dtype: expected one of float32, bfloat16"),
        ("bert", {"pooling": "mcls"}, "expected a model with pooling cls, for mcls"),
        (
            "bert",
            {"like": "Qwen/Qwen3-Embedding-0.6B"},
            "expected a model like it: QwenConfig, found BertConfig",
        ),
        ("bert", {"mesh": 4}, "mesh: expected a jax Mesh, found int"),
        ("reranker_qwen3", {}, 'Name pooling="last"'),
    ],
)
def test_options_of_an_embedder(name: str, options: Any, said: str) -> None:
    with pytest.raises(InputError) as error:
        m3jax.Embedder.load(GOLDEN / name, **options)
    assert said in str(error.value)


def test_an_embedding_model_is_no_reranker() -> None:
    with pytest.raises(InputError, match="found an embedding model"):
        m3jax.Reranker.load(GOLDEN / "qwen3")


@pytest.mark.parametrize("lost", ["sparse_linear.pt", "colbert_linear.pt"])
def test_half_of_the_heads_of_bge_m3(lost: str, tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "m3", tmp_path / "half")
    (tmp_path / "half" / lost).unlink()
    with pytest.raises(InputError, match=f"expected {lost} beside"):
        m3jax.Embedder.load(tmp_path / "half")
    # A model of ours may have one head, and its own file says that it is ours.
    (tmp_path / "half" / "m3jax.json").write_text("{}")
    model = m3jax.Embedder.load(tmp_path / "half")
    assert len(model.module.config.outputs) == 2


def test_code_of_a_folder_is_not_passed_over(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "qwen2", tmp_path / "code")
    path = tmp_path / "code" / "config.json"
    text = path.read_text()
    path.write_text(text.replace("{", '{"auto_map": {"AutoModel": "own.Model"},', 1))
    with pytest.raises(InputError, match="without code of its own"):
        m3jax.Embedder.load(tmp_path / "code")
    kalm = "HIT-TMG/KaLM-embedding-multilingual-mini-instruct-v2"
    model = m3jax.Embedder.load(tmp_path / "code", like=kalm)
    encoder = model.module.config.encoder
    assert isinstance(encoder, QwenConfig) and encoder.attention == "bidirectional"


def test_a_head_that_no_client_reads_after_a_qwen(tmp_path: Path) -> None:
    model = load(GOLDEN / "qwen3")
    config = dataclasses.replace(model.config, mlp_head="always")
    with pytest.raises(InputError, match="SimCSE's head after a BERT"):
        save(dataclasses.replace(model, config=config), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("texts", [None, 5, {"a": 1}])
def test_no_list_of_texts(texts: Any) -> None:
    with pytest.raises(InputError, match="expected a list of texts"):
        m3jax.Embedder.load(GOLDEN / "bert").encode_query(texts)
