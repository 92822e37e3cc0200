"""The program that merges: what it writes, and what it refuses."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import merge, merging
from m3jax.core import tree
from m3jax.core.errors import InputError
from m3jax.hub import folder, tensors, torch_file
from m3jax.inference.embedder import Embedder
from m3jax.pipeline.merges import run
from tests.pipeline.merges import models


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: Any) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["merge", *map(str, words)])
        merge.main()
        return capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models under their names; never written to."""
    to = tmp_path_factory.mktemp("places")
    base = models.golden("m3")
    models.write(base, to / "base")
    for name, seed in (("a", 1), ("b", 2), ("c", 3)):
        models.write(models.other(base, seed), to / name)
    dense = dataclasses.replace(base.config, sparse=False, multivec=None)
    params = {"encoder": base.params["encoder"]}
    models.write(dataclasses.replace(base, config=dense, params=params), to / "dense")
    models.write(models.golden("bert"), to / "bert")
    models.write(models.golden("reranker_bert"), to / "reranker")
    shutil.copytree(to / "a", to / "nan")
    held = {
        name: np.array(tensor[:])
        for name, tensor in tensors.read_safetensors(
            to / "nan" / tensors.SAFETENSORS
        ).items()
    }
    held["encoder.layer.1.output.dense.weight"][3, 4] = np.nan
    tensors.write_safetensors(to / "nan" / tensors.SAFETENSORS, held)
    shutil.copytree(to / "a", to / "infinite")
    head = dict(torch_file.read(to / "a" / "sparse_linear.pt"))
    head = {name: np.array(tensor) for name, tensor in head.items()}
    head["bias"][0] = np.inf
    torch_file.write(to / "infinite" / "sparse_linear.pt", head)
    for name, change in (
        ("words", lambda x: x["model"]["vocab"][10].__setitem__(0, "other")),
        ("rules", lambda x: x.update(pre_tokenizer=None)),
    ):
        shutil.copytree(to / "a", to / name)
        path = to / name / "tokenizer.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    shutil.copytree(to / "a", to / "heads")
    path = to / "heads" / "config.json"
    config = json.loads(path.read_text()) | {"num_attention_heads": 2}
    path.write_text(json.dumps(config))
    return to


def test_a_merged_folder_opens_with_all_heads(
    places: Path, tmp_path: Path, call: Any
) -> None:
    out = tmp_path / "out"
    said = call("--models", places / "a", places / "b", "--t", 0.3, "--output", out)
    assert said.out == f"{out}  slerp of 2 models\n"
    assert said.err == ""
    a, b = (folder.load(places / name).params for name in "ab")
    want = tree.named(merging.slerp(a, b, 0.3))
    for name, tensor in tree.named(folder.load(out).params).items():
        np.testing.assert_allclose(tensor, want[name], rtol=0, atol=1e-6)
    embedder = Embedder.load(out)
    found = embedder.encode_query(
        ["what is a cell?"], outputs=("dense", "sparse", "multivec")
    )
    assert found.sparse is not None and found.multivec is not None
    written = {path.name for path in (places / "a").rglob("*")}
    assert written == {path.name for path in out.rglob("*")}
    assert not list(tmp_path.glob(".*"))


def test_the_card_says_where_it_is_from(
    places: Path, tmp_path: Path, call: Any
) -> None:
    from m3jax.hub.digest import digest

    out = tmp_path / "out"
    call(
        *("--method", "ties", "--base", places / "base", "--density", 0.4),
        *("--models", places / "a", places / "b", "--weights", 1, 0.5),
        *("--keep", "^sparse", "--output", out),
    )
    card = (out / "README.md").read_text()
    assert "## Merged" in card
    for row in (
        "| method | ties |",
        "| density | 0.4 |",
        "| as in the first model | `^sparse` |",
        f"| base: {places / 'base'} |  | `{digest(places / 'base')}` |",
        f"| 1. {places / 'a'} | 1 | `{digest(places / 'a')}` |",
        f"| 2. {places / 'b'} | 0.5 | `{digest(places / 'b')}` |",
    ):
        assert f"\n{row}\n" in card, row


def test_a_base_without_heads(places: Path, tmp_path: Path, call: Any) -> None:
    words = ["--method", "task_arithmetic", "--base", places / "dense"]
    words += ["--models", places / "a", places / "b", "--output", tmp_path / "out"]
    with pytest.raises(InputError, match=r"dense: .* found 4 differences: no sparse"):
        call(*words)
    call(*words, "--keep", "^(sparse|multivec)")
    found = folder.load(tmp_path / "out").params
    a = folder.load(places / "a").params
    np.testing.assert_array_equal(found["sparse"]["kernel"], a["sparse"]["kernel"])


def test_the_same_model_twice_is_told(places: Path, tmp_path: Path, call: Any) -> None:
    shutil.copytree(places / "a", tmp_path / "copy")
    said = call(
        *("--models", places / "a", tmp_path / "copy", "--output", tmp_path / "out")
    )
    told = f"warning: {tmp_path / 'copy'} is the same model as {places / 'a'}\n"
    assert said.err == told
    found, a = (folder.load(x).params for x in (tmp_path / "out", places / "a"))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-7), found, a)


BAD: dict[str, tuple[str, str]] = {
    "one model": ("a", "--models: expected two models for slerp, found 1"),
    "no model": ("", "--models: expected two models or more, found none"),
    "three": ("a b c", "expected two models for slerp, found 3. multi_slerp takes"),
    "shapes": (
        "a bert",
        "PLACES/bert: expected the vocabulary of .*/a, found .* differences: ",
    ),
    "kinds": ("bert reranker", "an embedding model, as .*/bert is, found a reranker"),
    "names": (
        "a dense",
        r"PLACES/dense: expected the tensors of PLACES/a, found 4 differences: "
        r"no sparse.bias; no sparse.kernel; no multivec.bias; and 1 more. What only "
        r".*/a has can be kept from it with keep",
    ),
    "architecture": (
        "a heads",
        r"PLACES/heads: expected the same architecture as PLACES/a, found 1 "
        r"difference: heads: 4 -> 2",
    ),
    "words": (
        "a words",
        r"PLACES/words: expected the vocabulary of PLACES/a, found 2 differences: "
        r"'.*' missing and not with id 10; 'other' with id 10 and not missing",
    ),
    "rules": ("a rules", "the tokenizer of PLACES/a, found 1 difference: another pre_"),
    "nan": (
        "a nan",
        r"PLACES/nan: expected numbers in encoder.layer.1.output.dense.weight, found "
        r"NaN in rows 0 to \d+",
    ),
    "nan of the first": ("nan a", "PLACES/nan: expected numbers in encoder.layer.1"),
    "infinity": ("a infinite", "expected numbers in bias, found an infinity in rows 0"),
    "t": ("a b --t 1.5", r"--t: expected from 0 to 1, found 1.5. .* --outside allow"),
    "t by regex": ("a b --t-at layers.0", r"--t-at: expected REGEX=NUMBER, found 'lay"),
    "t by no regex": ("a b --t-at =0.9", "--t-at: expected REGEX=NUMBER, found '=0.9'"),
    "t by regex outside": (
        "a b --t-at word=2",
        "--t-at: expected from 0 to 1, found 2",
    ),
    "a regex for t": ("a b --t-at ([=0.3", r"--t-at: expected a regex, found '\(\['"),
    "weights by regex": (
        "a b --method linear --weights-at word=0.5,0.6",
        "--weights-at: expected a sum of 1, found 1.1. .*--total normalise",
    ),
    "no regex for weights": (
        "a b --method linear --weights-at hed=0.5,0.5",
        "--weights-at: expected a regex that is found in the name of a tensor, found",
    ),
    "keep of another": (
        "dense a --keep ^sparse ^multivec",
        r"--keep: expected a regex of tensors of .*/dense, from which they are, found "
        r"'\^sparse', which only .*/a has. Name the model first from which",
    ),
    "no such regex": (
        "a b --t-at hed=0.3",
        r"--t-at: expected a regex that is found .*, found 'hed'",
    ),
    "keep": ("a b --keep hed", "--keep: expected a regex that is found in the name"),
    "weights": (
        "a b --method linear --weights 0.5 0.6",
        "--weights: expected a sum of 1, found 1.1. .*--total normalise",
    ),
    "too many weights": (
        "a b --method linear --weights 0.5 0.3 0.2",
        "--weights: expected 2 weights, one a model, found 3",
    ),
    "no base": ("a b --method ties", "--base: expected a base for task_arithmetic and"),
    "a base": ("a b --base c", "--base: expected a base for .*, found .*/c for slerp"),
    "of another method": (
        "a b --weights 0.5 0.5",
        r"--weights: expected an option of slerp: t, t-at, outside, per, found",
    ),
    "density": (
        "a b --method ties --base base --density 2",
        "--density: expected above 0 and at most 1, found 2.0",
    ),
    "rows of ties": (
        "a b --method ties --base base --per row",
        "--per: expected tensor or tree for ties",
    ),
    "nothing there": ("a nowhere", "nowhere: expected a local folder, or a hub id"),
    "no run": ("a --last 2", "--last: expected a run folder, whose checkpoints"),
    "many runs": ("a b --last 2", "--last: expected one run, whose last checkpoints"),
    "no last": ("a --last 0", "--last: expected 1 or more, found 0"),
    "no checkpoint": (
        "a x/checkpoints/7",
        "x/checkpoints/7: expected a checkpoint, found none",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(name: str, places: Path, tmp_path: Path, call: Any) -> None:
    words, message = BAD[name]
    there = {path.name: path for path in places.iterdir()}
    given = [there.get(word, word) for word in words.split()]
    with pytest.raises(InputError, match=message.replace("PLACES", str(places))):
        call("--output", tmp_path / "out", "--models", *given)
    assert not list(tmp_path.iterdir())


def test_weights_may_be_normalised(places: Path, tmp_path: Path, call: Any) -> None:
    words = ("--method", "linear", "--weights", 2, 6, "--total", "normalise")
    out = tmp_path / "out"
    more = ("--weights-at", r"norm=3,3")
    call(*words, *more, "--models", places / "a", places / "b", "--output", out)
    card = (out / "README.md").read_text()
    assert "| 0.75 |" in card and "| weights at `norm` | 0.5, 0.5 |" in card
    call(*words, "--models", places / "a", places / "b", "--output", out)
    a, b = (folder.load(places / name).params for name in "ab")
    want = merging.linear([a, b], [0.25, 0.75])
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, atol=1e-6),
        folder.load(out).params,
        want,
    )


def test_an_output_with_other_files_or_a_model_itself(
    places: Path, tmp_path: Path, call: Any
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    words = ["--models", places / "a", places / "b", "--output"]
    with pytest.raises(InputError, match=r"other files: notes\.txt"):
        call(*words, tmp_path / "mine")
    with pytest.raises(InputError, match="--output: expected another folder than the"):
        call(*words, places / "b")
    inside = tmp_path / "outer" / "1_Pooling" / "b"
    shutil.copytree(places / "b", inside)
    with pytest.raises(InputError, match="--output: expected another folder than the"):
        call(*words[:2], inside, "--output", tmp_path / "outer")
    assert (inside / "model.safetensors").is_file()
    with pytest.raises(InputError, match=r"notes\.txt: expected a folder to write to"):
        call(*words, tmp_path / "mine" / "notes.txt" / "out")
    for unnamed in (".", "..", "/", "x" * 300):
        with pytest.raises(InputError, match="--output: expected the name of a folder"):
            call(*words, unnamed)
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_too_little_disk_is_found_before_anything_is_written(
    places: Path, tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = sum(x.size * 4 for x in jax.tree.leaves(models.golden("m3").params))
    monkeypatch.setattr(run, "_BESIDE", 1_000)
    usage = shutil.disk_usage(tmp_path)._replace(free=size + 999)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    monkeypatch.setattr(run, "with_fingerprints", None)  # nor is anything read
    words = ["--models", places / "a", places / "b", "--output", tmp_path / "out"]
    match = rf"expected {size + 1_000:,} bytes of free disk, found {size + 999:,} bytes"
    with pytest.raises(InputError, match=match):
        call(*words)
    # Before a sweep too, which may take hours.
    with pytest.raises(InputError, match=match):
        call(*words, "--sweep", "t=0:1:0.5", "--dev", "nowhere")
    assert not list(tmp_path.iterdir())


def test_what_differs_and_is_no_error_is_told(
    places: Path, tmp_path: Path, call: Any
) -> None:
    shutil.copytree(places / "b", tmp_path / "long")
    path = tmp_path / "long" / "sentence_bert_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"max_seq_length": 7}))
    words = ["--models", places / "a", tmp_path / "long", "--output", tmp_path / "out"]
    said = call(*words)
    assert (
        f"note: max_length of {tmp_path / 'long'} is 7, of {places / 'a'}" in said.err
    )


def test_beyond_the_models_when_asked_for(
    places: Path, tmp_path: Path, call: Any
) -> None:
    words = ["--models", places / "a", places / "b", "--output", tmp_path / "out"]
    call(*words, "--t", 1.25, "--outside", "allow")
    a, b = (folder.load(places / name).params for name in "ab")
    want = tree.named(merging.slerp(a, b, 1.25, outside="allow"))
    for name, tensor in tree.named(folder.load(tmp_path / "out").params).items():
        np.testing.assert_allclose(tensor, want[name], rtol=0, atol=1e-6)


def test_a_failed_merge_leaves_the_earlier_one(
    places: Path, tmp_path: Path, call: Any
) -> None:
    out = tmp_path / "out"
    call("--models", places / "a", places / "b", "--output", out)
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(InputError, match="found NaN"):
        call("--models", places / "a", places / "nan", "--output", out)
    assert (out / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


_SLOW = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # some shells ignore it
from m3jax.hub import tensors
from m3jax.merge import main
blocks = tensors._blocks
def slow(tensor):
    print("writes", flush=True)
    time.sleep(60)
    yield from blocks(tensor)
tensors._blocks = slow
main()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_merge_leaves_no_half_of_a_folder(
    number: int, places: Path, tmp_path: Path, call: Any
) -> None:
    out = tmp_path / "out"
    words = ["--models", places / "a", places / "b", "--output", out]
    with subprocess.Popen(
        [sys.executable, "-c", _SLOW, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"writes\n"
        time.sleep(0.1)
        process.send_signal(number)
        process.wait(timeout=60)
    assert not out.exists()
    # What the killed one left under its temporary name goes with the next one.
    call(*words)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    Embedder.load(out)
