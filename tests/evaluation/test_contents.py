"""What a part of a set is made of: the bytes of its files, and nothing else."""

import itertools
import shutil
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.contents import contents
from m3jax.evaluation.test_sets import find
from m3jax.testing import write_jsonl
from tests.evaluation.sets import write_beir, write_bitext, write_labelled, write_sts


def several(folder: Path, kind: str) -> Path:
    """A set of two languages of some kind."""
    folder.mkdir()
    for language in ("de", "en"):
        if kind == "retrieval":
            write_beir(folder / language, seed=ord(language[0]))
        elif kind == "labelled":
            write_labelled(folder / language)
        elif kind == "sts":
            (folder / language).mkdir()
            write_sts(folder / language / "test.jsonl", seed=ord(language[0]))
        else:
            write_bitext(folder / language)
    return folder


LABELS = {
    "retrieval": ["a, de", "a, en"],
    "labelled": ["a, de", "a, en"],
    "sts": ["a", "a"],
    "bitext": ["a, de, deu", "a, en, deu"],
}
FILES = {
    "retrieval": ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"],
    "labelled": ["train.jsonl", "test.jsonl"],
    "sts": ["test.jsonl"],
    "bitext": ["deu.jsonl"],
}


@pytest.mark.parametrize("kind", LABELS)
def test_every_file_counts_for_its_part(tmp_path: Path, kind: str) -> None:
    folder = several(tmp_path / "a", kind)
    before = contents(find(str(folder)))
    assert len(before) == {"sts": 1, "bitext": 4}.get(kind, 2)
    languages = zip(("de", "en"), LABELS[kind], strict=True)
    for (language, label), name in itertools.product(languages, FILES[kind]):
        moved = tmp_path / f"{language} {name.replace('/', '')}" / "a"
        shutil.copytree(folder, moved)
        assert contents(find(str(moved))) == before
        with (moved / language / name).open("a") as file:
            file.write("\n")
        after = contents(find(str(moved)))
        assert [one for one in before if after[one] != before[one]] == [label]


def test_what_a_subset_is_called_counts(tmp_path: Path) -> None:
    folder = several(tmp_path / "a", "sts")
    before = contents(find(str(folder)))
    (folder / "de").rename(folder / "dk")
    assert contents(find(str(folder))) != before


def test_pairs_of_languages(tmp_path: Path) -> None:
    one = find(str(several(tmp_path / "a", "retrieval")))
    alone, crossed = contents(one), contents(one, cross_lingual=True)
    assert list(crossed) == [
        f"a, {x} → {y}" for x in ("de", "en") for y in ("de", "en")
    ]
    assert crossed["a, de → en"] == f"{alone['a, de']} {alone['a, en']}"
    single = find(str(tmp_path / "a" / "de"))
    assert contents(single, cross_lingual=True) == contents(single)


def test_another_split(tmp_path: Path) -> None:
    folder = write_labelled(tmp_path / "a")
    rows = [{"text": "salt", "label": "food"}, {"text": "fox", "label": "animal"}]
    write_jsonl(folder / "dev.jsonl", rows)
    one = find(str(folder))
    assert contents(one, "dev") != contents(one) == contents(one, "test")
    (folder / "dev.jsonl").unlink()
    with pytest.raises(InputError, match=r"a: expected dev.jsonl, .* found none"):
        contents(one, "dev")


def test_a_benchmark_is_known_by_name_and_split() -> None:
    one = find("beir/scifact")
    assert contents(one) == {"beir/scifact": "beir/scifact, the split that is reported"}
    assert contents(one, "train") == {"beir/scifact": "beir/scifact, train"}
