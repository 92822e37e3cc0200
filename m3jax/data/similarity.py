"""Graded pairs of texts, read to be measured on."""

from m3jax.core.errors import InputError
from m3jax.data import cache
from m3jax.data.config import Dataset
from m3jax.data.records import Scored, Similarity
from m3jax.data.scan import scan
from m3jax.data.sources.array_records import Prepared
from m3jax.data.sources.base import records
from m3jax.data.sources.open import open_source

GRADED = "graded pairs (e.g. lines with sentence1, sentence2 and score)"
_OTHERS = {
    "pairs": "pairs without a score",
    "text": "texts alone",
    "labelled": "texts with labels",
}


def read_similarity(dataset: Dataset, *, cache_folder: str | None = None) -> Similarity:
    r"""Read graded pairs from any source of training rows.

    Args:
        dataset: a file, glob, folder or hub id, plain or packed; see `config.Dataset`.
        cache_folder: for indexes and unpacked files; see `sources.open.open_source`.

    Returns:
        The pairs, in the order of the rows; with on_bad_row "skip" the good ones.

    Raises:
        InputError: there is nothing of that name, a row is bad, rows are of another
            kind or made into token ids, or all have one score.

    Example:
        >>> import tempfile
        >>> path = f"{tempfile.mkdtemp()}/sts.jsonl"
        >>> row = '{"sentence1": "sea", "sentence2": "tide", "score": %d}\n'
        >>> with open(path, "w") as file:
        ...     file.writelines([row % 4, row % 0])
        >>> read_similarity(Dataset(path), cache_folder="beside").scores
        (4.0, 0.0)
    """
    source = open_source(dataset, cache_folder=cache_folder)
    if isinstance(source, Prepared):
        raise InputError(GRADED, "token ids", where=source.name)
    root = cache.root(cache_folder, dataset.path)
    found = scan(source, root=root, on_bad_row=dataset.on_bad_row)
    if found.kind != "scored":
        raise InputError(
            GRADED,
            _OTHERS[found.kind],
            where=source.name,
            do="Queries and passages are measured on as a folder in BEIR's layout.",
        )
    # A bad row, which the scan has let pass, is an error here and left out.
    every = records(source, 0, len(source))
    rows = [row for row in every if isinstance(row, Scored)]
    scores = tuple(row.score for row in rows)
    if len(set(scores)) < 2:
        raise InputError(
            "two scores that differ, because what is measured is their order",
            f"{scores[0]} alone",
            where=source.name,
        )
    return Similarity(
        tuple(row.first for row in rows), tuple(row.second for row in rows), scores
    )
