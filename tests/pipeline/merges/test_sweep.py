"""A sweep: every point is measured, dev selects, and the best is written."""

import dataclasses
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from m3jax import merge, merging
from m3jax.core.errors import InputError
from m3jax.data.prompts import Prompts
from m3jax.data.records import Retrieval
from m3jax.evaluation import heads
from m3jax.hub import folder
from m3jax.inference.embedder import Embedder
from m3jax.nn.embedding import EmbeddingModule
from m3jax.pipeline.merges import examples, measure, sweep
from m3jax.pipeline.merges.config import Merge
from m3jax.pipeline.merges.run import opened
from m3jax.testing import write_jsonl
from tests.pipeline.merges import models

WORDS = ("river", "bread", "moon", "sea", "hill", "yeast", "tide", "salt")


def beir(to: Path, shift: int) -> str:
    (to / "qrels").mkdir(parents=True)
    texts = [{"_id": str(n), "text": f"{x} and {WORDS[n - 1]}"} for n, x in ROWS]
    write_jsonl(to / "corpus.jsonl", texts)
    write_jsonl(to / "queries.jsonl", [{"_id": str(n), "text": x} for n, x in ROWS])
    judged = [f"{n}\t{(n + shift) % len(WORDS)}\t1" for n, _ in ROWS]
    lines = ["query-id\tcorpus-id\tscore", *judged]
    (to / "qrels" / "test.tsv").write_text("\n".join(lines))
    return str(to)


ROWS = list(enumerate(WORDS))


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    to = tmp_path_factory.mktemp("sweep")
    places = {
        name: models.write(models.other(models.golden("m3"), n, 0.3), to / name)
        for n, name in enumerate("ab")
    }
    places["base"] = models.write(models.golden("m3"), to / "base")
    places |= {name: beir(to / name, n) for n, name in enumerate(("dev", "test"))}
    rows = [{"sentence1": x, "sentence2": f"{x} {n}", "score": n} for n, x in ROWS]
    places["sts"] = str(write_jsonl(to / "sts.jsonl", rows))
    return places


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*words: Any) -> tuple[str, str]:
        monkeypatch.setattr(sys, "argv", ["merge", *map(str, words)])
        merge.main()
        return capsys.readouterr()

    return call


def test_the_best_on_dev_is_kept(
    given: dict[str, str], tmp_path: Path, call: Any
) -> None:
    out = tmp_path / "out"
    said = call(
        *("--models", given["a"], given["b"], "--output", out, "--max-length", 16),
        *("--sweep", "t=0:1:0.5", "--dev", given["dev"], given["sts"]),
        *("--test", given["test"]),
    )
    told = json.loads((tmp_path / "out-sweep" / "sweep.json").read_text())
    points = told["points"]
    assert [x["value"] for x in points] == [None, None, 0.0, 0.5, 1.0]
    # The ends are the models.
    for end, alone in ((2, 0), (4, 1)):
        for part in ("dev", "test"):
            assert points[end][part] == pytest.approx(points[alone][part])
    means = [np.mean(list(x["dev"].values())) for x in points[2:]]
    assert told["best"] == [0.0, 0.5, 1.0][int(np.argmax(means))]
    a, b = (folder.load(given[name]).params for name in "ab")
    want = merging.slerp(a, b, told["best"])
    found = folder.load(out).params
    np.testing.assert_allclose(
        found["encoder"]["word"]["embedding"],
        want["encoder"]["word"]["embedding"],
        atol=1e-6,
    )
    assert (tmp_path / "out-sweep" / "sweep.png").stat().st_size > 10_000
    card = (out / "README.md").read_text()
    assert "## Sweep" in card and f"| t | {told['best']:g} |" in card
    assert f"t = {told['best']:g} * |" in card
    assert "the best model alone, " in said.out and "dev: sts" in said.out


def test_what_is_measured_is_what_is_written(
    given: dict[str, str], tmp_path: Path
) -> None:
    config = Merge((given["a"], given["b"]), t=0.5)
    sets = measure.open_sets([given["dev"], given["sts"]], "dev")
    with opened(config, tmp_path / "out") as found:
        score = measure.scorer(sets, max_length=16)
        asked = sweep.parse_sweep("t=0.3", config)
        points = sweep.run_sweep(found, asked, score, score)
    a, b = (folder.load(given[name]).params for name in "ab")
    first = found.models[0]
    assert points[-1].dev == pytest.approx(score(first, merging.slerp(a, b, 0.3)))
    assert points[0].dev == pytest.approx(score(first, a))
    assert set(points[0].dev) == {"dev", "sts"}
    assert points[0].selects == pytest.approx(np.mean(list(points[0].dev.values())))


def test_of_a_base_scale_and_density(given: dict[str, str], tmp_path: Path) -> None:
    config = Merge(
        (given["a"], given["b"]), method="ties", base=given["base"], density=0.5
    )
    sets = measure.open_sets([given["sts"]], "dev")
    with opened(config, tmp_path / "out") as found:
        score = measure.scorer(sets, max_length=16)
        points = sweep.run_sweep(
            found, sweep.parse_sweep("scale=0,1", config), score, lambda *_: {}
        )
    base, a, b = (folder.load(given[name]).params for name in ("base", "a", "b"))
    first, merged = found.models[0], merging.ties(base, [a, b], density=0.5)
    assert points[2].dev == pytest.approx(score(first, base))
    assert points[3].dev == pytest.approx(score(first, merged))
    assert points[3].tested is None


def norms(of: Any, params: Any) -> dict[str, float]:
    """What a test can tell parameters by, in place of a score."""
    leaf = np.asarray(params["encoder"]["word"]["embedding"], np.float64)
    row = np.asarray(params["encoder"]["norm"]["scale"], np.float64)
    return {
        "word": float(leaf @ np.ones(leaf.shape[1]) @ leaf[:, 0]),
        "norm": row.sum(),
    }


@pytest.mark.parametrize(
    "options",
    [{"keep": ("word",)}, {"per": "tree"}, {"per": "row"}, {"t_at": ("word=0.9",)}],
)
def test_options_hold_in_a_sweep(
    options: dict[str, Any], given: dict[str, str], tmp_path: Path
) -> None:
    config = Merge((given["a"], given["b"]), **options)
    with opened(config, tmp_path / "out") as found:
        asked = sweep.parse_sweep("t=0,0.3,1", config)
        points = sweep.run_sweep(found, asked, norms, norms)
    a, b = (folder.load(given[name]).params for name in "ab")
    for point in points[2:]:
        assert point.value is not None
        t = {"word": 0.9, "": point.value} if "t_at" in options else point.value
        more = {name: x for name, x in options.items() if name != "t_at"}
        want = norms(None, merging.slerp(a, b, t, **more))
        assert point.dev == pytest.approx(want, rel=1e-5), point.label
    usual = norms(None, merging.slerp(a, b, 0.3))
    assert points[3].dev != pytest.approx(usual, rel=1e-5)


def test_a_model_alone_has_its_own_heads_and_prompts(
    given: dict[str, str], tmp_path: Path
) -> None:
    model = models.golden("m3")
    config = dataclasses.replace(model.config, sparse=False, multivec=None)
    params = {"encoder": model.params["encoder"]}
    prompts = Prompts(query="bread ")
    dense = dataclasses.replace(model, config=config, params=params, prompts=prompts)
    place = models.write(dense, tmp_path / "dense")
    merge = Merge((given["a"], place), keep=("^(sparse|multivec)",))
    sets = measure.open_sets([given["dev"]], "dev")
    score = measure.scorer(sets, max_length=16)
    with opened(merge, tmp_path / "out", say=lambda told: None) as found:
        asked = sweep.parse_sweep("t=1", merge)
        points = sweep.run_sweep(found, asked, score, score)
    task = sets["dev"]
    assert isinstance(task, Retrieval)
    ranked = heads.search(
        *(EmbeddingModule(config), params, model.tokenizer, task, dense.prompts),
        query_length=16,
        passage_length=16,
    )
    own = heads.score(ranked, task.qrels)["ndcg@10"]
    assert points[1].dev["dev"] == pytest.approx(own)
    # With prompts that differ, the end of the sweep is not the second model alone.
    plain = models.write(
        dataclasses.replace(model, prompts=Prompts(query="bread ")), tmp_path / "plain"
    )
    merge = Merge((given["a"], plain))
    with opened(merge, tmp_path / "out", say=lambda told: None) as found:
        points = sweep.run_sweep(found, asked, score, score)
        first = found.models[0]
    want = score(first, folder.load(plain).params)
    assert points[2].dev == pytest.approx(want)
    assert points[2].dev != pytest.approx(points[1].dev)


def test_an_interrupted_sweep_goes_on(
    given: dict[str, str], tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = measure.scorer

    def counted(sets: Any, **options: Any) -> Any:
        found = real(sets, **options)

        def one(parent: Any, params: Any) -> dict[str, float]:
            asked.append(parent.name)
            if len(asked) == 7:
                raise KeyboardInterrupt
            return found(parent, params)

        return one

    monkeypatch.setattr(measure, "scorer", counted)
    words = ["--models", given["a"], given["b"], "--output", tmp_path / "out"]
    words += ["--max-length", 16, "--dev", given["sts"], "--sweep"]
    with pytest.raises(KeyboardInterrupt):
        call(*words, "t=0.2,0.4,0.6")  # two models alone and 0.2; dev and test each
    told = json.loads((tmp_path / "out-sweep" / "sweep.json").read_text())
    assert [x["value"] for x in told["points"]] == [None, None, 0.2]
    said = call(*words, "t=0.2,0.4,0.6")
    assert len(asked) == 7 + 4 and "goes on from 3 models measured before" in said.err
    again = json.loads((tmp_path / "out-sweep" / "sweep.json").read_text())
    assert again["points"][:3] == told["points"] and len(again["points"]) == 5
    assert "\nt = 0.6: dev " in said.err  # a line a model, where there is no bar
    # Another sweep of the same name begins anew.
    said = call(*words, "t=0.2", "--keep", "word")
    assert len(asked) == 11 + 6 and "goes on" not in said.err


def test_numbers_that_are_none_are_named_before_anything_is_measured(
    given: dict[str, str], tmp_path: Path
) -> None:
    model = models.golden("m3")
    params = jax.tree.map(np.array, model.params)
    params["encoder"]["layers"]["mlp"]["up"]["bias"][1, 3] = np.nan
    place = models.write(dataclasses.replace(model, params=params), tmp_path / "nan")
    merge = Merge((given["a"], place))
    with opened(merge, tmp_path / "out") as found:
        asked = sweep.parse_sweep("t=0.5", merge)
        match = r"nan: expected numbers in encoder\.layers\.1\.mlp\.up\.bias, found NaN"
        with pytest.raises(InputError, match=match):
            sweep.run_sweep(found, asked, norms, norms)


def test_a_file_of_somebody_else_is_not_written_over(
    given: dict[str, str], tmp_path: Path, call: Any
) -> None:
    path = tmp_path / "out-sweep" / "sweep.json"
    path.parent.mkdir()
    path.write_text('{"points": []}')
    words = ["--models", given["a"], given["b"], "--output", tmp_path / "out"]
    with pytest.raises(InputError, match="the numbers of a sweep, found another file"):
        call(*words, "--sweep", "t=0.5", "--dev", given["sts"])
    assert path.read_text() == '{"points": []}'


def test_a_test_set_that_selects_is_told(
    given: dict[str, str], tmp_path: Path, call: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "scorer", lambda *_, **__: lambda *_: {"sts": 0.5})
    words = ["--models", given["a"], given["b"], "--output", tmp_path / "out"]
    words += ["--sweep", "t=0.5", "--dev", given["sts"], "--test"]
    assert "note: a test set is also a dev set" in call(*words, given["sts"]).err
    assert "note" not in call(*words, given["test"]).err


def test_models_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = [f"{tmp_path}/{name}" for name in ("p/m/model", "q/m", "q/n")]
    for name in names:
        Path(name).mkdir(parents=True)
    alike, apart = (
        sweep._labels([SimpleNamespace(name=x) for x in each])  # type: ignore[list-item]
        for each in (names[:2], names[1:])
    )
    assert alike == names[:2] and apart == ["m", "n"]


def test_of_equals_the_first_is_best() -> None:
    points = [sweep.Point(f"{x}", x, {"a": 0.5}, {}) for x in (0.0, 0.5, 1.0)]
    assert sweep.best_of(points).value == 0.0


def test_no_more_tokens_than_a_model_reads(
    given: dict[str, str], tmp_path: Path
) -> None:
    model = dataclasses.replace(models.golden("m3"), max_length=4)
    merge = Merge((models.write(model, tmp_path / "short"), given["b"]))
    sets = measure.open_sets([given["sts"]], "dev")
    with opened(merge, tmp_path / "out", say=lambda told: None) as found:
        short = found.models[0]
    params = model.params
    four, many = (measure.scorer(sets, max_length=n) for n in (4, 512))
    assert many(short, params) == four(short, params)
    other = dataclasses.replace(short.model, max_length=64)
    longer = dataclasses.replace(short, model=other)
    assert many(longer, params) != pytest.approx(four(short, params))


def test_linear_sweeps_its_weights() -> None:
    config = Merge(("a", "b"), method="linear")
    asked = sweep.parse_sweep("t=0:1:0.1", config)
    assert asked.values == (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    assert sweep.at(config, asked, 0.25).weights == (0.75, 0.25)


def test_weights_by_examples(given: dict[str, str], tmp_path: Path, call: Any) -> None:
    rows = [{"query": x, "pos": [f"{x} lies"], "neg": [f"no {x}"]} for x in WORDS]
    rows[0].pop("neg")
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "out"
    said = call(
        *("--method", "linear", "--models", given["a"], given["b"], "--output", out),
        *("--examples", path, "--temperature", 0.5, "--max-length", 16),
    )
    with opened(Merge((given["a"], given["b"])), tmp_path / "x") as found:
        losses, weights = examples.example_weights(
            found.models,
            examples.read_examples(str(path)),
            temperature=0.5,
            max_length=16,
        )
    assert weights == pytest.approx(
        np.exp(-np.array(losses) * 2) / np.exp(-np.array(losses) * 2).sum()
    )
    assert abs(weights[0] - 0.5) > 0.01
    embedder = Embedder.load(given["a"])
    query, passage = (
        encode(texts, max_length=16).dense
        for encode, texts in (
            (embedder.encode_query, [row["query"] for row in rows]),
            # The positives first; the row without a negative adds nothing.
            (
                embedder.encode_passage,
                [row["pos"][0] for row in rows]
                + [x for row in rows for x in row.get("neg", [])],
            ),
        )
    )
    assert query is not None and passage is not None and len(passage) == 15
    logits = query @ passage.T / 0.05
    summed = np.log(np.exp(logits).sum(1))
    assert losses[0] == pytest.approx(np.mean(summed - np.diag(logits)), rel=1e-4)
    assert f"loss {losses[0]:.4f}, weight {weights[0]:.4f}" in said.err
    assert f"| {weights[0]:.4g} |" in (out / "README.md").read_text()


BAD = {
    "no dev": ("--sweep t=0:1:0.5", "expected --sweep with --dev, which selects"),
    "no sweep": ("--dev DEV", "expected --sweep with --dev, which selects"),
    "test alone": ("--test DEV", "expected --sweep, found --test alone"),
    "a name": ("--sweep u=0:1:1 --dev DEV", "--sweep: expected t=FIRST:LAST:STEP, or"),
    "a step": ("--sweep t=0:1:0 --dev DEV", "--sweep: expected t=FIRST:LAST:STEP, or"),
    "beyond": ("--sweep t=0:2:1 --dev DEV", "--t: expected from 0 to 1, found 2.0"),
    "too many": ("--sweep t=0:1:0.0001 --dev DEV", "at most 1000 values, found 10001"),
    "density": (
        "--sweep density=0.1,0.2 --dev DEV",
        "--sweep: expected t=FIRST:LAST:STEP",
    ),
    "t of its own": (
        "--sweep t=0:1:1 --dev DEV --t 0.3",
        "--t: expected no t of its own in a sweep, found 0.3 beside t=0:1:1",
    ),
    "weights of its own": (
        "--method linear --sweep t=0:1:1 --dev DEV --weights 0.5 0.5",
        "--weights: expected no weights of its own in a sweep",
    ),
    "both kinds": ("--sweep t=0:1,0.5 --dev DEV", "--sweep: expected t=FIRST:LAST:ST"),
    "a set": ("--sweep t=0:1:1 --dev nowhere", "nowhere: expected a folder in BEIR's"),
    "twice": ("--sweep t=0:1:1 --dev DEV DEV", "sets of different names, found dev tw"),
    "temperature": ("--temperature 3", "--temperature: expected --examples, found no"),
    "length": ("--max-length 3", "--max-length: expected --sweep or --examples, fou"),
    "mesh": ("--mesh.data 64", "--mesh: expected --sweep or --examples, found none"),
    "batch": ("--batch-tokens 64", "--batch-tokens: expected --sweep, found none"),
    "examples": (
        "--examples x.jsonl",
        "--examples: expected linear or multi_slerp, without --weights and --sweep",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused(
    name: str, given: dict[str, str], tmp_path: Path, call: Any
) -> None:
    words, message = BAD[name]
    places = {"DEV": given["dev"]}
    with pytest.raises(InputError, match=message):
        call(
            *("--models", given["a"], given["b"], "--output", tmp_path / "out"),
            *(places.get(word, word) for word in words.split()),
        )
    assert not list(tmp_path.iterdir())
