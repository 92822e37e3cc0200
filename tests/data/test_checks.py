"""Mixtures that cannot be, and prepared data sets that are not those of the run."""

from pathlib import Path
from typing import Any

import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig, Dataset
from m3jax.data.prepare import Texts, prepare
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.data.sources.open import open_source
from m3jax.data.training_sets import measure, open_data
from m3jax.testing import tiny_tokenizer, write_jsonl
from tests.mixtures import write_beir

PAIRS = [{"query": f"river {i}", "pos": [f"bread and water {i}"]} for i in range(300)]
GRADED = [{"sentence1": "a", "sentence2": "b", "score": i} for i in range(40)]
LENGTHS = {"query_length": 8, "passage_length": 8}


def config_of(folder: Path, *sets: Dataset, **fields: Any) -> DataConfig:
    given: dict[str, Any] = {"batch_size": 8, "dev": str(write_beir(folder / "dev"))}
    given |= {"cache": str(folder / "cache"), "mixture": sets} | LENGTHS | fields
    return DataConfig(**given)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "pairs.jsonl", PAIRS))


@pytest.fixture
def graded(tmp_path: Path) -> str:
    return str(write_jsonl(tmp_path / "graded.jsonl", GRADED))


def refused(config: DataConfig, said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        open_data(config)
    assert "\n" not in str(error.value)


def test_two_data_sets_of_one_name(tmp_path: Path, pairs: str) -> None:
    config = config_of(tmp_path, Dataset(pairs), Dataset(pairs, positive="first"))
    refused(config, "expected different names, found .*pairs.jsonl' twice. Give each")


def test_fewer_rows_than_a_batch(tmp_path: Path, pairs: str) -> None:
    config = config_of(tmp_path, Dataset(pairs, name="mine"), batch_size=512)
    refused(config, "^mine: expected at least one batch of 512 .*found 300. Lower")


def test_kinds_that_do_not_mix(tmp_path: Path, pairs: str, graded: str) -> None:
    sets = Dataset(pairs, name="p"), Dataset(graded, name="g")
    open_data(config_of(tmp_path, *sets))
    config = config_of(tmp_path, *sets, homogeneity=0.5)
    refused(config, r"of one kind, because batches are mixed, found p \(pairs\), g")


def test_no_teacher_scored_random_passages(tmp_path: Path, pairs: str) -> None:
    one = Dataset(pairs, name="p", teacher_scores=True, fill="random")
    refused(config_of(tmp_path, one), "^p: fill: expected fill .mask. or .repeat.")


def test_a_path_beside_a_mixture(tmp_path: Path, pairs: str) -> None:
    config = config_of(tmp_path, Dataset(pairs), train=pairs)
    refused(config, "data.train and data.mixture: expected one path, or a mixture")
    config = DataConfig(train=pairs, reading=Dataset("other.jsonl"))
    refused(config, "data.reading: expected no path and no weight.*found other.jsonl")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"task": "search"}, "an instruction for the task 'search', found no instr"),
        ({"task": "a", "prompts": ("x",)}, "expected prompts or a task, found both"),
    ],
)
def test_prompts_that_are_missing(
    tmp_path: Path, pairs: str, fields: Any, said: str
) -> None:
    refused(config_of(tmp_path, Dataset(pairs, **fields)), said)
    known = {"b": ("find it",)}
    one = Dataset(pairs, task="search")
    refused(config_of(tmp_path, one, instructions=known), "found only those of 'b'")
    # A model without a place for an instruction takes none.
    config = config_of(tmp_path, one, instructions={"search": ("find",)})
    refused(
        config, r"data\.prompts\.task: expected a prompt with {task} in it, because"
    )


def prepared(folder: Path, pairs: str, **texts: Any) -> str:
    source = open_source(Dataset(pairs), cache_folder=str(folder / "cache"))
    fields: Any = {"query_length": 8, "passage_length": 8} | texts
    given = Texts(**fields)
    out = folder / "prepared"
    prepare(
        source, tiny_tokenizer(), out, root=folder / "cache", texts=given, show=False
    )
    return str(out)


@pytest.mark.parametrize(
    ("texts", "options", "fields", "said"),
    [
        ({}, {}, {"prompts": Prompts("query: ")}, "the prompts 'query: ' and ''"),
        ({}, {"prompts": ("a", "b")}, {}, "the prompts 'a' or 'b' and ''"),
        (
            {"query_prompt": "query: "},
            {"symmetric": True},
            {"prompts": Prompts("query: ")},
            "the prompts 'query: ' and 'query: ', found 'query: ' and ''",
        ),
        ({}, {"shuffle_ratio": 0.1}, {}, "no shuffle_ratio"),
        ({"passage_length": 4}, {}, {}, "passage texts of up to 8 tokens, found 300"),
        ({"passage_length": 4}, {"passage_length": 6}, {}, "of up to 6 tokens, found"),
    ],
)
def test_ids_that_are_not_those_of_the_run(
    tmp_path: Path, pairs: str, texts: Any, options: Any, fields: Any, said: str
) -> None:
    one = Dataset(prepared(tmp_path, pairs, **texts), **options)
    config = config_of(tmp_path, one, **fields)
    with pytest.raises(InputError, match=said):
        measure(config, open_data(config), tiny_tokenizer())


def test_ids_of_another_tokenizer(tmp_path: Path, pairs: str) -> None:
    config = config_of(tmp_path, Dataset(prepared(tmp_path, pairs)))
    data = open_data(config)
    measure(config, data, tiny_tokenizer())
    with pytest.raises(InputError, match="the tokenizer of this run, found ids of"):
        measure(config, data, tiny_tokenizer(["other words altogether"] * 9))


def test_queries_that_are_held_out_go_out_of_prepared_copies(
    tmp_path: Path, pairs: str
) -> None:
    sets = Dataset(pairs, name="text"), Dataset(prepared(tmp_path, pairs), name="ids")
    data = open_data(config_of(tmp_path, *sets, dev=None))
    assert isinstance(data.dev, Retrieval)
    held = len(data.dev.queries)
    assert held and [one.count for one in data.sets] == [300 - held] * 2
    assert [one.dropped for one in data.sets] == [{"held out": held}] * 2
