"""Rankings by every head and by mixtures of them, while a corpus goes by in blocks."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from m3jax.core.errors import InputError
from m3jax.inference import scores
from m3jax.inference.best import Best
from m3jax.inference.encoded import Encoded
from m3jax.inference.scores import HEADS
from m3jax.nn.zoo import ZOO

# Of dense, sparse and multivec, unless a call says.
WEIGHTS = ZOO["BAAI/bge-m3"].weights["passages"]
RANK_CONSTANT = 60  # of reciprocal-rank fusion


@dataclass(frozen=True)
class Mixture:
    """Orders what some heads have found by s = sum_h w_h s_h, every head scoring it.

    Attributes:
        weights: of dense, sparse and multivec; divided by the sum over the heads that
            there are.
        of: heads whose best passages are ordered, if any of them searches; None = all
            that do.
        depth: so many passages of each; None = `rescored`.
    """

    weights: Sequence[float] = WEIGHTS
    of: tuple[str, ...] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        """Check that the heads are such."""
        unknown = [head for head in self.of or () if head not in HEADS]
        if unknown:
            expected = f"some of {', '.join(HEADS)}"
            raise InputError(expected, unknown[0], where="mixture: of")

    def keys(self, best: Mapping[str, Best], depth: int, passages: int) -> np.ndarray:
        """Keys of the pairs that are ordered; see `Best.keys`.

        Args:
            best: head -> what it has found.
            depth: where the mixture says nothing.
            passages: how many the corpus has.
        """
        searches = [one for head, one in best.items() if head in (self.of or best)]
        depth = depth if self.depth is None else self.depth
        found = [one.keys(depth, passages) for one in searches or best.values()]
        return np.concatenate(found)


@dataclass(frozen=True)
class Fusion:
    """Adds up the rankings of the heads; a head adds nothing where it found nothing.

    Attributes:
        weights: of dense, sparse and multivec, by which scores are added; None adds
            1 / (60 + rank), reciprocal-rank fusion.
        depth: so many passages of each ranking; None = `rescored`.
    """

    weights: Sequence[float] | None = None
    depth: int | None = None


RRF = Fusion()
MIXTURES: Mapping[str, Mixture | Fusion] = {"hybrid": Mixture()}


class Block(Protocol):
    """A part of a corpus that can be searched."""

    def __len__(self) -> int:
        """Number of passages."""
        ...

    def search(self, head: str, query: Encoded, k: int, **options: Any) -> Best:
        """The k best passages of each query, numbered from 0 within the block."""
        ...

    def score(self, head: str, query: Encoded, at: np.ndarray) -> np.ndarray:
        """Scores of one query with passages of the block, float32 `[n]`."""
        ...


def rank(
    query: Encoded,
    blocks: Iterable[Block],
    heads: Sequence[str],
    passages: int,
    *,
    k: int,
    rescored: int | None = 200,
    mixtures: Mapping[str, Mixture | Fusion] = MIXTURES,
    options: Mapping[str, Any] = {},
) -> dict[str, Best]:
    """Rank the passages of a corpus by each head, and by mixtures of the heads.

    dense and sparse are exact over the corpus. As in BGE-M3's evaluation, multivec
    orders anew the `rescored` best passages of dense (of sparse where there is no
    dense). Alone, or where rescored is None, it is searched over the whole corpus as
    well. Mixtures order what the heads have found; see `Mixture` and `Fusion`.

    Of each block only the passages that are among the best so far are scored by all
    heads; the result is that of one block.

    Args:
        query: q queries.
        blocks: the corpus, part by part in its order.
        heads: of HEADS.
        passages: how many all blocks have together.
        k: passages kept of each query, at most.
        rescored: passages of each search that multivec and mixtures order; None takes
            k, and has multivec search, too.
        mixtures: by name; there are none of a single head.
        options: of the dense search: mesh and recall_target, see `dense_search.top_k`.

    Returns:
        Head or mixture -> the best of each query, of equal scores the lower number
        first; heads stand before mixtures. sparse leaves out passages that share no
        token with the query.

    Raises:
        InputError: a number is below 1, a mixture gives no head here a weight, or there
            is no head.

    Source: Chen et al. 2024 (BGE-M3), section 4 (arXiv:2402.03216); Cormack et al. 2009
        for reciprocal-rank fusion.

    Example:
        >>> from m3jax.inference.segment import Segment
        >>> both = Encoded(np.eye(2, dtype=np.float32))
        >>> block = Segment.of([("a", "one"), ("b", "two")], both)
        >>> rank(both, [block], ("dense",), 2, k=1)["dense"].at.tolist()
        [[0], [1]]
    """
    depth = k if rescored is None else rescored
    depths = {
        name: depth if one.depth is None else one.depth
        for name, one in mixtures.items()
    }
    for name, number in {"k": k, "rescored": depth, **depths}.items():
        if number < 1:
            raise InputError("a positive number", f"{number}", where=name)
    heads = tuple(head for head in HEADS if head in heads)
    if not heads:
        raise InputError(f"one of {', '.join(HEADS)}", "none", where="heads")
    searches = [head for head in heads if head != "multivec" or rescored is None]
    searches = searches or ["multivec"]
    shares = {
        name: shares_of(name, one.weights, heads)
        for name, one in mixtures.items()
        if one.weights is not None
    }
    if len(heads) == 1:
        mixtures = depths = {}
    scored = {name: one for name, one in mixtures.items() if isinstance(one, Mixture)}
    if "multivec" in heads and "multivec" not in searches:
        scored["multivec"] = Mixture((0, 0, 1), of=(searches[0],))
        shares["multivec"] = {"multivec": 1.0}
    deepest = max(k, depth, *depths.values()) if len(heads) > 1 else k
    kept = min(deepest, max(passages, 1))
    best = {head: Best.none(len(query), kept) for head in searches}
    pool, start = Pool.none(heads, passages), 0
    for block in blocks:
        for head in searches:
            asked = options if head == "dense" else {}
            found = block.search(head, query, min(kept, len(block)), **asked)
            at = np.where(found.at < 0, -1, found.at + start)
            best[head] = best[head].merge(found.scores, at)
        if scored:
            keys = [one.keys(best, depth, passages) for one in scored.values()]
            pool = pool.replace(np.concatenate(keys), query, block, start)
        start += len(block)
    ranked = dict(best)
    for name, one in scored.items():
        keys = np.unique(one.keys(best, depth, passages))
        most = k if name in mixtures else kept  # fusions look into multivec's
        ranked[name] = pool.best(shares[name], keys, len(query), most)
    for name, one in mixtures.items():
        if isinstance(one, Fusion):
            share = None if one.weights is None else shares[name]
            there = [head for head in heads if share is None or share[head] > 0]
            ranked[name] = fuse(
                [ranked[head] for head in there],
                k,
                depth=depths[name],
                weights=None if share is None else [share[head] for head in there],
            )
    return {name: ranked[name].first(k) for name in (*heads, *mixtures)}


def fuse(
    rankings: Sequence[Best],
    k: int,
    *,
    depth: int | None = None,
    weights: Sequence[float] | None = None,
) -> Best:
    """Add up rankings: s_qp = sum_r w_r s_r, or reciprocal ranks, over those with p.

    Args:
        rankings: each with the best passages of the same queries.
        k: passages kept of each query.
        depth: passages of each ranking that count; None = all.
        weights: of the scores of each ranking; None adds 1 / (60 + rank of p in r).

    Returns:
        The best by the sum; of equal ones the lower number comes first.

    Source: Cormack et al. 2009 (SIGIR), whose constant is 60.

    Example:
        >>> one = Best(np.array([[2.0, 1.0]]), np.array([[4, 7]]))
        >>> fuse([one, Best(np.array([[9.0]]), np.array([[7]]))], 1).at.tolist()
        [[7]]
    """
    fused = Best.none(len(rankings[0]), k)
    for number in range(len(fused)):
        lists, added = [], []
        for i, ranking in enumerate(rankings):
            at = ranking.at[number, :depth]
            rows = np.flatnonzero(at >= 0)
            lists.append(at[rows])
            if weights is None:
                added.append(1 / (RANK_CONSTANT + 1 + rows))
            else:
                added.append(weights[i] * ranking.scores[number, rows].astype(float))
        at, values = np.concatenate(lists), np.concatenate(added)
        places, which = np.unique(at, return_inverse=True)
        # The same ranks in another order differ in the last bit of a float64.
        total = np.bincount(which, values, len(places)).astype(np.float32)
        order = np.argsort(-total, kind="stable")[:k]
        fused.scores[number, : len(order)] = total[order]
        fused.at[number, : len(order)] = places[order]
    return fused


@dataclass(frozen=True, eq=False)
class Pool:
    """Pairs of a query and a passage that all heads have scored.

    Attributes:
        heads: their names.
        passages: how many the corpus has.
        keys: query number * passages + passage number, int64 `[n]`, rising.
        scores: float32 `[heads n]`.
    """

    heads: tuple[str, ...]
    passages: int
    keys: np.ndarray
    scores: np.ndarray

    @classmethod
    def none(cls, heads: tuple[str, ...], passages: int) -> "Pool":
        """Without a pair yet."""
        scores = np.empty((len(heads), 0), np.float32)
        return cls(heads, passages, np.empty(0, np.int64), scores)

    def replace(
        self, keys: np.ndarray, query: Encoded, block: Block, start: int
    ) -> "Pool":
        """Keep the pairs that are still wanted, and score those that are new.

        Args:
            keys: all that is wanted; of passages before `start` only such as are here.
            query: all queries.
            block: passages from number `start` on.
            start: of the block.

        Returns:
            The pairs of these keys.
        """
        keys = np.unique(keys)
        row, at = np.divmod(keys, max(self.passages, 1))
        new = at >= start
        found = np.empty((len(self.heads), len(keys)), np.float32)
        found[:, ~new] = self.scores[:, np.isin(self.keys, keys)]
        found[:, new] = self._scored(row[new], at[new] - start, query, block)
        return Pool(self.heads, self.passages, keys, found)

    def best(
        self, share: Mapping[str, float], keys: np.ndarray, queries: int, k: int
    ) -> Best:
        """The best pairs of each query by a weighted sum of the scores.

        Args:
            share: head -> weight; 0 where it has none.
            keys: of the pairs to choose from, rising, all of them here.
            queries: how many there are.
            k: passages of each, at most.

        Returns:
            Of equal scores the lower passage number comes first.
        """
        chosen = np.searchsorted(self.keys, keys)
        total = np.zeros(len(keys), np.float32)
        for head, part in zip(self.heads, self.scores, strict=True):
            total += np.float32(share.get(head, 0)) * part[chosen]
        row, at = np.divmod(keys, max(self.passages, 1))
        edges = np.searchsorted(row, np.arange(queries + 1)).tolist()
        best = Best.none(queries, k)
        for number, (first, last) in enumerate(itertools.pairwise(edges)):
            order = first + np.argsort(-total[first:last], kind="stable")[:k]
            best.scores[number, : len(order)] = total[order]
            best.at[number, : len(order)] = at[order]
        return best

    def _scored(
        self, row: np.ndarray, at: np.ndarray, query: Encoded, block: Block
    ) -> np.ndarray:
        found = np.empty((len(self.heads), len(row)), np.float32)
        edges = [*np.flatnonzero(np.diff(row, prepend=-1)).tolist(), len(row)]
        for first, last in itertools.pairwise(edges):
            number = int(row[first])
            one = query[number : number + 1]
            for i, head in enumerate(self.heads):
                found[i, first:last] = block.score(head, one, at[first:last])
        return found


def shares_of(
    name: str, weights: Sequence[float], heads: Sequence[str]
) -> dict[str, float]:
    """Divide the weights of some heads by their sum.

    Args:
        name: what a message calls the mixture.
        weights: of dense, sparse and multivec.
        heads: those that there are.

    Returns:
        Head -> weight; they add up to 1. The weight of a single head may be 0.

    Raises:
        InputError: the weights are not three numbers from 0 up, or no head has one.

    Example:
        >>> shares_of("hybrid", (1, 0.3, 3), ("dense", "multivec"))
        {'dense': 0.25, 'multivec': 0.75}
    """
    share = scores.shares(weights, where=name)
    there = {head: share[head] for head in heads}
    total = sum(there.values())
    if total == 0 and len(heads) > 1:
        expected = f"a weight above 0 for {' or '.join(heads)}"
        raise InputError(expected, f"{weights}", where=f"{name}: weights")
    return {head: one / total for head, one in there.items()} if total else there
