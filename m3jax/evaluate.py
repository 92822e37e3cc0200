"""`python -m m3jax.evaluate --model M --data FOLDER ...`: how good a model is."""

import dataclasses
import datetime
import platform
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m3jax.core import cli, config
from m3jax.core.errors import InputError
from m3jax.core.mesh_config import MeshConfig

if TYPE_CHECKING:
    from m3jax.evaluation.outcome import Outcome
    from m3jax.evaluation.outcomes.settings import Settings
    from m3jax.evaluation.run import Reranking
    from m3jax.inference.embedder import Embedder

PROG = "python -m m3jax.evaluate"
DESCRIPTION = (
    "Measure a model on test sets: retrieval, reranking, semantic similarity, "
    "classification, clustering, bitext mining, each by what its folder holds. Writes "
    "results.json, report.html and TREC runs; after a stop the same command goes on. "
    "Example: python -m m3jax.evaluate --model BAAI/bge-m3 --data beir/scifact my_set"
)
_NUMBERS = "rescored", "k", "candidates", "samples", "runs", "max_length", "dim"


@dataclass(frozen=True)
class Evaluate:
    """What to measure, and on what."""

    model: str | None = None
    """A hub id, a model folder or a finished run."""
    data: tuple[str, ...] = ()
    """Test sets: folders in BEIR's layout; folders with train and test files of text,
    label; files or folders of sentence1, sentence2, score; folders with a file of two
    texts a row for each language; folders of these, one a language or subset; or
    benchmarks: beir, miracl, mkqa, mldr, or one of their sets, as beir/scifact."""
    output: str | None = None
    """The folder to write [default: evaluations/ and the name of the model]."""
    compare: tuple[str, str] | None = None
    """Two folders of results, to be set side by side with paired bootstrap intervals,
    in place of a model; comparison.html goes into --output [default: here]."""
    outputs: tuple[Literal["dense", "sparse", "multivec"], ...] | None = None
    """Heads to search with [default: all that the model has]."""
    weights: tuple[float, float, float] = (1.0, 0.3, 1.0)
    """Of dense, sparse and multivec in hybrid; benchmarks take their own."""
    rescored: int = 200
    """Passages that dense, and sparse, find for multivec and hybrid to score."""
    k: int = 100
    """Passages found of each query; more if a metric looks deeper or the reranker reads
    more."""
    metrics: tuple[str, ...] = ("ndcg@10", "mrr@10", "recall@100", "map@100")
    """Of retrieval: ndcg@k, mrr@k, recall@k, map@k, precision@k, map. The first one
    decides."""
    reranker: str | None = None
    """A model that reads query and passage together and orders what was found."""
    first_stage: str | None = None
    """What finds the passages for the reranker, as BM25 [default: hybrid, or dense]."""
    candidates: int = 100
    """Passages of each query that the reranker reads."""
    cross_lingual: bool = False
    """Of a set in several languages with the same ids: search the queries of each
    language in the passages of every other, too."""
    split: str | None = None
    """Which judgements and rows of a folder, or of a benchmark; bitexts have none
    [default: test, and of a benchmark what is reported]."""
    task: str | None = None
    """What a search is for, in a sentence; for a model that takes an instruction."""
    max_length: int | None = None
    """Tokens kept of each text [default: as the model says]."""
    dim: int | None = None
    """Numbers kept of each dense vector where dense alone is measured (Matryoshka)
    [default: all]."""
    samples: int = 8
    """Rows of each label in few-shot classification."""
    runs: int = 3
    """Runs of k-means."""
    label_prompt: str = "{}"
    """Text of a label in classification by prompts, e.g. "A question about {}."."""
    batch_tokens: int | None = None
    """Tokens in a batch; fewer if the device runs out of memory."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the computation; bfloat16 is faster on an accelerator."""
    mesh: MeshConfig = field(default_factory=MeshConfig)
    fresh: bool = False
    """Measure everything again, whatever is kept."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(
        Evaluate, sys.argv[1:], prog=PROG, description=DESCRIPTION
    )
    for name in _NUMBERS:
        number = getattr(flags, name)
        if number is not None and number < 1:
            where = f"--{name.replace('_', '-')}"
            raise InputError("a positive number", f"{number}", where=where)
    if flags.compare is not None:
        _compare(flags)
        return
    if flags.model is None:
        raise InputError("--model with --data, or --compare", "neither", where=PROG)

    from m3jax.core.mesh import inference_mesh
    from m3jax.evaluation import run
    from m3jax.evaluation.retrieval import check_metrics
    from m3jax.evaluation.test_sets import find_all
    from m3jax.evaluation.zero_shot import label_texts
    from m3jax.inference.embedder import Embedder

    check_metrics(flags.metrics)
    try:
        label_texts((), flags.label_prompt)
    except InputError as error:
        raise InputError(error.expected, error.found, where="--label-prompt") from None
    if flags.first_stage is not None and flags.reranker is None:
        raise InputError("a --reranker", "none", where="--first-stage")
    sets = find_all(flags.data, flags.split)
    mesh = inference_mesh(flags.mesh)
    embedder = Embedder.load(flags.model, dtype=flags.dtype, mesh=mesh)
    width = embedder.module.config.encoder.hidden
    if flags.dim is not None and flags.dim > width:
        expected = f"at most {width}, the width of the model"
        raise InputError(expected, f"{flags.dim}", where="--dim")
    title = embedder.name
    folder = Path(flags.output or Path("evaluations") / title)
    run.require_own(folder)
    reranking = _reranking(flags)
    about = _about(flags, embedder, reranking)
    before = run.begin(folder, title, about, fresh=flags.fresh)
    folder.mkdir(parents=True, exist_ok=True)
    outcomes = run.evaluate(
        embedder,
        sets,
        folder,
        before,
        _settings(flags),
        reranking=reranking,
        split=flags.split,
        cross_lingual=flags.cross_lingual,
    )
    found = []
    try:
        for outcome in outcomes:
            best = ", ".join(f"{k} {v:.4f}" for k, v in outcome.decisive.items())
            _say(f"{outcome.label}: {outcome.main}: {best}")
            for note in outcome.notes:
                _say(f"  {note}")
            found.append(outcome)
    finally:
        if not any(folder.iterdir()):  # nothing was measured
            folder.rmdir()
    _print_summary(title, found)
    _say(f"{folder / 'report.html'}")


def _settings(flags: Evaluate) -> "Settings":
    from m3jax.evaluation.outcomes.settings import Settings

    return Settings(
        outputs=flags.outputs,
        weights=flags.weights,
        rescored=flags.rescored,
        k=flags.k,
        metrics=flags.metrics,
        task=flags.task,
        max_length=flags.max_length,
        dim=flags.dim,
        batch_tokens=flags.batch_tokens,
        samples=flags.samples,
        runs=flags.runs,
        label_prompt=flags.label_prompt,
        progress=True,
        say=_say,
    )


def _about(
    flags: Evaluate, embedder: "Embedder", reranking: "Reranking | None"
) -> dict[str, str]:
    """Where the numbers are from; fingerprints and settings decide what they are."""
    import jax

    import m3jax
    from m3jax.evaluation.run import depth
    from m3jax.inference.fingerprint import fingerprint

    prompts = embedder.prompts
    kept = {
        name: getattr(flags, name)
        for name in (
            *("outputs", "weights", "rescored", "metrics", "first_stage", "candidates"),
            *("cross_lingual", "split", "task", "max_length", "dim", "samples"),
            *("runs", "label_prompt", "dtype"),
        )
    } | {"k": depth(_settings(flags), reranking)}
    changed = {
        name: value
        for name, value in kept.items()
        if value != Evaluate.__dataclass_fields__[name].default
    }
    said = ", ".join(f"{name} {value}" for name, value in changed.items())
    asked = (prompts.query, prompts.passage, prompts.task, f"{embedder.max_length}")
    of_reranker = {}
    if reranking is not None:
        model = reranking.model
        of_reranker = {
            "reranker": flags.reranker or "",
            "reranker fingerprint": fingerprint(model, f"{model.max_length}"),
        }
    return {
        "model": flags.model or "",
        "fingerprint": fingerprint(embedder, *asked),
        **of_reranker,
        "settings": said or "the defaults",
        "date": datetime.date.today().isoformat(),
        "m3jax": m3jax.__version__,
        "jax": jax.__version__,
        "Python": platform.python_version(),
        "devices": f"{jax.device_count()} {jax.devices()[0].device_kind}",
        "command": shlex.join(["python", "-m", "m3jax.evaluate", *sys.argv[1:]]),
    }


def _reranking(flags: Evaluate) -> "Reranking | None":
    if flags.reranker is None:
        return None
    from m3jax.core.mesh import inference_mesh
    from m3jax.evaluation.run import Reranking
    from m3jax.inference.reranker import Reranker

    mesh = inference_mesh(flags.mesh)
    model = Reranker.load(flags.reranker, dtype=flags.dtype, mesh=mesh)
    return Reranking(model, flags.first_stage, flags.candidates)


def _print_summary(title: str, outcomes: Sequence["Outcome"]) -> None:
    """What decides each set, a row a set."""
    from rich.console import Console

    from m3jax.evaluation.table import summary

    Console().print(summary(outcomes, title))


def _compare(flags: Evaluate) -> None:
    """Two evaluations side by side, on the terminal and as a page."""
    if flags.model is not None or flags.data:
        raise InputError("--compare alone", "a model or data beside it", where=PROG)
    from rich.console import Console

    from m3jax.evaluation.comparison import compare, comparison_table
    from m3jax.evaluation.comparison_page import write_comparison
    from m3jax.evaluation.results import read_results

    assert flags.compare is not None
    a, b = (read_results(path) for path in flags.compare)
    if a.model == b.model:  # their folders tell them apart
        first, second = flags.compare
        a = dataclasses.replace(a, model=first)
        b = dataclasses.replace(b, model=second)
    found = compare(a, b)
    Console().print(comparison_table(found))
    folder = Path(flags.output or ".")
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"{write_comparison(folder, found)}")


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
