"""Time of hybrid search from the words of a query to its passages.

    python -m benchmarks.retrieval --only hybrid --model FOLDER --data FOLDER

The real weights of all-MiniLM-L6-v2, with sparse and 64-wide multi-vector heads of
random numbers: what the heads say is worth nothing, what they cost is the same. Titles
of arXiv papers are searched in 6,000 abstracts, one at a time, after five others from
the shortest to the longest, which compile.
"""

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from benchmarks.retrieval_process import telling
from benchmarks.table import Row
from m3jax import Embedder
from m3jax.data.retrieval import read_beir
from m3jax.inference.index import Index
from m3jax.nn.embedding import EmbeddingModule, init

SET, QUERIES, WARM, WIDTH, K = "arxiv_titles", 100, 5, 64, 10


def rows(model: str, data: Path) -> Iterator[Row]:
    """Build the index, then search it.

    Args:
        model: a folder of all-MiniLM-L6-v2.
        data: has a folder arxiv_titles.
    """
    task = read_beir(data / SET)
    embedder = three_heads(model)
    progress = telling("hybrid: corpus", len(task.corpus))
    index = Index.build(embedder, task.corpus, progress=progress)
    encoding, searching = [], []
    texts = list(task.queries.values())
    others = sorted(texts[QUERIES:], key=len)
    warm = [others[round(x)] for x in np.linspace(0, len(others) - 1, WARM)]
    for text in (*warm, *texts[:QUERIES]):
        begun = time.perf_counter()
        query = embedder.encode_query([text], outputs=("dense", "sparse", "multivec"))
        between = time.perf_counter()
        index.search(query, k=K, mode="hybrid")
        ended = time.perf_counter()
        encoding.append((between - begun) * 1e3)
        searching.append((ended - between) * 1e3)
    each = np.array([encoding, searching])[:, WARM:]
    whole, (encoded, searched) = each.sum(axis=0), each.mean(axis=1)
    yield Row(
        f"hybrid, {len(task.corpus):,} passages, {each.shape[1]} queries one at a "
        "time, encoding and search",
        f"{whole.mean():.1f} ms a query",
        "",
        f"encoding {encoded:.1f}, search {searched:.1f}; 95th percentile "
        f"{np.percentile(whole, 95):.1f}, largest {whole.max():.1f}",
        "<= 50 ms",
    )


def three_heads(model: str) -> Embedder:
    """A dense model with sparse and multi-vector heads of random numbers."""
    dense = Embedder.load(model)
    config = dataclasses.replace(
        dense.module.config,
        sparse=True,
        multivec=WIDTH,
        special_ids=dense.tokenizer.special_ids,
    )
    module = EmbeddingModule(config)
    params = {**init(module, jax.random.key(0)), **dense.params}
    return dataclasses.replace(dense, module=module, params=params)
