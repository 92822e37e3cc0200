"""What can be measured on is known by what is in it."""

from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.test_sets import find, find_all
from m3jax.testing import write_jsonl
from tests.evaluation.sets import write_beir, write_bitext, write_labelled, write_sts


def test_every_kind(tmp_path: Path) -> None:
    beir, labelled = write_beir(tmp_path / "sea"), write_labelled(tmp_path / "intents")
    bitext, sts = write_bitext(tmp_path / "tatoeba"), write_sts(tmp_path / "sts.jsonl")
    (tmp_path / "stsb").mkdir()
    write_sts(tmp_path / "stsb" / "test.jsonl")
    for path, kind in (
        (beir, "retrieval"),
        (labelled, "labelled"),
        (bitext, "bitext"),
        (bitext / "deu.jsonl", "bitext"),
        (sts, "sts"),
        (tmp_path / "stsb", "sts"),
    ):
        found = find(str(path))
        assert (found.kind, found.parts) == (kind, {"": path})
        assert found.name == path.name.removesuffix(".jsonl")
    assert find("miracl").kind == "benchmark"


def test_a_folder_of_languages(tmp_path: Path) -> None:
    for language in ("de", "en"):
        write_beir(tmp_path / "xquad" / language)
    (tmp_path / "xquad" / "notes").mkdir()
    found = find(str(tmp_path / "xquad"))
    assert (found.name, found.kind, list(found.parts)) == (
        "xquad",
        "retrieval",
        ["de", "en"],
    )
    write_labelled(tmp_path / "xquad" / "fr")
    with pytest.raises(InputError, match="of one kind, found de: retrieval, en: retr"):
        find(str(tmp_path / "xquad"))


def test_another_split(tmp_path: Path) -> None:
    write_labelled(tmp_path / "a")
    (tmp_path / "a" / "test.jsonl").rename(tmp_path / "a" / "dev.jsonl")
    assert find(str(tmp_path / "a"), "dev").kind == "labelled"
    with pytest.raises(InputError, match=r"found a folder of dev.jsonl, train.jsonl"):
        find(str(tmp_path / "a"))


def test_a_split_of_a_benchmark() -> None:
    assert find("miracl", "train").kind == "benchmark"
    with pytest.raises(InputError, match="split of miracl: expected dev or train, fou"):
        find("miracl", "test")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "nowhere: expected a folder with corpus.jsonl.*found nothing of"),
        ("beir/skifact", "found nothing of that name. Did you mean beir/scifact"),
        ("FOLDER/empty", "empty: expected .*, found a folder of nothing"),
        ("FOLDER/train.jsonl", r"train.jsonl: expected .*, found another file"),
    ],
)
def test_what_is_refused(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    write_jsonl(tmp_path / "train.jsonl", [{"query": "a", "pos": ["b"], "neg": []}])
    with pytest.raises(InputError, match=message):
        find(name.replace("FOLDER", str(tmp_path)))


def test_several(tmp_path: Path) -> None:
    one, two = write_beir(tmp_path / "a" / "sea"), write_beir(tmp_path / "b" / "sea")
    assert [found.name for found in find_all([str(one), "mldr/de"])] == [
        "sea",
        "mldr/de",
    ]
    with pytest.raises(InputError, match=r"--data: .* names, found sea twice"):
        find_all([str(one), str(two)])
    with pytest.raises(InputError, match=r"--data: expected .*, found nothing"):
        find_all([])
