"""results.json: read as it was written, and refused where it is damaged."""

import dataclasses
import json
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.results import NAME, read_results, write_results
from tests.evaluation.evaluations import evaluation


def test_round_trip(tmp_path: Path) -> None:
    data = {"sea": {"sea, de": "0f", "sea, en": "1f"}}
    whole = dataclasses.replace(evaluation(), data=data)
    path = write_results(tmp_path, whole)
    assert path == tmp_path / NAME
    assert [file.name for file in tmp_path.iterdir()] == [NAME]
    for place in (path, tmp_path, str(tmp_path)):
        assert read_results(place) == whole
    curve = read_results(path).outcomes[0].curves["dense"]
    assert curve == {1: 0.25, 10: 0.5, 1_000: 0.75}
    content = json.loads(path.read_text(encoding="utf-8"))
    assert (content["format"], content["version"]) == ("m3jax evaluation", 1)
    assert "中文" in path.read_text(encoding="utf-8")
    assert list(content["outcomes"][0])[:4] == ["name", "kind", "main", "values"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "results.json: expected JSON, found Expecting value"),
        ('{"format": "m3jax eval', "expected JSON, found Unterminated string"),
        ('{"x": NaN}', "expected JSON, found NaN, which is no number in JSON"),
        ("[" * 100_000, "expected JSON, found maximum recursion"),
        ("[]", "expected results of an evaluation, found something else. Name a fold"),
        (
            '{"step": 3, "results": {}}',
            "results of an evaluation, found something else",
        ),
        (
            '{"format": "m3jax evaluation", "version": 2}',
            "results.json: expected version 1, found version 2. Use the m3jax that",
        ),
        ('{"format": "m3jax evaluation"}', "expected version 1, found version None"),
    ],
)
def test_foreign_and_damaged_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(InputError, match=message):
        read_results(tmp_path)


def test_not_utf8(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b'{"a": "\xff"}')
    with pytest.raises(InputError, match="expected JSON, found 'utf-8' codec"):
        read_results(tmp_path)


def test_missing(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    write_results(tmp_path / "one", evaluation())
    with pytest.raises(InputError, match=r"found nothing of that name\. Did you mean"):
        read_results(tmp_path / "on")
    with pytest.raises(
        InputError, match="of an evaluation, found nothing of that name"
    ):
        read_results(tmp_path)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("model",), 7, "results.json: model: expected a string, found a number"),
        (("outcomes",), {}, "outcomes: expected a list, found an object"),
        (("outcomes", 0), [], r"outcomes\[0\]: expected an object, found a list"),
        (("more",), 1, "expected the keys model, about, .*, found the key 'more'"),
        (("outcomes", 1, "more"), 1, r"outcomes\[1\]: expected the keys name"),
        (
            ("outcomes", 0, "values", "dense", "ndcg@10"),
            "0.5",
            r"outcomes\[0\].values.dense.ndcg@10: expected a number, found a string",
        ),
        (("outcomes", 0, "counts", "queries"), 1.5, "expected an integer, found 1.5"),
        (("outcomes", 0, "counts", "queries"), True, "an integer, found a boolean"),
        (
            ("outcomes", 0, "curves", "dense", "ten"),
            0.5,
            r"outcomes\[0\].curves.dense: expected an integer as key, found 'ten'",
        ),
        (
            ("outcomes", 0, "histograms", "dense", "edges"),
            [0.0, 1.0],
            r"outcomes\[0\].histograms.dense: histogram: expected counts of 1 bins",
        ),
        (
            ("maps", 0, "points", 3),
            [1.0],
            r"maps\[0\].points\[3\]: expected 2 items, f",
        ),
        (("maps", 0, "labels", 3), None, r"maps\[0\].labels\[3\]: expected a string"),
        (
            ("outcomes", 0, "items", "dense", "q3"),
            0.9,
            r"outcomes\[0\]: medquad: expected items whose mean is 0.500000",
        ),
    ],
)
def test_damage_inside(tmp_path: Path, where, value, message: str) -> None:
    path = write_results(tmp_path, evaluation())
    content = json.loads(path.read_text(encoding="utf-8"))
    inner = content
    for key in where[:-1]:
        inner = inner[key]
    inner[where[-1]] = value
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=message) as error:
        read_results(path)
    assert str(error.value).startswith(f"{path}: ")


def test_a_key_that_is_missing(tmp_path: Path) -> None:
    path = write_results(tmp_path, evaluation())
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["outcomes"][0]["main"]
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"outcomes\[0\]: expected the key 'main'"):
        read_results(path)
