"""Folders that are written, and good and bad folders that are opened."""

import functools
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import safetensors.numpy

from m3jax import __version__
from m3jax.core.errors import InputError
from m3jax.data import tokenize
from m3jax.data.prompts import Prompts
from m3jax.data.tokenize import Tokenizer
from m3jax.hub import tensors
from m3jax.hub.folder import Model, load, save
from m3jax.nn.embedding import EmbeddingConfig, EmbeddingModule, init
from m3jax.nn.encoder import EncoderConfig
from m3jax.testing import tiny_config, tiny_tokenizer

GOLDEN = Path(__file__).parent.parent / "golden" / "bert"
FILES = [
    "1_Pooling/config.json",
    "2_Normalize/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "m3jax.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
]


@functools.cache
def parts() -> tuple[EncoderConfig, Any, Tokenizer]:
    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.vocab_size)
    return config.encoder, init(EmbeddingModule(config), jax.random.key(0)), tokenizer


def tiny(pooling: Any = "last", **changes) -> Model:
    encoder, params, tokenizer = parts()
    config = EmbeddingConfig(encoder, pooling)
    fields = {"max_length": 32, "prompts": Prompts("query: ", "text|\n: "), **changes}
    return Model(config, params, tokenizer, **fields)


def read(path: Path) -> Any:
    return json.loads(path.read_text())


def edit(name: str, **values) -> Callable[[Path], None]:
    """Change keys of a JSON file, which is made if there is none."""

    def change(folder: Path) -> None:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        found = read(path) if path.exists() else {}
        path.write_text(json.dumps({**found, **values}))

    return change


def write(name: str, content: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(content)


def remove(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            path = folder / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def modules(*rows: tuple[str, str]) -> Callable[[Path], Any]:
    """Write modules.json with these paths and types."""
    value = [{"path": path, "type": kind} for path, kind in rows]
    return write("modules.json", json.dumps(value))


def pooling(**config) -> Callable[[Path], Any]:
    return write("1_Pooling/config.json", json.dumps(config))


def both(*changes: Callable[[Path], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


ST = "sentence_transformers.models."
TRANSFORMER, POOL = ("", f"{ST}Transformer"), ("1_Pooling", f"{ST}Pooling")
DENSE, TANH = ("2_Dense", f"{ST}Dense"), "torch.nn.modules.activation.Tanh"


def copy(tmp_path: Path, change: Callable[[Path], Any]) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(GOLDEN, folder)
    change(folder)
    return folder


def test_layout_does_not_drift(tmp_path) -> None:
    model = tiny()
    save(model, tmp_path / "new" / "model")
    folder = tmp_path / "new" / "model"
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sorted(str(path.relative_to(folder)) for path in files) == FILES
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    # As open as the umask lets them be, weights included.
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in files)
    assert read(folder / "config.json") == {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "vocab_size": model.tokenizer.vocab_size,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_dropout_prob": 0.1,
        "layer_norm_eps": 1e-12,
        "attention_probs_dropout_prob": 0.0,
        "initializer_range": 0.02,
        "pad_token_id": 0,
        "dtype": "float32",
        "torch_dtype": "float32",
    }
    assert read(folder / "modules.json") == [
        {"idx": 0, "name": "0", "path": "", "type": f"{ST}Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{ST}Pooling"},
        {"idx": 2, "name": "2", "path": "2_Normalize", "type": f"{ST}Normalize"},
    ]
    assert read(folder / "1_Pooling" / "config.json") == {
        "word_embedding_dimension": 16,
        "pooling_mode_cls_token": False,
        "pooling_mode_mean_tokens": False,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": True,
    }
    assert read(folder / "2_Normalize" / "config.json") == {
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    assert read(folder / "sentence_bert_config.json") == {
        "max_seq_length": 32,
        "do_lower_case": False,
    }
    assert read(folder / "config_sentence_transformers.json") == {
        "model_type": "SentenceTransformer",
        "__version__": {"m3jax": __version__},
        "prompts": {"query": "query: ", "document": "text|\n: "},
        "default_prompt_name": None,
        "similarity_fn_name": "cosine",
    }
    assert read(folder / "m3jax.json") == {"mlp_head": "none", "task": ""}
    settings = read(folder / "tokenizer_config.json")
    assert settings["model_max_length"] == 32
    assert read(folder / "tokenizer.json")["truncation"] is None
    with safetensors.safe_open(folder / "model.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt"}
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}
        assert "embeddings.word_embeddings.weight" in file.keys()


def test_what_is_saved_is_loaded(tmp_path) -> None:
    model = tiny()
    save(model, tmp_path / "model")
    again = load(tmp_path / "model")
    assert (again.config, again.max_length) == (model.config, 32)
    assert again.prompts == model.prompts
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    texts = ["the river", "", "Ärger, and more " * 20]
    for ours, theirs in zip(
        tokenize.encode(model.tokenizer, texts, max_length=32),
        tokenize.encode(again.tokenizer, texts, max_length=32),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_card(tmp_path) -> None:
    save(tiny(), tmp_path / "model", card="## Scores\n\nnDCG@10 0.5\n")
    card = (tmp_path / "model" / "README.md").read_text()
    head, body = card.split("---\n")[1:3]
    assert "library_name: sentence-transformers\n" in head
    tags = re.findall(r"^- (\S+)$", head, re.MULTILINE)
    assert {"m3jax", "sentence-similarity", "feature-extraction"} <= set(tags)
    for row in ("the last token", "32 tokens", '"query: "', r"text\|\n: ", "width 16"):
        assert row in body
    assert "mask.cumsum(1).argmax(1)" in body
    assert card.endswith("\n## Scores\n\nnDCG@10 0.5\n")
    save(tiny("mean", prompts=Prompts()), tmp_path / "plain")
    plain = (tmp_path / "plain" / "README.md").read_text()
    assert "| Prompt before a query | none |" in plain
    assert "mean over the tokens" in plain


def test_an_earlier_export_is_replaced(tmp_path) -> None:
    (tmp_path / "model").mkdir()
    save(tiny("last"), tmp_path / "model")
    save(tiny("cls"), tmp_path / "model")
    assert load(tmp_path / "model").config.pooling == "cls"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_other_files_are_never_deleted(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found other files: thesis\.tex"):
        save(tiny(), tmp_path)
    with pytest.raises(InputError, match="earlier export of m3jax, found a file"):
        save(tiny(), tmp_path / "thesis.tex")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("README.md", "My own words."),
        ("1_Pooling/notes.txt", "mine"),
        ("modelling.safetensors", "mine"),
    ],
)
def test_what_is_not_ours_in_an_export_is_not_deleted(tmp_path, name, content) -> None:
    save(tiny(), tmp_path / "model")
    (tmp_path / "model" / name).write_text(content)
    with pytest.raises(InputError, match="or an earlier export of m3jax, found"):
        save(tiny(), tmp_path / "model")
    assert (tmp_path / "model" / name).read_text() == content


def test_a_model_of_somebody_else_is_not_deleted(tmp_path) -> None:
    save(tiny(), tmp_path / "model")
    (tmp_path / "model" / "README.md").unlink()
    with pytest.raises(InputError, match="found a model of somebody else"):
        save(tiny(), tmp_path / "model")


def test_a_full_disk_leaves_the_earlier_export(tmp_path, monkeypatch) -> None:
    save(tiny("cls"), tmp_path / "model")

    def full(*_, **__) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tensors, "_blocks", full)
    with pytest.raises(OSError, match="No space"):
        save(tiny("last"), tmp_path / "model")
    assert load(tmp_path / "model").config.pooling == "cls"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_length": 65}, "max_length from 1 to 64, .*, found 65"),
        ({"max_length": 0}, "max_length from 1 to 64, .*, found 0"),
        (
            {"config": tiny_config(9)},
            r"token ids below vocab_size=9, found a tokenizer with id \d+",
        ),
    ],
)
def test_a_model_that_contradicts_itself(changes, message, tmp_path) -> None:
    fields = {**vars(tiny()), **changes}
    with pytest.raises(InputError, match=message):
        save(Model(**fields), tmp_path / "model")
    assert not list(tmp_path.iterdir())


FLAGS = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": False}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (pooling(pooling_mode="cls"), "cls"),
        (pooling(pooling_mode=["lasttoken"]), "last"),
        (pooling(**{**FLAGS, "pooling_mode_cls_token": True}), "cls"),
        (pooling(**{**FLAGS, "pooling_mode_mean_tokens": True}), "mean"),
        (pooling(**{**FLAGS, "pooling_mode_lasttoken": True}), "last"),
        (pooling(pooling_mode="cls", pooling_mode_mean_tokens=True), "cls"),
        (pooling(word_embedding_dimension=24), "mean"),
        (remove("modules.json", "1_Pooling"), "mean"),
        (both(modules(TRANSFORMER, POOL), pooling(pooling_mode="cls")), "cls"),
    ],
    ids=[
        "new form",
        "list",
        "flag cls",
        "flag mean",
        "flag last",
        "both forms",
        "no flag",
        "Hugging Face folder",
        "no Normalize",
    ],
)
def test_pooling(change, found, tmp_path) -> None:
    assert load(copy(tmp_path, change)).config.pooling == found


BERT, TOKENIZER = "sentence_bert_config.json", "tokenizer_config.json"


@pytest.mark.parametrize(
    ("limit", "tokenizer", "found"),
    [
        (8, 20, 8),
        (None, 20, 20),
        (50, 20, 50),  # sentence-transformers' own file comes first
        (100, 20, 64),
        (None, 10**30, 64),
        (None, 1e30, 64),
        (None, None, 64),
    ],
)
def test_max_length(limit, tokenizer, found, tmp_path) -> None:
    files = (
        edit(BERT, max_seq_length=limit),
        edit(TOKENIZER, model_max_length=tokenizer),
    )
    assert load(copy(tmp_path, both(*files))).max_length == found


@pytest.mark.parametrize(
    ("prompts", "found"),
    [
        ({"query": "q: ", "document": "d: "}, Prompts("q: ", "d: ")),
        ({"query": "q: ", "passage": "p: "}, Prompts("q: ", "p: ")),
        ({"query": "", "document": "", "passage": "p: "}, Prompts("", "p: ")),
        ({"query": None, "corpus": "c: ", "other": "o: "}, Prompts("", "c: ")),
        ({}, Prompts()),
    ],
)
def test_prompts(prompts, found, tmp_path) -> None:
    change = edit("config_sentence_transformers.json", prompts=prompts)
    assert load(copy(tmp_path, change)).prompts == found


def test_no_sentence_transformers_files_at_all(tmp_path) -> None:
    change = remove(
        "modules.json",
        "1_Pooling",
        "2_Normalize",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
    )
    model = load(copy(tmp_path, change))
    assert (model.config.pooling, model.max_length) == ("mean", 20)
    assert model.prompts == Prompts()


def test_encoder_in_a_folder_of_its_own(tmp_path) -> None:
    def move(folder: Path) -> None:
        (folder / "0_Transformer").mkdir()
        for name in (BERT, TOKENIZER, "tokenizer.json", "config.json"):
            (folder / name).rename(folder / "0_Transformer" / name)
        weights = "model.safetensors"
        (folder / weights).rename(folder / "0_Transformer" / weights)

    own = modules(("0_Transformer", f"{ST}Transformer"), POOL)
    length = edit(f"0_Transformer/{BERT}", max_seq_length=8)
    model = load(copy(tmp_path, both(move, own, length)))
    assert (model.max_length, model.config.encoder.layers) == (8, 3)
    assert model.prompts.query == "query: "


def test_run_folder(tmp_path) -> None:
    run = tmp_path / "run"
    (run / "train" / "checkpoints").mkdir(parents=True)
    (run / "config.json").write_text("{}")
    with pytest.raises(InputError, match="a run that has ended, found checkpoints"):
        load(run)
    shutil.copytree(GOLDEN, run / "model")
    assert load(str(run)).max_length == 20


def test_lowercase_of_sentence_transformers(tmp_path) -> None:
    """It lowercases before the tokenizer, whatever that does by itself."""

    def cased(folder: Path) -> None:
        tokenizer = read(folder / "tokenizer.json")
        tokenizer["normalizer"]["lowercase"] = False
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))

    def ids(model: Model) -> list[int]:
        return tokenize.encode(model.tokenizer, ["The CELL"], max_length=9)[0].tolist()

    plain = ids(load(GOLDEN))
    folder = copy(tmp_path, cased)
    assert ids(load(folder)) != plain
    edit(BERT, do_lower_case=True)(folder)
    model = load(folder)
    assert ids(model) == plain
    # A saved copy does it in the tokenizer itself.
    save(model, tmp_path / "saved")
    assert read(tmp_path / "saved" / BERT)["do_lower_case"] is False
    assert ids(load(tmp_path / "saved")) == plain


def truncate(keep: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:keep])

    return change


def weights(change: Callable[[dict], Any]) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors = safetensors.numpy.load_file(path)
        change(tensors)
        safetensors.numpy.save_file(tensors, path)

    return write


SETTINGS = "config_sentence_transformers.json"
WORDS = "embeddings.word_embeddings.weight"
KINDS = "Transformer, Pooling, Dense, Normalize"
BAD = {
    # name: (change, file that is named, message)
    "empty folder": (
        lambda folder: both(*(remove(path.name) for path in folder.iterdir()))(folder),
        "config.json",
        "expected a file, found none",
    ),
    "no config": (remove("config.json"), "config.json", "expected a file, found none"),
    "config no JSON": (write("config.json", "{"), "config.json", "expected JSON"),
    "config a list": (write("config.json", "[]"), "config.json", "object, found list"),
    "config binary": (
        lambda folder: (folder / "config.json").write_bytes(b"\xff\x00"),
        "config.json",
        "expected JSON",
    ),
    "other architecture": (
        edit("config.json", model_type="gpt2"),
        "config.json: model_type",
        "expected one of bert, roberta, xlm-roberta, qwen2, qwen3, found 'gpt2'",
    ),
    "the wrong architecture": (
        edit("config.json", model_type="qwen3"),
        "config.json: hidden_act",
        "expected 'silu', found 'gelu'",
    ),
    "a reranker": (
        edit("config.json", architectures=["BertForSequenceClassification"]),
        "config.json",
        r"an embedding model, found a reranker\. Use m3jax\.Reranker",
    ),
    "more layers": (
        edit("config.json", num_hidden_layers=4),
        "model.safetensors",
        r"a tensor encoder\.layer\.3\.attention",
    ),
    "fewer layers": (
        edit("config.json", num_hidden_layers=2),
        "model.safetensors",
        r"for every tensor, found none for encoder\.layer\.2\.att.* and 11 more",
    ),
    "wider": (
        edit("config.json", intermediate_size=96),
        "model.safetensors",
        r"shape \(24, 96\) for encoder\.layer\.0\.output.*, found \(24, 48\)",
    ),
    "heads": (edit("config.json", num_attention_heads=5), "", "heads that divide"),
    "no weights": (
        remove("model.safetensors"),
        "",
        r"expected model\.safetensors or pytorch_model\.bin, found neither$",
    ),
    "weights of another library": (
        lambda folder: (folder / "model.safetensors").rename(folder / "tf_model.h5"),
        "",
        r"found neither, but tf_model\.h5\. Save the model once more",
    ),
    "no torch weights": (
        lambda folder: (folder / "model.safetensors").rename(
            folder / "pytorch_model.bin"
        ),
        "pytorch_model.bin",
        "expected a file of torch.save, found other bytes",
    ),
    "cut weights": (truncate(-100), "model.safetensors", "a whole safetensors file"),
    "cut header": (truncate(100), "model.safetensors", "a whole safetensors file"),
    "no byte": (truncate(0), "model.safetensors", "a whole safetensors file"),
    "tensor missing": (
        weights(lambda tensors: tensors.pop(WORDS)),
        "model.safetensors",
        f"a tensor {WORDS}, found none",
    ),
    "tensor left over": (
        weights(lambda tensors: tensors.update(new=np.zeros(2))),
        "model.safetensors",
        "expected a parameter for every tensor, found none for new$",
    ),
    "small word table": (
        both(
            edit("config.json", vocab_size=50),
            weights(lambda tensors: tensors.update({WORDS: tensors[WORDS][:50]})),
        ),
        "",
        "token ids below vocab_size=50, found a tokenizer with id 59",
    ),
    "no tokenizer": (
        remove("tokenizer.json"),
        "",
        r"a tokenizer: tokenizer\.json, vocab\.txt, .*, found none of them",
    ),
    "modules an object": (
        write("modules.json", "{}"),
        "modules.json",
        "expected a JSON list, found dict",
    ),
    "modules of strings": (
        write("modules.json", '["Pooling"]'),
        "modules.json",
        "a list of objects, found 'Pooling'",
    ),
    "LSTM": (
        modules(TRANSFORMER, POOL, ("2_LSTM", f"{ST}LSTM")),
        "modules.json",
        f"modules of the kinds {KINDS}, found {ST}LSTM",
    ),
    "Dense without file": (
        modules(TRANSFORMER, POOL, DENSE),
        "2_Dense/config.json",
        "expected a file, found none",
    ),
    "Dense with another activation": (
        both(
            modules(TRANSFORMER, POOL, DENSE),
            edit("2_Dense/config.json", activation_function="torch.nn.Identity"),
        ),
        "2_Dense/config.json",
        "with bias and tanh, found activation torch.nn.Identity, bias True",
    ),
    "Dense without bias": (
        both(
            modules(TRANSFORMER, POOL, DENSE),
            edit("2_Dense/config.json", activation_function=TANH, bias=False),
        ),
        "2_Dense/config.json",
        "with bias and tanh, found .*, bias False",
    ),
    "a narrower Dense": (
        both(
            modules(TRANSFORMER, POOL, DENSE),
            edit("2_Dense/config.json", activation_function=TANH, in_features=24),
            edit("2_Dense/config.json", out_features=8),
        ),
        "2_Dense/config.json",
        "as wide as its input, found 24 to 8",
    ),
    "Dense without weights": (
        both(
            modules(TRANSFORMER, POOL, DENSE),
            edit("2_Dense/config.json", activation_function=TANH),
        ),
        "2_Dense",
        r"expected model\.safetensors or pytorch_model\.bin, found neither",
    ),
    "Dense of another width": (
        both(
            modules(TRANSFORMER, POOL, DENSE),
            edit("2_Dense/config.json", activation_function=TANH),
            lambda folder: safetensors.numpy.save_file(
                {"linear.weight": np.ones((8, 24)), "linear.bias": np.ones(8)},
                folder / "2_Dense" / "model.safetensors",
            ),
        ),
        "2_Dense/model.safetensors",
        r"shape \(24,\) for linear\.bias, found \(8,\)",
    ),
    "module of somebody else": (
        modules(TRANSFORMER, ("1_Pooling", "my_code.Pooling")),
        "modules.json",
        "found my_code.Pooling",
    ),
    "order": (
        modules(POOL, TRANSFORMER),
        "modules.json",
        "in this order, found Pooling, Transformer",
    ),
    "no modules": (modules(), "modules.json", "in this order, found no module"),
    "path up": (
        modules(TRANSFORMER, ("../copy/1_Pooling", f"{ST}Pooling")),
        "modules.json",
        r"a path inside the folder, found \.\./copy",
    ),
    "path up in the middle": (
        modules(TRANSFORMER, ("1_Pooling/../../copy/1_Pooling", f"{ST}Pooling")),
        "modules.json",
        "a path inside the folder",
    ),
    "path with backslash": (
        modules(TRANSFORMER, ("..\\copy\\1_Pooling", f"{ST}Pooling")),
        "modules.json",
        "a path inside the folder",
    ),
    "absolute path": (
        modules(("/", f"{ST}Transformer"), POOL),
        "modules.json",
        "a path inside the folder, found /",
    ),
    "no pooling file": (
        remove("1_Pooling/config.json"),
        "1_Pooling/config.json",
        "expected a file, found none",
    ),
    "pooling max": (
        pooling(pooling_mode="max"),
        "1_Pooling/config.json",
        "one pooling of cls, mean, lasttoken, found max",
    ),
    "flag max": (
        pooling(pooling_mode_max_tokens=True),
        "1_Pooling/config.json",
        "found max",
    ),
    "two poolings": (
        pooling(pooling_mode_cls_token=True, pooling_mode_mean_tokens=True),
        "1_Pooling/config.json",
        "found cls and mean",
    ),
    "pooling a number": (
        pooling(pooling_mode=3),
        "1_Pooling/config.json",
        "one pooling of cls, mean, lasttoken, found 3",
    ),
    "without prompt": (
        pooling(pooling_mode="mean", include_prompt=False),
        "1_Pooling/config.json",
        "pooling over the prompt too",
    ),
    "length 0": (edit(BERT, max_seq_length=0), BERT, "a positive length, found 0"),
    "length a word": (
        edit(TOKENIZER, model_max_length="20"),
        TOKENIZER,
        "a positive length, found '20'",
    ),
    "cut vectors": (edit(SETTINGS, truncate_dim=8), SETTINGS, "found truncate_dim 8"),
    "prompts a list": (edit(SETTINGS, prompts=["q"]), SETTINGS, "prompts by name"),
    "prompt a number": (
        edit(SETTINGS, prompts={"query": 1}),
        SETTINGS,
        "prompts by name",
    ),
    "dot of any length": (
        both(edit(SETTINGS, similarity_fn_name="dot"), modules(TRANSFORMER, POOL)),
        SETTINGS,
        "cosine similarity for vectors of any length, found dot",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folder(case, tmp_path) -> None:
    change, file, message = BAD[case]
    folder = copy(tmp_path, change)
    with pytest.raises(InputError, match=message) as error:
        load(folder)
    if case != "heads":
        assert error.value.where == str(folder / file)


def test_dot_of_length_1_is_fine(tmp_path) -> None:
    model = load(copy(tmp_path, edit(SETTINGS, similarity_fn_name="dot")))
    assert model.config == load(GOLDEN).config


def test_no_folder() -> None:
    with pytest.raises(InputError, match=r"a model in the cache, .*HF_HUB_OFFLINE"):
        load("nobody/has-such-a-model")
    with pytest.raises(InputError, match=r"a local folder, or a hub id .*neither"):
        load("nowhere/at/all")
    with pytest.raises(InputError, match=r"a local folder, .*, found a file"):
        load(GOLDEN / "config.json")
