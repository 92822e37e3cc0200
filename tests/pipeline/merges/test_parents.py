"""What of models is compared before they are merged."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.hub import tensors
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.parents import differences, open_parent, require_same
from m3jax.pipeline.merges.run import opened, write
from tests.pipeline.merges import models


def copy(name: str, to: Path) -> str:
    shutil.copytree(models.GOLDEN / name, to)
    return str(to)


def change_json(path: Path, change: Callable[[Any], Any]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_weights(folder: str, change: Callable[[dict[str, np.ndarray]], Any]) -> None:
    path = Path(folder) / tensors.SAFETENSORS
    held = {name: x[:] for name, x in tensors.read_safetensors(path).items()}
    change(held)
    tensors.write_safetensors(path, held)


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    """Twice the same files, which a test may change."""
    return [copy("bert", tmp_path / name) for name in "ab"]


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("normalizer", lambda x: x["normalizer"].update(lowercase=False)),
        ("pre_tokenizer", lambda x: x.update(pre_tokenizer={"type": "Whitespace"})),
        (
            "post_processor",
            lambda x: x["post_processor"]["single"][0]["SpecialToken"].update(
                id="[SEP]"
            ),
        ),
        ("model", lambda x: x["model"].update(max_input_chars_per_word=7)),
    ],
)
def test_every_part_of_a_tokenizer_counts(part: str, change: Any, two: Any) -> None:
    change_json(Path(two[1]) / "tokenizer.json", change)
    found = f"b: expected the tokenizer of .*/a, found 1 difference: another {part}$"
    with pytest.raises(InputError, match=found):
        require_same([open_parent(x) for x in two], ())


def test_what_differs_and_is_no_error_is_told(two: list[str]) -> None:
    a, b = two
    assert notes(a, a) == []
    change_json(
        Path(b) / "config_sentence_transformers.json",
        lambda x: x["prompts"].update(query="ask: "),
    )
    change_json(
        Path(b) / "sentence_bert_config.json", lambda x: x.update(max_seq_length=9)
    )
    change_json(
        Path(b) / "1_Pooling" / "config.json", lambda x: x.update(pooling_mode="cls")
    )
    prompts, length, pooling = notes(a, b)
    assert prompts.startswith(f"prompts of {b} is ")
    asked, ours = prompts.split(f", of {a} ")
    assert "ask: " in asked and "query: " in ours and ours.endswith("which is taken")
    assert length == f"max_length of {b} is 9, of {a} 20, which is taken"
    assert pooling == f"pooling of {b} is cls, of {a} mean, which is taken"


def test_tensors_that_the_result_lacks_are_told(two: list[str]) -> None:
    a, b = two
    word = "embeddings.word_embeddings.weight"
    lost = {f"cls.{n}": np.ones(2, np.float32) for n in range(3)}
    derived = ("embeddings.position_ids", "lm_head.decoder.weight", "lm_head.weight")
    change_weights(b, lambda x: x.update(lost, **dict.fromkeys(derived, x[word])))
    dense = "pooler.dense.bias, pooler.dense.weight"
    end = "which m3jax does not use"
    assert differences([open_parent(x) for x in two]) == [
        f"the result lacks {dense} of {a}, {end}",
        f"the result lacks cls.0, cls.1, cls.2 and 2 more of {b}, {end}",
    ]
    config = Path(b) / "config.json"
    change_json(config, lambda x: x.update(tie_word_embeddings=False))
    assert "cls.2 and 4 more" in differences([open_parent(b)])[0]


def test_layers_of_several_types_are_refused_in_the_first(two: list[str]) -> None:
    name = "encoder.layer.{}.output.dense.weight"

    def narrow(held: dict[str, np.ndarray]) -> None:
        held[name.format(0)] = held[name.format(0)].astype(ml_dtypes.bfloat16)

    change_weights(two[1], narrow)
    a, b = (open_parent(x) for x in two)
    require_same([a, b], ())
    one, other = name.format(0), name.format(1)
    found = f"/b: expected {other} in bfloat16 like {one}, found float32. Name another"
    with pytest.raises(InputError, match=found):
        require_same([b, a], ())


def test_pooling_is_for_a_folder_that_does_not_say(two: list[str]) -> None:
    b = two[1]
    for name in ("modules.json", "1_Pooling/config.json"):
        (Path(b) / name).unlink()
    found = [open_parent(x, pooling="cls").model.config.pooling for x in two]
    assert found == ["mean", "cls"]


def test_a_model_that_is_its_own_base_is_told(tmp_path: Path) -> None:
    base = models.golden("bert")
    a = models.write(models.other(base, 1), tmp_path / "a")
    b = models.write(models.other(base, 2), tmp_path / "b")
    shutil.copytree(b, tmp_path / "base")
    config = Merge((a, b), method="task_arithmetic", base=str(tmp_path / "base"))
    told: list[str] = []
    with opened(config, tmp_path / "out", say=told.append) as found:
        write(found, tmp_path / "out", say=told.append)
    assert told == [f"warning: {b} is the same model as {tmp_path / 'base'}"]


def notes(*names: str) -> list[str]:
    """Differences, without tensors that are left out."""
    found = [dataclasses.replace(open_parent(x), left_out=()) for x in names]
    return differences(found)
