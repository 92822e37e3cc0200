"""Values of the files around the weights that nobody writes on purpose."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.hub import layout


@pytest.mark.parametrize("name", ["tokenizer_config.json", "sentence_bert_config.json"])
@pytest.mark.parametrize(
    ("value", "found"), [(math.inf, None), (1e30, 10**30), (7.0, 7), (None, None)]
)
def test_lengths(name: str, value: Any, found: int | None, tmp_path: Path) -> None:
    key = "max_seq_length" if "bert" in name else "model_max_length"
    (tmp_path / name).write_text(json.dumps({key: value}))
    length = layout.read(tmp_path).max_length
    assert length is found is None or length == pytest.approx(found)


@pytest.mark.parametrize("value", [math.nan, -math.inf, 0, True, "7", [7], {}])
def test_what_is_no_length(value: Any, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"model_max_length": value}))
    with pytest.raises(InputError, match="expected a positive length, found") as error:
        layout.read(tmp_path)
    assert error.value.where == str(path)


@pytest.mark.parametrize("text", ["[" * 200_000, '{"a":' * 200_000, "9" * 5_000])
def test_json_that_no_reader_takes(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: expected JSON, found"):
        layout.read_json(tmp_path / "config.json")


def modules(folder: Path, *rows: tuple[str, str]) -> None:
    prefix = "sentence_transformers.models."
    content = [{"type": prefix + kind, "path": path} for kind, path in rows]
    (folder / "modules.json").write_text(json.dumps(content))


def test_the_places_of_weights(tmp_path: Path) -> None:
    assert layout.places(tmp_path) == [""]
    modules(tmp_path)
    assert layout.places(tmp_path) == [""]
    modules(tmp_path, ("Transformer", "0_T"), ("Pooling", "1_P"), ("Dense", "2_D"))
    assert layout.places(tmp_path) == ["0_T", "2_D"]
    modules(tmp_path, ("Transformer", "../other"))
    with pytest.raises(InputError, match="a path inside the folder, found"):
        layout.places(tmp_path)
