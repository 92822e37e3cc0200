"""Our models in the hands of the real mteb."""

import json
from typing import Any

import numpy as np
import pytest

from m3jax.hub.reranker import TASK

WORDS = (
    "cell bread flour water salt yeast river sea hills city evening heat number unit "
    "life organism smallest rises kilometres capital the of and is made"
).split()
MODES = ("dense", "sparse", "multivec", "hybrid")


def sentences(count: int, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 12))) for _ in range(count)]


def labelled(seed: int) -> dict[str, Any]:
    """Texts of two classes that have half of their words in common."""
    rng = np.random.default_rng(seed)
    words = WORDS[:14], WORDS[7:]
    texts = [" ".join(rng.choice(words[i % 2], 6)) for i in range(16)]
    return {"text": texts, "label": [0, 1] * 8}


def documents() -> list[dict[str, str]]:
    texts = sentences(16, 1)
    titles = [
        f"about {text.split()[0]}" if i % 2 else "" for i, text in enumerate(texts)
    ]
    rows = enumerate(zip(titles, texts, strict=True))
    return [{"id": f"d{i}", "title": title, "text": text} for i, (title, text) in rows]


@pytest.fixture(scope="module")
def job(exports) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    queries = [f"q{i}" for i in range(8)]
    passages = [row["id"] for row in documents()]
    return {
        "embedder": str(exports["xlmr heads mean"]),
        "reranker": str(exports["rerank bert"]),
        "instructed": str(exports["rerank qwen3"]),
        "meta": [
            *("name", "framework", "languages", "n_parameters", "embed_dim"),
            *("max_tokens", "open_weights", "similarity_fn_name", "model_type"),
            *("use_instructions", "revision"),
        ],
        "documents": documents(),
        "queries": [
            {"id": name, "text": text}
            for name, text in zip(queries, sentences(8, 2), strict=True)
        ],
        "qrels": {
            name: {str(one): 1 for one in rng.choice(passages, 3, replace=False)}
            for name in queries
        },
        "top_ranked": {
            name: [str(one) for one in rng.choice(passages[:12], 6, replace=False)]
            for name in queries
        },
        "STS": {
            "test": {
                "sentence1": sentences(16, 4),
                "sentence2": sentences(16, 5),
                "score": [float(x) for x in rng.uniform(0, 5, 16)],
            }
        },
        "Classification": {"train": labelled(6), "test": labelled(7)},
    }


@pytest.fixture(scope="module")
def found(job, peer, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("mteb")
    (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
    peer("run_mteb.py", folder / "job.json", folder / "out.json")
    return json.loads((folder / "out.json").read_text(encoding="utf-8"))


def texts_of(job: dict[str, Any], kind: str) -> tuple[list[str], list[str]]:
    """Texts that are read as queries, and those that are read as passages."""
    if kind == "STS":
        columns = job[kind]["test"]
        return [*columns["sentence1"], *columns["sentence2"]], []
    if kind == "Classification":
        return [text for part in job[kind].values() for text in part["text"]], []
    joined = [f"{row['title']} {row['text']}".strip() for row in job["documents"]]
    return [row["text"] for row in job["queries"]], joined


@pytest.mark.parametrize("kind", ["STS", "Classification", "Retrieval", "Reranking"])
def test_scores_are_those_of_sentence_transformers(kind, found) -> None:
    ours, theirs = found["dense"]["ours"][kind], found["dense"]["theirs"][kind]
    assert len(ours) > 3
    assert ours == pytest.approx(theirs, abs=1e-4)
    assert len(set(ours.values())) > 2  # not all of them 0 or 1


def test_meta_says_what_is_known(found, job, embedders) -> None:
    model = embedders["xlmr heads mean"]
    sizes = [leaf.size for leaf in _leaves(model.params)]
    meta = found["dense"]["meta"]
    revision = meta.pop("revision")
    assert meta == {
        "name": "m3jax/xlmr-heads-mean",
        "framework": ["JAX"],
        "languages": None,
        "n_parameters": sum(sizes),
        "embed_dim": 32,
        "max_tokens": 40,
        "open_weights": True,
        "similarity_fn_name": "cosine",
        "model_type": ["dense"],
        "use_instructions": True,
    }
    assert len(revision) == 16 and int(revision, 16)


def _leaves(tree: Any) -> list[Any]:
    import jax

    return jax.tree.leaves(tree)


@pytest.mark.parametrize("kind", ["Retrieval", "Reranking"])
def test_modes_rank_as_our_own_search(kind, found) -> None:
    ours, expected = found["searches"][kind], found["searches"][f"expected {kind}"]
    assert set(ours) == set(MODES) and len(set(ours.values())) > 2
    assert ours == pytest.approx(expected, abs=1e-5)  # mteb's own digits
    theirs = found["dense"]["ours"][kind]["ndcg_at_10"]
    assert ours["dense"] == pytest.approx(theirs, abs=1e-5)


def test_a_text_is_encoded_once_for_all_modes(found, job) -> None:
    query, passage = "query: ", "Passage |\n "
    queries, documents = texts_of(job, "Retrieval")
    ids = [row["id"] for row in job["documents"]]
    asked = {name for row in job["top_ranked"].values() for name in row}
    given = [text for name, text in zip(ids, documents, strict=True) if name in asked]
    assert 6 < len(given) < len(documents)
    seen = found["searches"]["texts"]
    for kind, some in (("Retrieval", documents), ("Reranking", given)):
        wanted = [query + text for text in queries] + [passage + text for text in some]
        assert sorted(seen[kind]) == sorted(wanted)
    assert found["searches"]["kept"] == 0


def test_modes_do_not_get_each_others_results(found) -> None:
    assert found["searches"]["again"] == found["searches"]["Retrieval"]
    assert found["searches"]["texts"]["again"] == []  # mteb had kept them


CASES = {
    "own": {
        kind: ("query: ", "Passage |\n ")
        for kind in ("STS", "Classification", "Retrieval")
    },
    "prompts": {
        "STS": ("2 ", ""),
        "Classification": ("3 ", ""),
        "Retrieval": ("3 ", "1 "),
    },
    "mteb's": {
        kind: ("Instruct: As mteb says\nQuery:", "")
        for kind in ("STS", "Classification", "Retrieval")
    },
    "mteb's query": {"Retrieval": ("Instruct: Find a match\nQuery:", "")},
    "of the kind": {
        "STS": ("Instruct: Retrieve semantically similar text.\nQuery:", ""),
        "Classification": ("Instruct: Classify user passages.\nQuery:", ""),
        "Retrieval": ("Instruct: Retrieve text based on user query.\nQuery:", ""),
    },
    "tasks": {
        "STS": ("Instruct: As mteb says\nQuery:", ""),
        "Classification": ("Instruct: Sort it\nQuery:", ""),
        "Retrieval": ("Instruct: Find it\nQuery:", ""),
    },
    "sparse": {"Retrieval": ("Instruct: As mteb says\nQuery:", "")},
}


@pytest.mark.parametrize(
    ("case", "kind"), [(case, kind) for case, row in CASES.items() for kind in row]
)
def test_texts_have_the_prompt_of_their_task(case, kind, found, job) -> None:
    query, passage = CASES[case][kind]
    queries, documents = texts_of(job, kind)
    wanted = {query + text for text in queries} | {passage + t for t in documents}
    assert set(found["prompts"][case][kind]) == wanted


def test_rerankers_rank_as_sentence_transformers(found, job) -> None:
    ours, theirs = found["rerankers"]["ours"], found["rerankers"]["theirs"]
    assert len(ours) > 3
    assert ours == pytest.approx(theirs, abs=1e-4)
    queries, documents = texts_of(job, "Reranking")
    texts = dict(zip((row["id"] for row in job["documents"]), documents, strict=True))
    pairs = [
        [text, texts[one]]
        for row, text in zip(job["queries"], queries, strict=True)
        for one in job["top_ranked"][row["id"]]
    ]
    seen = found["rerankers"]["seen"]
    assert [task for task, _ in seen] == ["", "As mteb says", "Sort"]
    assert all(some == pairs for _, some in seen)
    assert TASK not in [task for task, _ in seen]


def test_what_does_not_fit_is_refused(found) -> None:
    assert found["refusals"] == {
        "name": "name of the model: expected owner/name, found 'model'",
        "tasks": "task: expected no task, because this model takes no instruction, "
        "found 'Compare'. prompt= puts any text before the queries.",
        "mode": "modes: expected one or more of dense, sparse, multivec, hybrid, for "
        "this model, found lexical",
        "precision": "encode_kwargs: precision: expected float32, found 'int8'",
        "no texts": "LocalRetrieval: expected texts, found image",
        "no corpus": "search: expected index(corpus) before, found no corpus",
        "one id": "LocalRetrieval: 'd0': expected one text, found two",
        "candidates": "given: expected candidates that are in the corpus, found 1 that "
        "are not, e.g. 'd77'",
    }
