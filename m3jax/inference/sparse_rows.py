"""Token weights of texts, on the host: a sparse row of the vocabulary for each text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex, overload

import numpy as np
import scipy.sparse

from m3jax.core.errors import InputError
from m3jax.inference.rows import Rows, map_array, require_offsets, select

_INDPTR, _TOKENS = "sparse.indptr.npy", "sparse.tokens.npy"
_WEIGHTS, _SHAPE = "sparse.weights.npy", "sparse.shape.npy"
SPARSE_FILES = (_INDPTR, _TOKENS, _WEIGHTS, _SHAPE)


@dataclass(frozen=True, eq=False, repr=False)
class SparseRows:
    """Weights of the tokens of n texts; a number takes one text, a slice a table.

    Attributes:
        matrix: scipy CSR, float32 `[n v]`, token ids rising in each row.

    Raises:
        InputError: it is no such matrix.

    Example:
        >>> ids, weights = np.array([[5, 2, 5]]), np.array([[0.5, 0.25, 1.0]])
        >>> rows = SparseRows.from_tokens(ids, weights, 10)
        >>> rows, rows[0]
        (SparseRows([1 10] with 2 weights), {5: 1.0, 2: 0.25})
    """

    matrix: Any

    def __post_init__(self) -> None:
        m = self.matrix
        if not scipy.sparse.issparse(m) or m.format != "csr" or m.dtype != np.float32:
            found = f"{type(m).__name__} of {getattr(m, 'dtype', 'no numbers')}"
            raise InputError("a scipy CSR of float32", found, where="SparseRows")
        _require_csr(m.indptr, m.indices, m.data, m.shape, ["SparseRows"] * 4)
        if not m.has_canonical_format:
            raise InputError(
                "rising token ids in each row, none twice",
                "others",
                where="SparseRows",
                do="SparseRows.from_tokens sorts them.",
            )

    @classmethod
    def from_tokens(
        cls, ids: np.ndarray, weights: np.ndarray, vocab_size: int
    ) -> "SparseRows":
        """Collect the weights of padded tokens.

        Args:
            ids: int `[n l]`.
            weights: float `[n l]`; 0 where a token does not count.
            vocab_size: v.

        Returns:
            n rows; the weight of a token is its largest one in the text.

        Raises:
            InputError: shapes differ, a weight is not finite, or a token that counts
                is outside the vocabulary.

        Example:
            >>> SparseRows.from_tokens(np.array([[7, 0]]), np.array([[2, 0]]), 10)[0]
            {7: 2.0}
        """
        ids, weights = np.asarray(ids), np.asarray(weights)
        if ids.ndim != 2:
            raise InputError("shape [n l]", f"{ids.shape}", where="SparseRows: ids")
        offsets = np.arange(ids.shape[0] + 1) * ids.shape[1]
        if ids.shape != weights.shape:
            raise _shapes_differ(ids, weights)
        return cls.from_flat(ids.ravel(), weights.ravel(), offsets, vocab_size)

    @classmethod
    def from_flat(
        cls,
        ids: Sequence[int] | np.ndarray,
        weights: Sequence[float] | np.ndarray,
        offsets: Sequence[int] | np.ndarray,
        vocab_size: int,
    ) -> "SparseRows":
        """Collect the weights of tokens that lie one text after the other.

        Args:
            ids: int `[t]`.
            weights: float `[t]`; 0 where a token does not count.
            offsets: int `[n + 1]`, text i has the tokens offsets[i] to offsets[i + 1].
            vocab_size: v.

        Returns:
            n rows; the weight of a token is its largest one in the text.

        Raises:
            InputError: shapes or offsets do not fit, a weight is not finite, or a token
                that counts is outside the vocabulary.

        Example:
            >>> rows = SparseRows.from_flat([3, 3, 4], [1, 2, 0.5], [0, 2, 3], 10)
            >>> list(rows)
            [{3: 2.0}, {4: 0.5}]
        """
        ids, offsets = np.asarray(ids), np.asarray(offsets)
        weights = np.asarray(weights, np.float32)
        if ids.ndim != 1 or ids.shape != weights.shape:
            raise _shapes_differ(ids, weights)
        if ids.size and ids.dtype.kind not in "iu":
            raise InputError("integers", f"{ids.dtype}", where="SparseRows: ids")
        require_offsets(offsets, len(ids), where="SparseRows: offsets")
        if not np.isfinite(weights).all():
            found = f"{weights[~np.isfinite(weights)][0]}"
            raise InputError("finite numbers", found, where="SparseRows: weights")
        keep = weights > 0
        count = len(offsets) - 1
        text = np.repeat(np.arange(count), np.diff(offsets))[keep]
        token, weights = ids[keep].astype(np.int64), weights[keep]
        wrong = token[(token < 0) | (token >= vocab_size)]
        if wrong.size:
            raise InputError(
                f"token ids below {vocab_size:,}", f"{wrong[0]}", where="SparseRows"
            )
        key = text * vocab_size + token
        order = np.argsort(key)
        key = key[order]
        # The same token of a text lies together now.
        first = np.flatnonzero(np.diff(key, prepend=-1))
        if first.size:
            weights = np.maximum.reduceat(weights[order], first)
        text, token = np.divmod(key[first], vocab_size)
        ends = np.cumsum(np.bincount(text, minlength=count)[:count])
        indptr = np.concatenate([[0], ends])
        # scipy wants one type for both; half the memory where the smaller one will do.
        kind = np.int32 if max(len(token), vocab_size) < 2**31 else np.int64
        csr = (weights, token.astype(kind), indptr.astype(kind))
        return cls(scipy.sparse.csr_array(csr, shape=(count, vocab_size)))

    @classmethod
    def concatenate(cls, parts: Sequence["SparseRows"]) -> "SparseRows":
        """Put tables of one vocabulary one below the other.

        Args:
            parts: at least one.

        Returns:
            As many rows as the parts have together.

        Example:
            >>> row = SparseRows.from_flat([3], [1], [0, 1], 10)
            >>> SparseRows.concatenate([row, row])
            SparseRows([2 10] with 2 weights)
        """
        return cls(scipy.sparse.vstack([part.matrix for part in parts], format="csr"))

    def __len__(self) -> int:
        """Number of texts."""
        return self.matrix.shape[0]

    @property
    def vocab_size(self) -> int:
        """Token ids are below it."""
        return self.matrix.shape[1]

    def __iter__(self) -> Iterator[dict[int, float]]:
        """One text after the other."""
        return (self[i] for i in range(len(self)))

    @overload
    def __getitem__(self, rows: SupportsIndex) -> dict[int, float]: ...
    @overload
    def __getitem__(self, rows: Rows) -> "SparseRows": ...
    def __getitem__(self, rows: SupportsIndex | Rows) -> Any:
        """Take one text as {token id: weight}, the heaviest first, or a table.

        Raises:
            IndexError: there is no such row.
        """
        picked = select(rows, len(self))
        if not isinstance(picked, int):
            return SparseRows(self.matrix[picked])
        part = slice(*self.matrix.indptr[picked : picked + 2])
        token, weight = self.matrix.indices[part], self.matrix.data[part]
        order = np.argsort(-weight, kind="stable")
        order = order[weight[order] > 0]
        return dict(zip(token[order].tolist(), weight[order].tolist(), strict=True))

    def __repr__(self) -> str:
        """How large it is, not what is in it."""
        return f"SparseRows({self.size})"

    @property
    def size(self) -> str:
        """Rows, vocabulary and weights, in words."""
        n, v = self.matrix.shape
        count = self.matrix.nnz
        return f"[{n:,} {v:,}] with {count:,} weight{'s' * (count != 1)}"

    def write(self, folder: Path) -> None:
        """Write the arrays into a folder that is there."""
        np.save(folder / _INDPTR, self.matrix.indptr)
        np.save(folder / _TOKENS, self.matrix.indices)
        np.save(folder / _WEIGHTS, self.matrix.data)
        np.save(folder / _SHAPE, np.array(self.matrix.shape, np.int64))

    @classmethod
    def open(cls, folder: Path) -> "SparseRows":
        """Map what `write` wrote; token ids are read once to check them, no weights.

        Args:
            folder: written by `write`.

        Returns:
            Read-only rows.

        Raises:
            InputError: an array is missing or damaged, or they do not fit together.

        Example:
            >>> SparseRows.open(Path("no"))
            Traceback (most recent call last):
            m3jax.core.errors.InputError: no/sparse.indptr.npy: expected token \
weights, found none
        """
        paths = [folder / name for name in SPARSE_FILES]
        arrays = [map_array(path, "token weights") for path in paths]
        indptr, tokens, weights, shape = arrays
        where = [str(path) for path in paths]
        if shape.dtype != np.int64 or shape.shape != (2,) or shape.min() < 0:
            found = f"{shape.dtype} of shape {shape.shape}"
            raise InputError("two sizes, int64", found, where=where[-1])
        rows, vocab_size = shape.tolist()
        _require_csr(indptr, tokens, weights, (rows, vocab_size), where)
        csr = (weights, tokens, indptr)
        matrix = scipy.sparse.csr_array(csr, shape=(rows, vocab_size))
        if not matrix.has_canonical_format:
            expected = "rising token ids in each row, none twice"
            raise InputError(expected, "others", where=where[1])
        return cls(matrix)


def _require_csr(
    indptr: np.ndarray,
    tokens: np.ndarray,
    weights: np.ndarray,
    shape: tuple[int, int],
    where: Sequence[str],
) -> None:
    """Refuse what scipy would follow out of its arrays; `where` follows the order."""
    if tokens.dtype not in (np.int32, np.int64) or tokens.ndim != 1:
        found = f"{tokens.dtype} of shape {tokens.shape}"
        raise InputError("int32 or int64 of shape [t]", found, where=where[1])
    require_offsets(indptr, len(tokens), where=where[0])
    if len(indptr) != shape[0] + 1:
        found = f"{len(indptr)}"
        raise InputError(f"{shape[0] + 1} numbers", found, where=where[0])
    if weights.dtype != np.float32 or weights.shape != tokens.shape:
        found = f"{weights.dtype} of shape {weights.shape}"
        expected = f"float32 of shape {tokens.shape}"
        raise InputError(expected, found, where=where[2])
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < shape[1]:
        found = f"{tokens.min()} to {tokens.max()}"
        raise InputError(f"token ids below {shape[1]:,}", found, where=where[1])


def _shapes_differ(ids: np.ndarray, weights: np.ndarray) -> InputError:
    return InputError(
        "ids and weights of one shape",
        f"{ids.shape} and {weights.shape}",
        where="SparseRows",
    )
