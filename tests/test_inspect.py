"""`python -m m3jax.inspect`, from the command line to the last file."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors

from m3jax import inspect
from m3jax.core import cli
from m3jax.data import tokenize
from m3jax.data.tokenize import Tokenizer
from m3jax.pipeline import inspection_plots
from m3jax.testing import write_jsonl

CONFIG = '''
"""Two data sets of a few words."""

from m3jax.data.config import DataConfig, Dataset
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.data.prompts import Prompts
from m3jax.data.vocabulary import TokenizerConfig


def get_config():
    return Train(
        data=DataConfig(
            mixture=(
                Dataset("asked.jsonl", name="asked", on_bad_row="skip"),
                Dataset("sorted.jsonl", name="$_$sorted", labels="same",
                        in_batch_negatives=False, negatives=0),
            ),
            dev="builtin",
            negatives=1,
            batch_size=8,
            query_length=6,
            passage_length=9,
            shapes=2,
            length_multiple=1,
            cache="cache",
            prompts=Prompts(query="ask "),
        ),
        tokenizer=TokenizerConfig(vocab_size=60),
        model=EmbeddingConfig(
            BertConfig(hidden=16, layers=1, heads=2, mlp=16, max_positions=16)
        ),
        steps=12,
    )
'''


def words(count: int, word: str = "word") -> str:
    return " ".join([word] * count)


# 24 good rows and a bad one. Tokens are words, with [CLS] and [SEP]; queries have one
# more, their prompt: 12 queries of 4 tokens, 12 of 7, of which 6 are kept.
ASKED: list[dict[str, Any]] = [
    {
        "query": words(1 if i < 12 else 4, f"q{i if i else 1}"),
        "pos": [words(3 if i < 12 else 7, f"p{i if i else 1}")],
        "neg": [words(1, "no")] if i < 6 else [],
        "language": "en" if i < 18 else "ko",
    }
    for i in range(24)
]
# 16 texts of 2 words and two labels, and one that is alone.
SORTED = [{"text": f"text {i}", "label": f"{i % 2}"} for i in range(16)]
SORTED.append({"text": "one that is all alone", "label": "alone"})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_jsonl(tmp_path / "asked.jsonl", [*ASKED[:3], {"query": "bad"}, *ASKED[3:]])
    write_jsonl(tmp_path / "sorted.jsonl", SORTED)
    (tmp_path / "tiny.py").write_text(CONFIG)
    special = {"[PAD]": 0, "[CLS]": 1, "[SEP]": 2, "[UNK]": 3, "ask": 4}
    known = {word for row in ASKED for word in row["query"].split()}
    known |= {word for row in ASKED for word in row["pos"][0].split()} | {"no"}
    vocabulary = special | {word: 5 + i for i, word in enumerate(sorted(known))}
    backend = Backend(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B [SEP]",
        special_tokens=[("[CLS]", 1), ("[SEP]", 2)],
    )
    (tmp_path / "tokenizer").mkdir()
    made = Tokenizer(backend, 0, {"pad_token": "[PAD]"})
    tokenize.save(made, tmp_path / "tokenizer", max_length=16)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """Run the program in this process; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["inspect.py", *words])
    try:
        cli.run(inspect.main)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


GIVEN = ("--config", "tiny.py", "--tokenizer", "tokenizer")


def test_numbers_are_those_counted_by_hand(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *GIVEN, "--devices", "4", "--output", "look") == 0
    err = capsys.readouterr().err
    assert "skipped: asked.jsonl:4" in err
    found = json.loads((folder / "look" / "inspect.json").read_text())
    assert found["devices"] == found["multiple"] == 4
    asked, labelled = found["sets"]
    assert (asked["name"], asked["kind"]) == ("asked", "pairs")
    assert (asked["rows"], asked["trained_on"]) == (25, 24)
    assert asked["dropped"] == {"bad": 1, "remainder": 0}
    assert asked["reasons"][0].startswith("asked.jsonl:4: ")
    assert asked["languages"] == {"en": 18, "ko": 6}
    assert asked["query"] == {
        "tokens": {"p50": 4, "p90": 7, "p99": 7, "max": 7}, "kept": 6, "cut": 0.5
    }  # fmt: skip
    assert asked["passage"] == {
        "tokens": {"p50": 5, "p90": 9, "p99": 9, "max": 9}, "kept": 9, "cut": 0.0
    }  # fmt: skip
    assert asked["negatives"] == {"mean": 0.25, "min": 0}
    assert asked["group"] == 2 and asked["in_batch"]
    # The first two rows are the same.
    assert asked["repeats"] == {"query": 1, "row": 1, "itself": 0}
    assert asked["share"] == 0.6 and asked["times"] == pytest.approx(12 * 0.6 / 3)

    assert (labelled["rows"], labelled["trained_on"]) == (17, 16)
    assert labelled["dropped"] == {"alone with its label": 1, "remainder": 0}
    assert labelled["languages"] == {} and not labelled["in_batch"]
    assert labelled["query"]["tokens"]["max"] == 5
    assert labelled["passage"]["tokens"]["max"] == 4

    small, large = found["shapes"]
    assert (small["query_length"], small["passage_length"]) == (5, 5)
    assert (large["query_length"], large["passage_length"]) == (6, 9)
    # Four rows of `asked` move up, because eight fill a batch.
    assert [one["batches"] for one in (small, large)] == [3, 2]
    assert [one["rows"] for one in (small, large)] == [24, 16]
    assert [one["groups"] for one in (small, large)] == [[1, 2], [2]]
    # Query tokens: 16 texts of 5, and 8 of 4 | 4 of 4, and 12 of 6.
    assert small["query"] == pytest.approx((16 * 5 + 8 * 4) / (24 * 5))
    assert large["query"] == pytest.approx((4 * 4 + 12 * 6) / (16 * 6))

    totals = found["totals"]
    assert (totals["steps"], totals["steps_per_epoch"]) == (12, 5)
    assert totals["rows_per_epoch"] == 40 and totals["programs"] == 3
    # Labelled rows have one passage, the others room for two.
    space = 24 * 5 + (16 + 2 * 8) * 5 + 16 * 6 + 16 * 2 * 9
    assert totals["tokens_per_epoch"] == space
    # Passages: 16 texts of 4; 12 of 5 and 12 of 9; six of the short ones bring another,
    # which counts as much as the positive.
    real = (16 * 5 + 12 * 4 + 12 * 6) + (16 * 4 + 12 * 5 + 12 * 9 + 6 * 5)
    assert totals["efficiency"] == pytest.approx(real / space)
    # The negative has 3 tokens.
    assert (totals["counted_batches"], totals["counted_rows"]) == (5, 40)
    assert totals["counted_efficiency"] == pytest.approx((real - 6 * 2) / space)
    assert totals["counted_by_lengths"] == totals["efficiency"]
    assert totals["random_size"] == 8
    assert totals["random_efficiency"] < totals["efficiency"]

    sample = asked["samples"][0]
    row = ASKED[sample["row"]]
    line = sample["row"] + 1 + (sample["row"] >= 3)
    assert sample["where"] == f"asked.jsonl:{line}"
    kept = " ".join(row["query"].split()[:3])
    assert sample["query"]["text"] == f"[CLS] ask {kept} [SEP]"
    assert sample["passages"][0]["text"] == f"[CLS] {row['pos'][0]} [SEP]"
    assert (sample["passages"][1] is None) == (not row["neg"])


def test_pictures_show_the_lengths_that_are_kept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(inspection_plots, "write_plots", lambda _, it: shown.append(it))
    assert call(monkeypatch, *GIVEN) == 0
    (drawn,) = shown
    asked, labelled = drawn.lengths
    assert {*asked[0].tolist()} == {4, 6} and {*asked[1].tolist()} == {5, 9}
    assert {*labelled[0].tolist()} == {5} and {*labelled[1].tolist()} == {4}


def test_the_picture_of_padding_tells_what_was_counted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles = {}

    def keep(figure: Any, path: Path) -> None:
        titles[path.stem] = figure.axes[0].get_title()

    monkeypatch.setattr(inspection_plots, "save", keep)
    assert call(monkeypatch, *GIVEN) == 0
    totals = json.loads(Path("runs/inspect/tiny/inspect.json").read_text())["totals"]
    assert f"{totals['counted_efficiency']:.3f} counted" in titles["padding"]


def test_what_is_printed_and_drawn(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    assert call(monkeypatch, *GIVEN, "--samples", "8", "--plot-steps", "3") == 0
    out, _ = capsys.readouterr()
    output = folder / "runs" / "inspect" / "tiny"
    for name in ("lengths", "mixture", "padding"):
        assert (output / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert {path.suffix for path in output.iterdir()} == {".png", ".json"}
    # Plain text of a width that fits, and nothing is cut off.
    lines = [line for line in out.splitlines() if not line.startswith("bad: ")]
    assert max(map(len, lines)) <= 100 and "…" not in out
    assert "\x1b" not in out and "┃" not in out
    for part in (
        "en 75.0 %, ko 25.0 %",
        "bad: asked.jsonl:4: ",
        "alone with its label",
        "12 in the run; 5 an epoch, with 40 rows",
        "random batches of 8 padded to their longest row",
        "negative  absent",
        "no passage of another row is a negative",
        "[CLS] ask q",
        "runs/inspect/tiny",
    ):
        assert part in out
    assert out.count("positive") >= 16


def test_the_tokenizer_is_trained_as_for_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["--config", "tiny.py", "--output", "look", "--data.batch-tokens", "120"]
    assert call(monkeypatch, *words, "--data.homogeneity", "0.5") == 0
    found = json.loads((folder / "look" / "inspect.json").read_text())
    # On the eight devices of the tests.
    assert {one["size"] % 8 for one in found["shapes"]} == {0}
    sizes = ["--data.batch-size", "2", "--devices", "4", "--mesh.tensor", "2"]
    assert call(monkeypatch, *GIVEN, "--output", "look", *sizes) == 0
    found = json.loads((folder / "look" / "inspect.json").read_text())
    assert (found["devices"], found["multiple"]) == (4, 2)
    # Rewritten in place, what else is in the folder stays.
    (folder / "look" / "mine.txt").write_text("mine")
    assert call(monkeypatch, *words, "--data.homogeneity", "1") == 0
    assert (folder / "look" / "mine.txt").exists()


def test_a_model_to_go_on_from_brings_its_tokenizer(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax

    from m3jax.data.prompts import Prompts
    from m3jax.hub.folder import Model, save
    from m3jax.nn.embedding import EmbeddingModule, init
    from m3jax.testing import tiny_config, tiny_tokenizer

    tokenizer = tiny_tokenizer()
    config = tiny_config(tokenizer.vocab_size)
    module, rng = EmbeddingModule(config), jax.random.key(0)
    shapes = jax.eval_shape(lambda: init(module, rng))
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    model = Model(config, params, tokenizer, 16, Prompts(query="sea "))
    save(model, folder / "model", card="")
    text = CONFIG.replace('prompts=Prompts(query="ask "),', "")
    (folder / "tiny.py").write_text(text)
    words = ["--config", "tiny.py", "--init", "model", "--output", "look"]
    assert call(monkeypatch, *words, "--data.query-length", "9") == 0
    found = json.loads((folder / "look" / "inspect.json").read_text())
    sample = found["sets"][0]["samples"][0]
    assert sample["query"]["text"].replace(" ", "").startswith("[CLS]▁sea")


def nothing(folder: Path) -> None:
    del folder


def a_file(folder: Path) -> None:
    (folder / "look").write_text("")


def no_rows(folder: Path) -> None:
    (folder / "asked.jsonl").unlink()


BAD: dict[str, tuple[Callable[[Path], None], list[str], list[str]]] = {
    "no config": (nothing, ["--samples", "3"], ["--config"]),
    "missing config": (nothing, ["--config", "tinny.py"], ["Did you mean tiny.py?"]),
    "unknown flag": (
        nothing,
        ["--config", "tiny.py", "--sample", "3"],
        ["--sample", "Did you mean --samples?"],
    ),
    "missing file": (no_rows, [*GIVEN], ["asked.jsonl"]),
    "output is a file": (
        a_file,
        [*GIVEN, "--output", "look"],
        ["look: expected a folder", "found a file. Name another --output."],
    ),
    "output below a file": (
        a_file,
        [*GIVEN, "--output", "look/here"],
        ["look: expected a folder", "found a file"],
    ),
    "no tokenizer": (
        nothing,
        ["--config", "tiny.py", "--tokenizer", "nowhere"],
        ["nowhere: expected a tokenizer"],
    ),
    "samples below zero": (nothing, [*GIVEN, "--samples", "-1"], ["--samples"]),
    "nothing to draw": (nothing, [*GIVEN, "--plot-steps", "0"], ["--plot-steps"]),
    "no devices": (nothing, [*GIVEN, "--devices", "0"], ["--devices", "at least 1"]),
    "batch and devices": (
        nothing,
        [*GIVEN, "--devices", "3"],
        ["data.batch_size", "3 shards", "found 8"],
    ),
    "mesh and devices": (
        nothing,
        [*GIVEN, "--devices", "4", "--mesh.fsdp", "3"],
        ["mesh", "number of devices, 4"],
    ),
    "prompt too long": (
        nothing,
        [*GIVEN, "--data.prompts.query", "a long prompt before it"],
        ["data.query_length"],
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    name: str,
) -> None:
    change, words, said = BAD[name]
    change(folder)
    assert call(monkeypatch, *words) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("skipped: ")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and out == ""
    for part in said:
        assert part in lines[0]
    left = {path.name for path in folder.iterdir()}
    assert not left & {"runs", "look"} or (folder / "look").is_file()
