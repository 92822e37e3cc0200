"""What the numbers of a test set depend on beside the model: the bytes of its files."""

import hashlib
import os
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path

from m3jax.data.bitext import bitext_files
from m3jax.data.labelled import classification_files
from m3jax.data.retrieval import beir_files
from m3jax.evaluation.test_sets import BENCHMARK, SPLIT, TestSet, rows_file


def contents(
    one: TestSet, split: str | None = None, *, cross_lingual: bool = False
) -> dict[str, str]:
    """Tell what each part of a set is made of, so that another content is noticed.

    A part is what is measured, and kept, at once: a language or subset; a pair of
    languages; of graded pairs the whole set, whose last number is of all subsets.

    Args:
        one: the set.
        split: which judgements and rows; None = test.
        cross_lingual: whether a retrieval set is searched across its languages.

    Returns:
        Label of the part, as that of its outcome -> hex digits, by the bytes of its
        files. A benchmark is known by its name and split, all its sets together.

    Raises:
        InputError: a file is missing.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "deu.jsonl")
        >>> _ = file.write_text('{"text": "Salz", "english": "salt"}')
        >>> list(contents(TestSet("deu", "bitext", {"": file})))
        ['deu, deu']
    """
    if one.kind == BENCHMARK:
        return {one.name: f"{one.name}, {split or 'the split that is reported'}"}
    split = split or SPLIT
    if one.kind == "sts":
        files = {part: rows_file(path, split) for part, path in one.parts.items()}
        return {one.name: _digest(files)}
    if one.kind == "bitext":
        return {
            label(one.name, part, language): _digest({"": file})
            for part, path in one.parts.items()
            for language, file in bitext_files(path).items()
        }
    if one.kind == "labelled":
        return {
            label(one.name, part): _digest(_learnt_and_measured(path, split))
            for part, path in one.parts.items()
        }
    found = {
        part: _digest(vars(beir_files(path, split))) for part, path in one.parts.items()
    }
    if cross_lingual and len(found) > 1:
        return {
            label(one.name, f"{first} → {second}"): f"{found[first]} {found[second]}"
            for first in found
            for second in found
        }
    return {label(one.name, part): digest for part, digest in found.items()}


def label(*parts: str) -> str:
    """Name a part of a set.

    Args:
        parts: the set, a subset, a language; "" where there is none.

    Returns:
        The names with commas between, as in `Outcome.label`.

    Example:
        >>> label("tatoeba", "", "deu")
        'tatoeba, deu'
    """
    return ", ".join(part for part in parts if part)


def _learnt_and_measured(path: Path, split: str) -> dict[str, Path]:
    train, test = classification_files(path, split)
    return {"train": train, "test": test}


def _digest(files: Mapping[str, Path]) -> str:
    """Of files by what they are for; where they lie does not matter."""
    found = blake2b(digest_size=8)
    for name, path in files.items():
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "blake2b").digest()
        found.update(os.fsencode(f"{len(name)} {name}\n") + content)
    return found.hexdigest()
