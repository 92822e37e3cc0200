"""A sweep: every point is measured, dev selects, and the best is written."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from m3jax import merge, merging
from m3jax.core.errors import InputError
from m3jax.hub import folder
from m3jax.inference.embedder import Embedder
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
        score = measure.scorer(found.models[0], sets, max_length=16)
        asked = sweep.parse_sweep("t=0.3", config)
        points = sweep.run_sweep(found, asked, score, score)
    a, b = (folder.load(given[name]).params for name in "ab")
    assert points[-1].dev == pytest.approx(score(merging.slerp(a, b, 0.3)))
    assert points[0].dev == pytest.approx(score(a))
    assert set(points[0].dev) == {"dev", "sts"}
    assert points[0].selects == pytest.approx(np.mean(list(points[0].dev.values())))


def test_of_a_base_scale_and_density(given: dict[str, str], tmp_path: Path) -> None:
    config = Merge(
        (given["a"], given["b"]), method="ties", base=given["base"], density=0.5
    )
    sets = measure.open_sets([given["sts"]], "dev")
    with opened(config, tmp_path / "out") as found:
        score = measure.scorer(found.models[0], sets, max_length=16)
        points = sweep.run_sweep(
            found, sweep.parse_sweep("scale=0,1", config), score, lambda _: {}
        )
    base, a, b = (folder.load(given[name]).params for name in ("base", "a", "b"))
    assert points[2].dev == pytest.approx(score(base))
    assert points[3].dev == pytest.approx(
        score(merging.ties(base, [a, b], density=0.5))
    )
    assert points[3].tested is None


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
    "a set": ("--sweep t=0:1:1 --dev nowhere", "nowhere: expected a folder in BEIR's"),
    "twice": ("--sweep t=0:1:1 --dev DEV DEV", "sets of different names, found dev tw"),
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
