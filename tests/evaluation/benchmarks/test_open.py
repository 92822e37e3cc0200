from collections import Counter
from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.evaluation.benchmarks.open import names, open_benchmark, sets
from m3jax.evaluation.benchmarks.task import without_identical
from tests.evaluation.benchmarks.layouts import write_mldr


def test_names():
    families = Counter(name.partition("/")[0] for name in names())
    # 14 sets, 12 forums, all forums; 18, 25 and English, 13 languages; all of each.
    assert families == {"beir": 28, "miracl": 19, "mkqa": 27, "mldr": 14}
    assert len(set(names())) == len(names())


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("beir/scifacts", "beir/scifact"),
        ("BEIR/SciFact", "beir/scifact"),
        ("mircal", "miracl"),
        ("beir/cqadupstack/androyd", "beir/cqadupstack/android"),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, near: str):
    with pytest.raises(InputError) as caught:
        open_benchmark(name)
    assert caught.value.found == repr(name)
    assert caught.value.do.startswith(f"Did you mean {near}")


def test_nothing_is_near_to_some_names():
    with pytest.raises(InputError) as caught:
        open_benchmark("trec")
    assert caught.value.do == ""


def test_a_split_is_checked_before_anything_is_read():
    with pytest.raises(InputError) as caught:
        open_benchmark("miracl/ar", split="test")
    message = "split of miracl/ar: expected dev or train, found 'test'"
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "repo"),
    [
        ("beir/scifact", "BeIR/scifact"),
        ("miracl/ar", "miracl/miracl"),
        ("mkqa/de", "Shitao/bge-m3-data"),
        ("mldr", "Shitao/MLDR"),
    ],
)
def test_without_a_network_one_line_says_what_could_not_be_had(name: str, repo: str):
    with pytest.raises(InputError) as caught:
        next(open_benchmark(name))
    assert str(caught.value) == (
        f"hf://datasets/{repo}: expected the data set in the cache, or a network to "
        "fetch it, found neither: HF_HUB_OFFLINE is set. Try again with a network, or "
        "name a folder of the files."
    )


def test_a_folder_without_the_data_set(tmp_path: Path):
    with pytest.raises(InputError) as caught:
        next(open_benchmark("beir/scifact", root=tmp_path))
    message = f"{tmp_path}/BeIR/scifact: expected corpus/*.parquet, found none"
    assert str(caught.value) == message


def test_a_found_passage_with_the_id_of_the_query_is_left_out():
    results = {"a": {"b": 2.0, "a": 1.0}, "c": {"a": 3.0, "b": 2.0}, "d": {"d": 1.0}}
    left = {"a": {"b": 2.0}, "c": {"a": 3.0, "b": 2.0}, "d": {}}
    assert without_identical(results, 2) == left
    assert without_identical(results, 1)["c"] == {"a": 3.0}
    kept = {"a": {"b": 2.0}, "c": {"a": 3.0, "b": 2.0}, "d": {"d": 1.0}}
    assert without_identical(results, 2, queries={"a"}) == kept


def test_sets_that_are_passed_over_are_not_read(tmp_path: Path):
    for language in ("de", "en"):
        row = {"query_id": "q", "query": "Salt?", "positive_passages": [{"docid": "d"}]}
        passages = [{"docid": "d", "text": "Salt"}]
        write_mldr(tmp_path, language, passages=passages, queries=[row])
    passed = {one for one in sets("mldr") if one not in ("mldr/de", "mldr/en")}
    found = list(open_benchmark("mldr", without=passed, root=tmp_path))
    assert [task.name for task in found] == ["mldr/de", "mldr/en"]
    assert list(open_benchmark("mkqa", without=sets("mkqa"), root=tmp_path)) == []
    with pytest.raises(InputError, match="none"):  # Arabic is not there
        next(open_benchmark("mldr", root=tmp_path))


def test_sets_of_a_name():
    assert sets("mkqa/en") == ("mkqa/en",)
    assert len(sets("beir")) == 26 and len(sets("mkqa")) == 25
    assert all(name in names() for name in sets("miracl"))
    with pytest.raises(InputError, match=r"Did you mean mldr/de"):
        sets("mldr/dee")
