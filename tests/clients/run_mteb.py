"""Evaluate models with the real mteb, on tasks that are made here.

Run by the tests under an interpreter that has mteb, torch and m3jax:

    PEERS/bin/python tests/clients/run_mteb.py JOB.json OUT.json

JOB.json names the folders of an embedding model with three heads and of two rerankers,
and has the texts; OUT.json gets scores, and the texts that a tokenizer was given.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so mteb is imported when it runs.
import argparse
import dataclasses
import importlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ABOUT: dict[str, Any] = {
    "description": "made here",
    "dataset": {"path": "none", "revision": "1"},
    "eval_splits": ["test"],
    "eval_langs": ["eng-Latn"],
}
MAIN = {"STS": "cosine_spearman", "Classification": "accuracy"}
HEADS = ("dense", "sparse", "multivec")
ROWS = 1 << 14  # tokens in a batch
BASES = {
    "STS": "sts.AbsTaskSTS",
    "Classification": "classification.AbsTaskClassification",
    "Retrieval": "retrieval.AbsTaskRetrieval",
    "Reranking": "retrieval.AbsTaskRetrieval",
}


def retrieval(job: dict[str, Any], top_ranked: Any = None) -> Any:
    """Queries and documents as mteb has them."""
    from datasets import Dataset

    rows = {"corpus": job["documents"], "queries": job["queries"]}
    sets = {name: Dataset.from_list(some) for name, some in rows.items()}
    split = {**sets, "relevant_docs": job["qrels"], "top_ranked": top_ranked}
    return {"default": {"test": split}}


def make_task(job: dict[str, Any], kind: str, prompt: Any = None) -> Any:
    """A task of mteb; a new one each time, since evaluating changes it."""
    from datasets import Dataset, DatasetDict
    from mteb.abstasks.task_metadata import TaskMetadata

    module, name = BASES[kind].split(".")
    base = getattr(importlib.import_module(f"mteb.abstasks.{module}"), name)

    def load_data(self: Any, num_proc: int | None = None, **kwargs: Any) -> None:
        if kind in ("Retrieval", "Reranking"):
            given = job["top_ranked"] if kind == "Reranking" else None
            self.dataset = retrieval(job, given)
        else:
            parts: Any = {
                part: Dataset.from_dict(columns) for part, columns in job[kind].items()
            }
            self.dataset = DatasetDict(parts)
        self.data_loaded = True

    metadata = TaskMetadata(
        type=kind,
        name=f"Local{kind}",
        main_score=MAIN.get(kind, "ndcg_at_10"),
        prompt=prompt,
        **ABOUT,
    )
    members = {"metadata": metadata, "load_data": load_data, "n_experiments": 2}
    return type(f"Local{kind}", (base,), members)()


def evaluate(model: Any, task: Any, cache: Any = None) -> dict[str, float]:
    """Every number that mteb says of one task."""
    import mteb

    result = mteb.evaluate(model, task, cache=cache, show_progress_bar=False)
    assert not result.exceptions
    (scores,) = result.task_results[0].scores["test"]
    # nauc depends on how large scores are, and is nan where all queries are right.
    return {
        name: x
        for name, x in scores.items()
        if isinstance(x, float) and not name.startswith("nauc")
    }


@contextmanager
def recorded() -> Iterator[list[str]]:
    """All texts that are tokenised for an embedding."""
    from m3jax.data import tokenize

    seen: list[str] = []
    real = tokenize.encode_counted

    def spy(tokenizer: Any, texts: Sequence[str], **options: Any) -> Any:
        seen.extend(texts)
        return real(tokenizer, texts, **options)

    tokenize.encode_counted = spy
    try:
        yield seen
    finally:
        tokenize.encode_counted = real


def dense(job: dict[str, Any]) -> dict[str, Any]:
    """Our encoder, and sentence-transformers with the same folder and prompts."""
    from sentence_transformers import SentenceTransformer

    from m3jax.evaluation.mteb import load

    ours = load(job["embedder"], batch_tokens=ROWS)
    theirs = SentenceTransformer(job["embedder"], device="cpu")
    query = theirs.prompts["query"]
    theirs.prompts = {**theirs.prompts, "STS": query, "Classification": query}
    meta = ours.mteb_model_meta.to_dict()
    return {
        "meta": {name: meta[name] for name in job["meta"]},
        "ours": {kind: evaluate(ours, make_task(job, kind)) for kind in BASES},
        "theirs": {kind: evaluate(theirs, make_task(job, kind)) for kind in BASES},
    }


def searches(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Every mode of one model, and the same by `heads.search` or from all pairs."""
    import mteb

    from m3jax.data.records import Retrieval
    from m3jax.evaluation import heads
    from m3jax.evaluation.mteb import searchers
    from m3jax.evaluation.retrieval import measure
    from m3jax.inference import scores
    from m3jax.inference.embedder import Embedder

    model = Embedder.load(job["embedder"])
    modes = searchers(model, name="here/model", rescored=4, batch_tokens=ROWS)
    found: dict[str, Any] = {"texts": {}}
    cache = mteb.ResultCache(folder)
    for kind in ("Retrieval", "Reranking"):
        with recorded() as seen:
            found[kind] = {
                mode: evaluate(one, make_task(job, kind), cache)["ndcg_at_10"]
                for mode, one in modes.items()
            }
        found["texts"][kind] = seen
    found["kept"] = len(modes["dense"].rankings.waiting)
    with recorded() as seen:
        task = make_task(job, "Retrieval")
        again = {mode: evaluate(one, task, cache) for mode, one in modes.items()}
    found["again"] = {mode: one["ndcg_at_10"] for mode, one in again.items()}
    found["texts"]["again"] = seen

    queries = {row["id"]: row["text"] for row in job["queries"]}
    corpus = {
        row["id"]: f"{row['title']} {row['text']}".strip() for row in job["documents"]
    }
    data = Retrieval(queries, corpus, job["qrels"])
    rankings = heads.search(
        model.module,
        model.params,
        model.tokenizer,
        data,
        model.prompts,
        query_length=model.max_length,
        passage_length=model.max_length,
        rescored=4,
        batch_tokens=ROWS,
    )
    judged = job["qrels"]
    found["expected Retrieval"] = {
        mode: measure(ranking, judged)["ndcg@10"] for mode, ranking in rankings.items()
    }
    query = model.encode_query(queries.values(), batch_tokens=ROWS, outputs=HEADS)
    passage = model.encode_passage(corpus.values(), batch_tokens=ROWS, outputs=HEADS)
    numbers = {name: at for at, name in enumerate(corpus)}
    found["expected Reranking"] = {}
    for mode in modes:
        values = getattr(scores, mode)(query, passage)
        ranking = {
            name: {one: float(row[numbers[one]]) for one in job["top_ranked"][name]}
            for name, row in zip(queries, values, strict=True)
        }
        found["expected Reranking"][mode] = measure(ranking, judged)["ndcg@10"]
    return found


def prompts(job: dict[str, Any]) -> dict[str, Any]:
    """The texts that models read, by case and task."""
    from m3jax.data.prompts import Prompts
    from m3jax.evaluation.mteb import Encoder, searchers
    from m3jax.inference.embedder import Embedder

    model = Embedder.load(job["embedder"])
    told = Prompts("own: ", "", "Instruct: {task}\nQuery:")
    instructed = dataclasses.replace(model, prompts=told)
    own = {"Retrieval-document": "1 ", "STS": "2 ", "document": "no", "query": "3 "}
    tasks = {"LocalRetrieval": "Find it", "Classification": "Sort it"}
    both = {"query": "Find a match", "document": "no"}
    make: dict[str, tuple[Callable[[], Any], Any]] = {
        "own": (lambda: Encoder(model), None),
        "prompts": (lambda: Encoder(model, prompts=own), None),
        "mteb's": (lambda: Encoder(instructed), "As mteb says"),
        "mteb's query": (lambda: Encoder(instructed), both),
        "of the kind": (lambda: Encoder(instructed), None),
        "tasks": (lambda: Encoder(instructed, tasks=tasks), "As mteb says"),
    }
    found: dict[str, Any] = {}
    for case, (encoder, prompt) in make.items():
        found[case] = {}
        for kind in ("STS", "Classification", "Retrieval"):
            with recorded() as seen:
                evaluate(encoder(), make_task(job, kind, prompt))
            found[case][kind] = sorted(set(seen))
    sparse = searchers(instructed, modes=["sparse"])["sparse"]
    with recorded() as seen:
        evaluate(sparse, make_task(job, "Retrieval", "As mteb says"))
    found["sparse"] = {"Retrieval": sorted(set(seen))}
    return found


def refusals(job: dict[str, Any]) -> dict[str, str]:
    """What is said of what does not fit."""
    import numpy as np
    from mteb.types import PromptType

    from m3jax.core.errors import InputError
    from m3jax.evaluation.mteb import Encoder, Searcher
    from m3jax.inference.embedder import Embedder

    model = Embedder.load(job["embedder"])
    encoder, searcher = Encoder(model), Searcher(model, "sparse")
    task = make_task(job, "Retrieval")
    task.load_data()
    split = task.dataset["default"]["test"]
    about: dict[str, Any] = {
        "task_metadata": task.metadata,
        "hf_split": "test",
        "hf_subset": "default",
    }
    rest: dict[str, Any] = {**about, "encode_kwargs": {"show_progress_bar": False}}

    def search(**changes: Any) -> None:
        corpus = split["corpus"].map(lambda row: {"id": changes.get("id", row["id"])})
        searcher.index(corpus, **rest)
        searcher.search(
            split["queries"], top_k=9, top_ranked=changes.get("given"), **rest
        )

    cases: dict[str, Callable[[], Any]] = {
        "name": lambda: Encoder(model, name="model"),
        "tasks": lambda: Encoder(model, tasks={"STS": "Compare"}),
        "mode": lambda: Searcher(model, "lexical"),  # type: ignore[arg-type]
        "precision": lambda: encoder.encode(
            [{"text": ["a"]}], precision="int8", **about
        ),
        "no texts": lambda: encoder.encode(
            [{"image": [np.zeros(1)]}], prompt_type=PromptType.query, **about
        ),
        "no corpus": lambda: searcher.search(split["queries"], top_k=9, **rest),
        "one id": lambda: search(id="d0"),
        "candidates": lambda: search(given={"q0": ["d0", "d77"]}),
    }
    found = {}
    for case, call in cases.items():
        try:
            call()
        except InputError as error:
            found[case] = str(error)
    return found


def rerankers(job: dict[str, Any]) -> dict[str, Any]:
    """Our rerankers, and sentence-transformers' with the same folder."""
    from sentence_transformers import CrossEncoder as Theirs

    from m3jax.evaluation.mteb import CrossEncoder, load
    from m3jax.inference import reranker

    ours = load(job["reranker"], batch_tokens=ROWS)
    seen: list[tuple[str, list[tuple[str, str]]]] = []
    real = reranker.encode_pairs

    def spy(tokenizer: Any, pairs: Any, form: Any, max_length: int) -> Any:
        seen.append((form.task, pairs))
        return real(tokenizer, pairs, form, max_length)

    reranker.encode_pairs = spy
    task = make_task(job, "Reranking", "As mteb says")
    instructed = load(job["instructed"], batch_tokens=ROWS)
    found = {
        "ours": evaluate(ours, make_task(job, "Reranking")),
        "theirs": evaluate(
            Theirs(job["reranker"], device="cpu"), make_task(job, "Reranking")
        ),
        "instructed": evaluate(instructed, task),
    }
    assert isinstance(instructed, CrossEncoder)
    told = CrossEncoder(
        instructed.reranker, tasks={"Reranking": "Sort"}, batch_tokens=ROWS
    )
    evaluate(told, make_task(job, "Reranking", "As mteb says"))
    return found | {"seen": seen}


def main() -> None:
    """Write what all of them say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    try:
        import m3jax  # noqa: F401
    except ImportError as error:
        sys.exit(f"{sys.executable} has no m3jax ({error}): pip install -e . with it")
    from m3jax.inference import batches

    job = json.loads(args.job.read_text(encoding="utf-8"))
    found = {"rerankers": rerankers(job)}
    batches.RUNGS = ()  # one length: compiling takes the time here
    found |= {
        "dense": dense(job),
        "searches": searches(job, args.out.parent / "cache"),
        "prompts": prompts(job),
        "refusals": refusals(job),
    }
    args.out.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
