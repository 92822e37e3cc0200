"""Texts with labels, read to be classified or clustered."""

from dataclasses import dataclass
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data import layout_columns
from m3jax.data.corpora import json_lines
from m3jax.data.fields import json_object
from m3jax.data.lines import lines, name_of, near_name

COLUMNS = "text", "label"


@dataclass(frozen=True)
class Labels:
    """Texts and the class of each.

    Attributes:
        texts: the texts.
        labels: of the same texts.
    """

    texts: tuple[str, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Classification:
    """Texts to learn classes from, and texts to be measured on.

    Attributes:
        train: to learn from.
        test: to be measured on; may hold labels that train does not.
    """

    train: Labels
    test: Labels


def read_labelled(path: str | Path, *, columns: tuple[str, str] = COLUMNS) -> Labels:
    r"""Read texts with labels from a file of JSON lines, plain or as .gz or .zst.

    Args:
        path: the file.
        columns: of the text and of the label, a name or a whole number, which becomes
            its digits. Other columns are not read.

    Returns:
        The texts, in the order of the rows.

    Raises:
        InputError: the file cannot be read, is empty, or has a bad row.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "train.jsonl")
        >>> rows = ['{"text": "salt", "label": "food"}', '{"text": "fox", "label": 7}']
        >>> _ = file.write_text("\n".join(rows))
        >>> read_labelled(file)
        Labels(texts=('salt', 'fox'), labels=('food', '7'))
    """
    rows = []
    for where, line in lines(path):
        row = json_object(line, where=where)
        try:
            rows.append(layout_columns.labelled(columns, row))
        except InputError as error:
            raise error.at(where) from None
    if not rows:
        expected = "a text and its label a line"
        raise InputError(expected, "an empty file", where=name_of(path))
    return Labels(tuple(row.text for row in rows), tuple(row.label for row in rows))


def read_classification(
    folder: str | Path, split: str = "test", *, columns: tuple[str, str] = COLUMNS
) -> Classification:
    r"""Read a folder with `train.jsonl` and `test.jsonl`, each plain or packed.

    Args:
        folder: the folder.
        split: which file is measured on.
        columns: of the text and of the label; see `read_labelled`.

    Returns:
        Both parts.

    Raises:
        InputError: as `classification_files`, or a file is empty or has a bad row.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for part in ("train", "test"):
        ...     row = '{"text": "%s", "label": "food"}' % part
        ...     _ = (folder / f"{part}.jsonl").write_text(row)
        >>> read_classification(folder).test.texts
        ('test',)
    """
    # Both are looked for before the first is read: a missing one is told at once.
    files = classification_files(folder, split)
    train, test = (read_labelled(file, columns=columns) for file in files)
    return Classification(train, test)


def classification_files(folder: str | Path, split: str = "test") -> tuple[Path, Path]:
    """Find the rows to learn from, and those that are measured on.

    Args:
        folder: the folder.
        split: which file is measured on.

    Returns:
        Both files.

    Raises:
        InputError: there is no such folder, a file is missing, or both are one.

    Example:
        >>> classification_files("no_such_folder", "dev")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no_such_folder: expected a folder with \
train.jsonl and dev.jsonl, found nothing of that name
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "a file" if folder.exists() else "nothing of that name"
        expected = f"a folder with train.jsonl and {split}.jsonl"
        raise InputError(expected, found, where=str(folder), do=near_name(folder))
    if split == "train":
        expected = "another split than train, from which the labels are learnt"
        raise InputError(expected, split, where=str(folder))
    return json_lines(folder, "train"), json_lines(folder, split)
