"""Several stages in one run: what each goes on from, and what is left of it."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from m3jax.core.errors import InputError
from m3jax.data.config import DataConfig
from m3jax.data.prompts import Prompts
from m3jax.data.vocabulary import TokenizerConfig
from m3jax.hub import folder
from m3jax.nn.bert import BertConfig
from m3jax.nn.embedding import EmbeddingConfig
from m3jax.pipeline.stage import Train
from m3jax.pipeline.stages import resolve
from m3jax.pipeline.train import run_stages
from m3jax.testing import write_jsonl
from m3jax.training.objectives import UnifiedConfig
from m3jax.training.optimizer import OptimizerConfig

# One worker makes the run for all.
pytestmark = pytest.mark.xdist_group("stages")
GOLDEN = Path(__file__).parent.parent / "golden"
WORDS = ("river", "bread", "moon", "sea", "hill", "yeast", "tide", "salt")


def stages(tmp_path: Path) -> dict[str, Train]:
    rows = [
        {"query": f"where is {a} {b}", "pos": [f"{a} {b} lies {n}"]}
        for n, a in enumerate(WORDS)
        for b in WORDS
    ]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True, exist_ok=True)
    texts = [{"_id": str(n), "text": f"{word} lies"} for n, word in enumerate(WORDS)]
    for name in ("corpus", "queries"):
        write_jsonl(beir / f"{name}.jsonl", texts)
    judged = [f"{n}\t{n}\t1" for n in range(len(WORDS))]
    lines = ["query-id\tcorpus-id\tscore", *judged]
    (beir / "qrels" / "test.tsv").write_text("\n".join(lines))
    first = Train(
        data=DataConfig(
            train=str(path),
            dev=str(beir),
            batch_size=8,
            query_length=8,
            passage_length=12,
            buckets=(12,),
            prompts=Prompts("ask: "),
            workers=0,
            cache=str(tmp_path / "cache"),
        ),
        tokenizer=TokenizerConfig(vocab_size=80),
        model=EmbeddingConfig(BertConfig(hidden=16, layers=1, heads=2, mlp=16)),
        optimizer=OptimizerConfig(learning_rate=1e-2),
        steps=4,
        evaluate_every=4,
    )
    heads = EmbeddingConfig(first.model.encoder, sparse=True, multivec=8)
    data = dataclasses.replace(first.data, prompts=Prompts())
    unified = dataclasses.replace(
        first,
        data=data,
        model=heads,
        objective=UnifiedConfig(distill_from=2),
    )
    warm = dataclasses.replace(
        unified, optimizer=OptimizerConfig(1e-2, trainable=r"^(sparse|multivec)\.")
    )
    return {"dense": first, "heads": warm, "all": unified}


# Other tests of the worker come between those of a group.
@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("stages")
    run_stages(stages(tmp_path), tmp_path / "run")
    return tmp_path / "run"


def test_each_stage_goes_on_from_the_one_before(run: Path) -> None:
    dense, heads = (folder.load(run / name / "model") for name in ("dense", "heads"))
    last = folder.load(run / "model")
    assert not (run / "all" / "model").exists()
    assert dense.config.outputs == ("dense",) and last.config.sparse
    assert last.config.multivec == 8 and last.prompts.query == "ask: "
    for name, leaf in dense.params["encoder"]["layers"]["mlp"]["up"].items():
        # The heads were warmed on an encoder that stood still, and then all moved.
        warm = heads.params["encoder"]["layers"]["mlp"]["up"][name]
        np.testing.assert_array_equal(leaf, warm)
        assert np.any(warm != last.params["encoder"]["layers"]["mlp"]["up"][name])
    assert np.any(heads.params["sparse"]["kernel"] != last.params["sparse"]["kernel"])
    tokenizers = {one.tokenizer.backend.to_str() for one in (dense, heads, last)}
    assert len(tokenizers) == 1


def test_the_run_tells_where_it_came_from(run: Path) -> None:
    lineage = json.loads((run / "lineage.json").read_text())
    parents = {name: one["parent"] for name, one in lineage["stages"].items()}
    assert parents == {"dense": None, "heads": "dense", "all": "heads"}
    assert set(json.loads((run / "config.json").read_text())) == set(parents)
    for name in parents:
        for file in ("metrics.jsonl", "results.json", "plots/loss.png"):
            assert (run / name / file).stat().st_size


def test_a_stage_that_is_finished_is_not_run_again(
    run: Path, capsys: pytest.CaptureFixture
) -> None:
    made = stages(run.parent)
    before = (run / "model" / "model.safetensors").stat().st_mtime_ns
    last = run / "all" / "results.json"
    last.unlink()  # as after a kill in the last moment of the last stage
    stamps = {
        name: (run / name / "results.json").stat().st_mtime_ns
        for name in ("dense", "heads")
    }
    run_stages(made, run)
    said = capsys.readouterr().out
    assert "stage dense is finished" in said and "stage heads is finished" in said
    assert "after heads (step 4)" in said and "before dense" in said
    assert (run / "model" / "model.safetensors").stat().st_mtime_ns > before
    for name, stamp in stamps.items():
        assert (run / name / "results.json").stat().st_mtime_ns == stamp


def test_bad_stages_are_named(tmp_path: Path) -> None:
    made = stages(tmp_path)
    wide = dataclasses.replace(made["all"].model, multivec=16)
    made["all"] = dataclasses.replace(made["all"], model=wide)
    with pytest.raises(InputError, match=r"all: model\.multivec: expected 8"):
        resolve(made, tmp_path)
    plain = dataclasses.replace(made["dense"], init=str(GOLDEN / "reranker_xlmr"))
    with pytest.raises(InputError, match=r"dense: .*found a reranker"):
        resolve({"dense": plain, "heads": made["heads"]}, tmp_path)
