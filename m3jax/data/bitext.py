"""Texts and their translations, read to be found by each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data.corpora import JSON_LINES, json_lines
from m3jax.data.fields import json_object, text
from m3jax.data.lines import lines, name_of


@dataclass(frozen=True)
class Bitext:
    """Texts in one language, and each in another.

    Attributes:
        first: texts in one language.
        second: the same texts in the other.
        columns: where the two stood.
    """

    first: tuple[str, ...]
    second: tuple[str, ...]
    columns: tuple[str, str]


def read_bitext(
    path: str | Path, *, columns: tuple[str, str] | None = None
) -> dict[str, Bitext]:
    r"""Read one bitext, or a folder of them.

    Args:
        path: a file of JSON lines, plain or as .gz or .zst, or a folder of such files,
            e.g. one a language.
        columns: of the two texts; others are not read. None takes the two columns of
            the first row of each file, in their order, and allows no others.

    Returns:
        Name of the file without its ending -> bitext, in the order of the alphabet.

    Raises:
        InputError: a file cannot be read, is empty or has a bad row, the folder has no
            such file, or there are more or fewer than two columns.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> row = '{"text": "Salz", "english": "salt"}\n'
        >>> _ = (folder / "deu.jsonl").write_text(row)
        >>> read_bitext(folder)["deu"]
        Bitext(first=('Salz',), second=('salt',), columns=('text', 'english'))
    """
    if columns is not None and (len(columns) != 2 or columns[0] == columns[1]):
        found = ", ".join(columns) or "none"
        raise InputError("two columns that differ", found, where="columns")
    return {name: _read(file, columns) for name, file in bitext_files(path).items()}


def bitext_files(path: str | Path) -> dict[str, Path]:
    """Find the files of a bitext or of a folder of them.

    Args:
        path: as in `read_bitext`.

    Returns:
        Name of the file without its ending -> file, in the order of the alphabet.

    Raises:
        InputError: the folder has no such file.

    Example:
        >>> list(bitext_files("tatoeba/deu.jsonl.gz"))
        ['deu']
    """
    path = Path(path)
    if not path.is_dir():
        return {_stem(path): path}
    names = {_stem(file) for file in path.iterdir() if file.name.endswith(JSON_LINES)}
    if not names:
        found = f"no file that ends in {' or '.join(JSON_LINES)}"
        raise InputError("a folder of bitexts", found, where=str(path))
    return {name: json_lines(path, name) for name in sorted(names)}


def _stem(path: Path) -> str:
    for ending in JSON_LINES:
        if path.name.endswith(ending):
            return path.name.removesuffix(ending)
    return path.stem


def _read(path: Path, columns: tuple[str, str] | None) -> Bitext:
    named, pairs = columns, []
    for where, line in lines(path):
        row = json_object(line, where=where)
        if columns is None:
            named = _columns(row, named, where=where)
        assert named is not None  # by now the first row has told
        try:
            pairs.append(tuple(text(row, column) for column in named))
        except InputError as error:
            raise error.at(where) from None
    if named is None or not pairs:
        expected = "a text and its translation a line"
        raise InputError(expected, "an empty file", where=name_of(path))
    first, second = zip(*pairs, strict=True)
    return Bitext(first, second, named)


def _columns(
    row: Mapping[str, object], before: tuple[str, str] | None, *, where: str
) -> tuple[str, str]:
    """The columns of the first row, which every other row has to have, too."""
    names = tuple(row)
    if before is None and len(names) == 2:
        return names
    if before is not None and set(names) == set(before):
        return before
    expected = "two columns, a text and its translation"
    if before is not None:
        expected = f"the columns {before[0]} and {before[1]} alone, as before"
    raise InputError(
        expected,
        ", ".join(names) or "an empty object",
        where=where,
        do="Name the two columns to read.",
    )
