"""Searches in a Qdrant collection, with the results of an exact `Index`."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded
from m3jax.inference.qdrant_calls import call, groups
from m3jax.inference.qdrant_collection import (
    NAME,
    read_record,
    require_about,
    vectors,
    widths,
)
from m3jax.inference.ranking import HEADS, RANK_CONSTANT, WEIGHTS, shares_of

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

_QUERIES = 16  # in a request, at most: a server has a time limit for each


def search(
    client: "QdrantClient",
    collection: str,
    query: Encoded,
    *,
    mode: str | None = None,
    k: int = 10,
    weights: Sequence[float] = WEIGHTS,
    rescored: int | None = 200,
    method: Literal["exact", "hnsw"] = "exact",
    only: "models.Filter | None" = None,
    about: Mapping[str, str | int] | None = None,
) -> list[list[tuple[str, float]]]:
    """Find the k best passages of each query in a collection of `upload`.

    As BGE-M3 does: multivec orders anew the `rescored` best passages of dense (of
    sparse, where there is no dense), and the mixtures "dense+sparse" and "hybrid" those
    of dense and of sparse together, by s = sum_h w_h s_h / sum_h w_h. "rrf" sums
    1 / (60 + rank) over the rankings of all outputs, `rescored` deep. Qdrant computes
    all of it; of several shards each gives its own `rescored` best to a mixture.

    Args:
        client: of `qdrant.connect`.
        collection: its name.
        query: encoded queries, with the outputs that the mode needs.
        mode: "dense", "sparse", "multivec", "dense+sparse", "hybrid" or "rrf"; None
            takes hybrid where the collection has more than one output.
        k: passages of each query, at most.
        weights: of dense, sparse and multivec in a mixture.
        rescored: passages that dense and sparse find for multivec and the mixtures;
            None searches the whole collection by the token vectors, too.
        method: "exact" compares with every passage; "hnsw" follows Qdrant's graph of
            the dense vectors, which is faster and may miss some. sparse and multivec
            are exact either way.
        only: conditions on the payload that passages must meet.
        about: what the queries depend on, as in `upload`; None does not compare it.

    Returns:
        For each query its passages as (id, score), the best first, and of equal scores
        in no order. sparse leaves out passages that share no token with the query.

    Raises:
        InputError: an option does not fit, the query or the collection lacks an output
            that the mode needs, another model or width made the collection, or the
            server does not answer.

    Source: Chen et al. 2024 (BGE-M3), section 4.1 (arXiv:2402.03216); Cormack et al.
        2009 for reciprocal-rank fusion.

    Example:
        >>> import numpy as np
        >>> from m3jax.inference.qdrant import connect, upload
        >>> client, corpus = connect(":memory:"), {"a": "a fox", "b": "a wolf"}
        >>> encoded = Encoded(np.eye(2, dtype=np.float32))
        >>> _ = upload(client, "texts", corpus, encoded, about={"model": "eye"})
        >>> search(client, "texts", encoded[:1], k=1)
        [[('a', 1.0)]]
    """
    depth = k if rescored is None else rescored
    for name, number in (("k", k), ("rescored", depth)):
        if number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    if method not in ("exact", "hnsw"):
        raise InputError("exact or hnsw", repr(method), where="method")
    record = read_record(client, collection)
    if record is None:
        where = f"collection {collection!r}"
        raise InputError("a collection of this name", "none", where=where)
    if about is not None:
        require_about(record, about, collection)
    chosen, heads = _heads(mode, rescored, record["widths"])
    needed = _only(query, heads, chosen, record["widths"])
    mixture = chosen in ("dense+sparse", "hybrid")
    share = shares_of("search", weights, heads) if mixture else {}
    share = {name: weight for name, weight in share.items() if weight > 0}
    found = []
    for start in range(0, len(query), _QUERIES):
        rows = range(start, min(start + _QUERIES, len(query)))
        asked = [vectors(needed, row) for row in rows]
        requests = [
            _request(
                vector,
                mode=chosen,
                share=share,
                k=k,
                depth=depth,
                whole=rescored is None,
                method=method,
                only=only,
            )
            for vector in asked
        ]
        answers = _ask(client, collection, requests)
        for vector, points in zip(asked, answers, strict=True):
            # Qdrant adds up the scores of a query's vectors, we take their mean.
            tokens = len(vector["multivec"]) if chosen == "multivec" else 1
            found.append(
                [(point.payload[NAME], point.score / tokens) for point in points]
            )
    return found


def _heads(
    mode: str | None, rescored: int | None, made: Mapping[str, int]
) -> tuple[str, tuple[str, ...]]:
    """The mode, and the outputs that it needs."""
    there = tuple(name for name in HEADS if name in made)
    modes: dict[str, tuple[str, ...]] = {name: (name,) for name in there}
    if "multivec" in there and rescored is not None:  # of what another one finds
        modes["multivec"] = (*there[:-1][:1], "multivec")
    if {"dense", "sparse"} <= {*there}:
        modes["dense+sparse"] = ("dense", "sparse")
    if len(there) > 1:
        modes |= {"hybrid": there, "rrf": there}
    if mode is None:
        mode = "hybrid" if len(there) > 1 else next(iter(modes))
    if mode not in modes:
        expected = f"one of {', '.join(modes)}, as the collection has them"
        raise InputError(expected, repr(mode), where="search: mode")
    return mode, modes[mode]


def _only(
    query: Encoded, heads: Sequence[str], mode: str, made: Mapping[str, int]
) -> Encoded:
    """The outputs of the queries that a mode needs, of the collection's width."""
    there = widths(query)
    for name in heads:
        if name not in there:
            expected = f"{name} embeddings, which the mode {mode} needs"
            found = ", ".join(there) or "none"
            raise InputError(expected, found, where="search: query")
        if there[name] != made[name]:
            expected = f"{name} queries of width {made[name]}, as the collection has"
            raise InputError(expected, f"{there[name]}", where="search: query")
    return Encoded(**{name: getattr(query, name) for name in heads})


def _request(
    vector: Mapping[str, Any],
    *,
    mode: str,
    share: Mapping[str, float],
    k: int,
    depth: int,
    whole: bool,
    method: str,
    only: "models.Filter | None",
) -> "models.QueryRequest":
    """What is asked of Qdrant for one query."""
    from qdrant_client import models

    params = models.SearchParams(exact=True) if method == "exact" else None
    options: dict[str, Any] = {"limit": k, "with_payload": [NAME]}
    searches = [name for name in vector if name != "multivec" or whole]
    searches = searches or ["multivec"]
    if mode in searches:
        return models.QueryRequest(
            query=vector[mode], using=mode, filter=only, params=params, **options
        )
    first = {
        name: models.Prefetch(
            query=vector[name], using=name, filter=only, params=params, limit=depth
        )
        for name in searches
    }
    if mode == "multivec":
        return models.QueryRequest(
            prefetch=list(first.values()),
            query=vector[mode],
            using=mode,
            params=params,
            **options,
        )

    def scored(name: str, among: list[models.Prefetch]) -> models.Prefetch:
        """Score what others have found; what has no token in common is left out."""
        return models.Prefetch(
            prefetch=among,
            query=vector[name],
            using=name,
            params=params,
            limit=depth * len(among),
        )

    if mode == "rrf":
        lists = dict(first)
        if "multivec" in vector and not whole:
            lists["multivec"] = scored("multivec", [first[searches[0]]])
        # Qdrant counts ranks from 0, we from 1.
        fusion = models.RrfQuery(rrf=models.Rrf(k=RANK_CONSTANT + 1))
    else:
        # What is left out counts 0 in a formula.
        lists = {name: scored(name, list(first.values())) for name in share}
        tokens = {"multivec": len(vector.get("multivec", ()))}
        terms: list[models.Expression] = [
            models.MultExpression(mult=[weight / tokens.get(name, 1), f"$score[{i}]"])
            for i, (name, weight) in enumerate(share.items())
        ]
        fusion = models.FormulaQuery(formula=models.SumExpression(sum=terms))
    return models.QueryRequest(prefetch=list(lists.values()), query=fusion, **options)


def _ask(
    client: "QdrantClient", collection: str, requests: list["models.QueryRequest"]
) -> Iterator[list[Any]]:
    """The points that each query has found."""
    for part in groups(requests):
        with warnings.catch_warnings():
            # Embedded Qdrant is exact in any case, and says so when it is asked to be.
            warnings.filterwarnings("ignore", "Local mode performs exact")
            answers = call(
                lambda part=part: client.query_batch_points(collection, part),
                where=f"search in {collection!r}",
            )
        yield from (answer.points for answer in answers)
