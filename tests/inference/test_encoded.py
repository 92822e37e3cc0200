"""Embeddings on the host: sliced, joined, kept."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from m3jax.core.errors import InputError
from m3jax.inference.encoded import ENCODED_FILES, Encoded, concatenate
from m3jax.inference.multivec_rows import MultivecRows
from m3jax.inference.sparse_rows import SparseRows

ROWS = np.arange(12, dtype=np.float32).reshape(6, 2)
# Texts of 2, 0, 1, 3, 0 and 1 tokens; the second and fifth have none.
OFFSETS = np.array([0, 2, 2, 3, 6, 6, 7])
SPARSE = SparseRows.from_flat(
    [7, 2, 4, 1, 9, 1, 3], [0.5, 1, 2, 1, 0, 3, 0.25], OFFSETS, 10
)
WEIGHTS = [{2: 1.0, 7: 0.5}, {}, {4: 2.0}, {1: 3.0}, {}, {3: 0.25}]
MULTIVEC = MultivecRows(np.arange(14, dtype=np.float32).reshape(7, 2), OFFSETS)
VECTORS = [[0, 2], [], [4], [6, 8, 10], [], [12]]  # their first columns
ALL = Encoded(ROWS, SPARSE, MULTIVEC)
INDICES = [
    slice(2, 5),
    slice(4, 2),
    slice(-2, None),
    slice(None, None, 2),
    slice(None, None, -1),
    np.array([5, 0, 5]),
    [3],
    [-1, 3, -6],
    [],
    np.array([], int),
    np.array([True, False, False, True, False, True]),
    [False, True, True, False, False, False],
]


def picked(values: list[Any], index: Any) -> list[Any]:
    """What a list of rows gives for an index."""
    if isinstance(index, slice):
        return values[index]
    index = list(index)
    if index and isinstance(index[0], bool | np.bool_):
        index = [i for i, real in enumerate(index) if real]
    return [values[i] for i in index]


def columns(multivec: MultivecRows | None) -> list[list[float]]:
    assert multivec is not None
    return [vectors[:, 0].tolist() for vectors in multivec]


def same(found: Encoded, expected: Encoded) -> None:
    """Equal in every part."""
    np.testing.assert_array_equal(found.dense, expected.dense)  # type: ignore[arg-type]
    assert found.sparse is not None and expected.sparse is not None
    assert list(found.sparse) == list(expected.sparse)
    assert found.sparse.vocab_size == expected.sparse.vocab_size
    assert columns(found.multivec) == columns(expected.multivec)


def empty(width: int) -> MultivecRows:
    return MultivecRows(np.empty((0, width), np.float32), np.zeros(1, np.int64))


def rows(encoded: Encoded) -> list[float]:
    """First column, which tells the rows apart."""
    assert encoded.dense is not None
    return encoded.dense[:, 0].tolist()


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_all_parts_take_the_same_rows(index: Any) -> None:
    part = ALL[index]
    assert rows(part) == picked([0, 2, 4, 6, 8, 10], index)
    assert part.sparse is not None
    assert list(part.sparse) == picked(WEIGHTS, index)
    assert columns(part.multivec) == picked(VECTORS, index)
    assert len(part) == len(part.sparse) == len(picked(VECTORS, index))


@pytest.mark.parametrize("table", [SPARSE, MULTIVEC], ids=repr)
def test_a_number_takes_one_text(table: Any) -> None:
    def plain(text: Any) -> Any:
        return text if isinstance(text, dict) else text[:, 0].tolist()

    expected: list[Any] = WEIGHTS if table is SPARSE else VECTORS
    for i in range(-6, 6):
        for number in (i, np.int32(i), np.array(i)):
            assert plain(table[number]) == expected[i]
    for wrong in (6, -7):
        with pytest.raises(IndexError, match=f"row {wrong} of 6"):
            table[wrong]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ([0, 6], "row 6 of 6"),
        (np.array([-7]), "row -7 of 6"),
        (np.array([True] * 5), "a mask of 5 for 6 rows"),
        ([0.0], "by a slice, row numbers or a bool mask"),
        ([[0]], "by a slice, row numbers or a bool mask"),
    ],
)
@pytest.mark.parametrize("table", [ALL, SPARSE, MULTIVEC], ids=repr)
def test_wrong_rows_are_refused(table: Any, index: Any, message: str) -> None:
    with pytest.raises(IndexError, match=message):
        table[index]


def test_weights_are_plain_numbers_the_heaviest_first() -> None:
    found = SparseRows.from_flat([1, 2, 3, 4], [0.5, 2, 0.5, 1], [0, 4], 10)[0]
    assert list(found.items()) == [(2, 2.0), (4, 1.0), (1, 0.5), (3, 0.5)]
    assert {type(x) for pair in found.items() for x in pair} == {int, float}


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(0, 8), st.integers(-1, 4)), max_size=6),
        max_size=5,
    )
)
def test_a_token_weighs_what_its_strongest_repeat_does(
    texts: list[list[tuple[int, int]]],
) -> None:
    expected = []
    for text in texts:
        best: dict[int, float] = {}
        for token, weight in text:
            if weight > 0:
                best[token] = max(best.get(token, 0.0), float(weight))
        expected.append(best)
    flat = [pair for text in texts for pair in text]
    offsets = np.cumsum([0, *(len(text) for text in texts)])
    found = SparseRows.from_flat([t for t, _ in flat], [w for _, w in flat], offsets, 9)
    assert list(found) == expected

    padded = [text + [(99, 0)] * (6 - len(text)) for text in texts]  # no token at all
    array = np.array(padded, int).reshape(len(texts), 6, 2)
    again = SparseRows.from_tokens(array[..., 0], array[..., 1], 9)
    assert list(again) == expected
    assert again.matrix.indices.dtype == np.int32
    assert (again.matrix.dtype, again.matrix.shape) == (np.float32, (len(texts), 9))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([10], [1], [0, 1], 10), "expected token ids below 10, found 10"),
        (([-1], [1], [0, 1], 10), "expected token ids below 10, found -1"),
        (([1], [math.nan], [0, 1], 10), "weights: expected finite numbers, found nan"),
        (([1.5], [1], [0, 1], 10), "ids: expected integers, found float64"),
        (([1], [1, 2], [0, 1], 10), r"of one shape, found \(1,\) and \(2,\)"),
        (([1, 2], [1, 2], [0, 1], 10), "offsets: expected numbers from 0 to 2"),
        (([1, 2], [1, 2], [0, 3, 2], 10), "never fall, found 2 after 3"),
        (([1, 2], [1, 2], [], 10), "offsets: expected integers of shape"),
    ],
)
def test_wrong_weights_are_refused(arguments: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseRows.from_flat(*arguments)


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        (np.zeros(2, int), np.zeros(2), r"expected shape \[n l\], found \(2,\)"),
        (np.zeros((2, 1), int), np.zeros((1, 2)), "ids and weights of one shape"),
    ],
)
def test_wrong_shapes_are_refused(ids: Any, weights: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseRows.from_tokens(ids, weights, 10)


ONE = np.ones(2, np.float32)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (np.eye(2, dtype=np.float32), "a scipy CSR of float32, found ndarray"),
        (scipy.sparse.eye_array(2).tocsr(), "a scipy CSR of float32, .* float64"),
        (scipy.sparse.csc_array(np.eye(2, dtype=np.float32)), "found csc_array"),
        (scipy.sparse.csr_array((ONE, [1, 0], [0, 2])), "rising token ids"),
        (scipy.sparse.csr_array((ONE, [1, 1], [0, 2])), "rising token ids"),
    ],
)
def test_other_matrices_are_refused(matrix: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SparseRows(matrix)


def test_weights_of_zero_are_not_told() -> None:
    weights = np.array([0, 2, -1], np.float32)
    matrix = scipy.sparse.csr_array((weights, [1, 2, 3], [0, 3]), shape=(1, 5))
    assert SparseRows(matrix)[0] == {2: 2.0}


def test_padding_has_no_vectors() -> None:
    vectors = np.arange(12, dtype=np.float64).reshape(3, 2, 2)
    mask = np.array([[False, True], [False, False], [True, True]])
    found = MultivecRows.from_padded(vectors, mask)
    assert columns(found) == [[2], [], [8, 10]]
    assert (found.vectors.dtype, found.offsets.dtype) == (np.float32, np.int64)
    with pytest.raises(InputError, match=r"bool mask \[n l\], found .* int64"):
        MultivecRows.from_padded(vectors, mask.astype(int))
    with pytest.raises(InputError, match=r"vectors \[n l e\] and a bool mask"):
        MultivecRows.from_padded(vectors, mask[:, :1])


@pytest.mark.parametrize(
    ("vectors", "offsets", "message"),
    [
        (np.ones((2, 3)), np.array([0, 2]), r"float32 of shape \[t e\], found float64"),
        (np.ones(2, np.float32), np.array([0, 2]), r"float32 of shape \[t e\]"),
        (ROWS, np.array([0, 6], np.int32), "offsets: expected int64, found int32"),
        (ROWS, np.array([0, 5]), "numbers from 0 to 6, found 0 to 5"),
        (ROWS, np.array([1, 6]), "numbers from 0 to 6, found 1 to 6"),
        (ROWS, np.array([0, 4, 3, 6]), "numbers that never fall, found 3 after 4"),
    ],
)
def test_wrong_vectors_are_refused(vectors: Any, offsets: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        MultivecRows(vectors, offsets)


def test_printed_in_a_line() -> None:
    assert repr(ALL) == (
        "Encoded(6 texts: dense [6 2], sparse [6 10] with 5 weights, "
        "multivec 7 vectors of 2)"
    )
    wide = SparseRows.from_flat([9], [1], [0, 1], 250_002)
    one = Encoded(sparse=wide)
    assert repr(one) == "Encoded(1 text: sparse [1 250,002] with 1 weight)"
    assert repr(Encoded()) == "Encoded(0 texts: no output)"
    assert repr(SPARSE) == "SparseRows([6 10] with 5 weights)"
    assert repr(MULTIVEC[2:3]) == "MultivecRows(1 vector of 2)"


def test_parts_have_one_length() -> None:
    with pytest.raises(InputError, match=r"one number.*dense 6, multivec 5"):
        Encoded(ROWS, multivec=MULTIVEC[1:])


@pytest.mark.parametrize("index", [1, np.int64(1), np.array(1)])
def test_one_row_is_refused(index: Any) -> None:
    with pytest.raises(InputError, match=r"encoded\[3:4\] keeps row 3"):
        Encoded(ROWS)[index]


def test_absent_outputs_stay_absent() -> None:
    nothing = Encoded()
    assert nothing[1:].dense is None
    assert concatenate([nothing, nothing]).dense is None
    assert len(nothing) == 0


def test_concatenate() -> None:
    order = [4, 5, 0, 1, 2, 3]
    joined = concatenate([ALL[4:], ALL[:0], ALL[:1], ALL[1:4]])
    same(joined, ALL[order])
    same(joined[np.argsort(order)], ALL)


@pytest.mark.parametrize(
    ("parts", "found"),
    [
        ([], "no embeddings"),
        ([Encoded(ROWS), Encoded(ROWS[:, :1])], "dense 1 and dense 2"),
        ([Encoded(ROWS), Encoded()], "dense 2 and none"),
        ([Encoded(ROWS), Encoded(ROWS, SPARSE)], "dense 2 and dense 2 with sparse 10"),
        (
            [Encoded(None, SPARSE), Encoded(None, SparseRows(SPARSE.matrix[:, :8]))],
            "sparse 10 and sparse 8",
        ),
        (
            [Encoded(multivec=MULTIVEC), Encoded(multivec=empty(3))],
            "multivec 2 and multivec 3",
        ),
    ],
)
def test_concatenate_refuses(parts: list[Encoded], found: str) -> None:
    with pytest.raises(InputError, match=f"expected embeddings of one width.*{found}"):
        concatenate(parts)


@pytest.mark.parametrize("count", [6, 0])
def test_saved_and_mapped(tmp_path: Path, count: int) -> None:
    ALL[:count].save(tmp_path / "new")
    opened = Encoded.open(tmp_path / "new")
    assert opened.multivec is not None and opened.sparse is not None
    same(opened, ALL[:count])
    same(opened[[0, 3, 1] if count else []], ALL[[0, 3, 1] if count else []])
    matrix = opened.sparse.matrix
    for array in (opened.dense, opened.multivec.vectors, matrix.data, matrix.indices):
        assert array is not None and not array.flags.writeable
        while array is not None and not isinstance(array, np.memmap):
            array = array.base
        assert array is not None
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
    names = {file.name for file in (tmp_path / "new").iterdir()}
    assert names == set(ENCODED_FILES)


@pytest.mark.parametrize("name", ["dense", "sparse", "multivec"])
def test_one_output_alone_is_saved(tmp_path: Path, name: str) -> None:
    Encoded(**{name: getattr(ALL, name)}).save(tmp_path / "new")
    opened = Encoded.open(tmp_path / "new")
    assert len(opened) == 6
    for other in ("dense", "sparse", "multivec"):
        assert (getattr(opened, other) is None) == (other != name)


def test_vectors_are_read_only_when_they_are_used(tmp_path: Path) -> None:
    """A file of 1 TB, all hole: whoever reads it whole does not come back."""
    count = 2**31
    Encoded(multivec=MULTIVEC).save(tmp_path / "new")
    with open(tmp_path / "new" / "multivec.vectors.npy", "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, 128)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + count * 128 * 4)
    offsets = np.array([0, count - 2, count - 2, count])
    np.save(tmp_path / "new" / "multivec.offsets.npy", offsets)
    opened = Encoded.open(tmp_path / "new").multivec
    assert opened is not None
    assert opened[2].shape == (2, 128)
    assert [len(text) for text in opened[:2]] == [count - 2, 0]
    assert opened[[2, 1]].vectors.shape == (2, 128)


def test_saved_over_itself(tmp_path: Path) -> None:
    ALL.save(tmp_path / "new")
    Encoded.open(tmp_path / "new")[1:].save(tmp_path / "new")
    same(Encoded.open(tmp_path / "new"), ALL[1:])
    Encoded(ROWS).save(tmp_path / "new")
    assert Encoded.open(tmp_path / "new").sparse is None


def test_a_save_that_fails_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Encoded(ROWS).save(tmp_path / "new")

    def full(path: Path, array: np.ndarray) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space"):
        Encoded(ROWS[:1]).save(tmp_path / "new")
    assert rows(Encoded.open(tmp_path / "new")) == [0, 2, 4, 6, 8, 10]
    assert [file.name for file in tmp_path.iterdir()] == ["new"]


def test_other_files_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"found 'thesis.tex' in it. Name another"):
        Encoded(ROWS).save(tmp_path)
    with pytest.raises(InputError, match=r"thesis.tex: expected a new folder.* a file"):
        Encoded(ROWS).save(tmp_path / "thesis.tex")
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]


I32, F32 = np.int32, np.float32
DAMAGE: list[tuple[str, Any, str]] = [
    *((name, b"", "expected ") for name in ENCODED_FILES),
    *((name, b"something else", "expected ") for name in ENCODED_FILES),
    *((name, "cut", "expected .*, found mmap length") for name in ENCODED_FILES),
    *(
        (name, "pickle", "expected .*, found .*Python objects")
        for name in ENCODED_FILES
    ),
    *((name, "archive", "expected .*, found ") for name in ENCODED_FILES),
    *((name, None, ", found none") for name in ENCODED_FILES if name != "dense.npy"),
    ("dense.npy", np.zeros(3, F32), r"expected float32 of shape \[n e\].*\(3,\)"),
    ("dense.npy", np.zeros((3, 2)), r"expected float32 of shape \[n e\].*float64"),
    ("sparse.weights.npy", np.zeros(5), r"float32 of shape \(5,\), found float64"),
    ("sparse.weights.npy", np.zeros(4, F32), r"float32 of shape \(5,\), found .*4"),
    ("sparse.tokens.npy", np.zeros(5), r"int32 or int64 of shape \[t\]"),
    ("sparse.tokens.npy", np.array([2, 7, 4, 1, 10], I32), "below 10, found 1 to 10"),
    ("sparse.tokens.npy", np.array([2, 7, 4, 1, -1], I32), "below 10, found -1 to 7"),
    (
        "sparse.tokens.npy",
        np.array([7, 2, 4, 1, 3], I32),
        "tokens.npy: expected rising",
    ),
    (
        "sparse.tokens.npy",
        np.array([2, 2, 4, 1, 3], I32),
        "tokens.npy: expected rising",
    ),
    ("sparse.indptr.npy", np.array([0, 2, 2, 3, 4, 4, 6], I32), "from 0 to 5"),
    ("sparse.indptr.npy", np.array([0, 2, 1, 3, 4, 4, 5], I32), "found 1 after 2"),
    ("sparse.indptr.npy", np.array([0, 2, 5], I32), "expected 7 numbers, found 3"),
    ("sparse.indptr.npy", np.zeros(7), r"integers of shape \[n \+ 1\], found float64"),
    ("sparse.shape.npy", np.array([6.0, 10.0]), "two sizes, int64, found float64"),
    ("sparse.shape.npy", np.array([6]), "two sizes"),
    ("sparse.shape.npy", np.array([6, -1]), "two sizes"),
    ("sparse.shape.npy", np.array([5, 10]), "indptr.npy: expected 6 numbers, found 7"),
    ("multivec.vectors.npy", np.zeros((7, 2)), r"\[t e\], found float64"),
    ("multivec.vectors.npy", np.zeros((6, 2), F32), "offsets.npy: .* 0 to 6, found"),
    ("multivec.offsets.npy", np.array([0, 2, 1, 3, 6, 6, 7]), "found 1 after 2"),
    ("multivec.offsets.npy", np.array([0, 2, 2, 3, 6, 6, 6]), "from 0 to 7, found 0"),
    ("multivec.offsets.npy", np.array([0, 2, 7], I32), "expected int64, found int32"),
    (
        "multivec.offsets.npy",
        np.array([0, 7]),
        r"\d: expected one number.*dense 6, sparse 6, multivec 1",
    ),
    ("dense.npy", ROWS[:4], r"\d: expected one number.*dense 4, sparse 6, multivec 6"),
]


@pytest.mark.parametrize(("name", "content", "message"), DAMAGE)
def test_damaged(tmp_path: Path, name: str, content: Any, message: str) -> None:
    ALL.write(tmp_path)
    path = tmp_path / name
    if isinstance(content, np.ndarray):
        np.save(path, content)
    elif content == "cut":
        path.write_bytes(path.read_bytes()[:-8])
    elif content == "pickle":
        np.save(path, np.array([{}]), allow_pickle=True)
    elif content == "archive":
        with open(path, "wb") as file:
            np.savez(file, ROWS)
    elif content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if not isinstance(content, np.ndarray):
        message = (
            f"{name}: {message}" if content is not None else f"{name}: .*{message}"
        )
    with pytest.raises(InputError, match=message):
        Encoded.open(tmp_path)


def test_nothing_is_saved_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"dense.npy: expected an array .* found none"):
        Encoded.open(tmp_path)
    (tmp_path / "dense.npy").mkdir()
    with pytest.raises(InputError, match=r"dense.npy: expected .* found a folder"):
        Encoded.open(tmp_path)
