"""A source by its name: a file, files, a folder, a hub id, or the built-in set."""

import re
from pathlib import Path

from m3jax.core.errors import InputError
from m3jax.data import builtin, cache, layouts
from m3jax.data.config import Dataset
from m3jax.data.lines import near_name
from m3jax.data.sources import array_records, arrow, beir, lines, nli, tfds
from m3jax.data.sources.base import Read, Rows, Source
from m3jax.data.sources.joined import Joined
from m3jax.data.sources.listed import listed

_LINES: dict[str, lines.Kind] = {"json": "json", "text": "text"}
KINDS = {
    ".jsonl": "json",
    ".json": "json",
    ".ndjson": "json",
    ".txt": "text",
    ".parquet": "parquet",
    ".arrayrecord": "array_record",
    ".array_record": "array_record",
}
_PACKED = (".gz", ".zst")
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def open_source(dataset: Dataset, *, cache_folder: str | None = None) -> Source:
    """Open a data set, wherever it lies, as records by number.

    Args:
        dataset: its path says what it is; see `config.Dataset`.
        cache_folder: for indexes and unpacked files; None = the user's cache, "beside"
            = beside each file.

    Returns:
        The source; its rows are not checked yet.

    Raises:
        InputError: there is nothing of that name, it cannot be read, or no layout fits
            its columns.

    Example:
        >>> source = open_source(Dataset("builtin"))
        >>> len(source) > 1_000
        True
    """
    path = dataset.path
    if path == "builtin":
        return listed("builtin", builtin.pairs("train"))
    root = cache.root(cache_folder, path)
    if path.startswith("hf:"):
        return _read(_hub(path.removeprefix("hf:"), dataset, root), dataset, root)
    if path.startswith("tfds:"):
        rows = tfds.open_tfds(path.removeprefix("tfds:"), split=dataset.split)
        return _read(rows, dataset, root)
    if "://" not in path and Path(path).is_dir():
        return _folder(Path(path), dataset, root)
    if "://" not in path and not Path(path).exists() and _HUB_ID.fullmatch(path):
        if Path(path).suffix not in (*KINDS, *_PACKED):
            return _read(_hub(path, dataset, root), dataset, root)
    names = cache.expand(path)
    kinds = {name: _kind(name) for name in names}
    if len(set(kinds.values())) > 1:
        found = ", ".join(sorted(set(kinds.values())))
        raise InputError("files of one kind", found, where=path)
    files = [cache.local(name, root) for name in names]
    kind = kinds[names[0]]
    if kind == "parquet":
        return _read(arrow.open_parquet(files, root), dataset, root)
    if kind == "array_record":
        return _read(array_records.open_array_record(files), dataset, root)
    opened = [
        _read(_lines(file, root, _LINES[kind], name), dataset, root)
        for name, file in zip(names, files, strict=True)
    ]
    return opened[0] if len(opened) == 1 else Joined(tuple(opened))


def _hub(name: str, dataset: Dataset, root: Path) -> Rows:
    return arrow.open_hub(name, subset=dataset.subset, split=dataset.split, root=root)


def _lines(file: Path, root: Path, kind: lines.Kind, name: str) -> Rows:
    found = lines.open_lines(file, root=root, kind=kind, name=name)
    if kind == "json":
        first = next(found.lines(0, 1)).strip()
        # A list that ends on its line is a bad row; one over the whole file is none.
        goes_on = first == b"[" or first.endswith((b",", b"{"))
        if first.startswith(b"[") and (len(found) == 1 or goes_on):
            raise InputError(
                "an object a line",
                "one array of them",
                where=name,
                do="Write each object on a line of its own; jq -c '.[]' does it.",
            )
    return found


def _folder(folder: Path, dataset: Dataset, root: Path) -> Source:
    if (folder / "prepared.json").exists():
        return array_records.open_prepared(folder)
    if any((folder / name).exists() for name in ("state.json", "dataset_dict.json")):
        return _read(arrow.open_saved(folder, dataset.split), dataset, root)
    if any(folder.glob("corpus.jsonl*")):
        return beir.open_beir(folder, dataset.split, root)
    raise InputError(
        "a folder that was prepared (prepared.json), saved by datasets (state.json or "
        "dataset_dict.json) or has BEIR's layout (corpus.jsonl)",
        "none of these files",
        where=str(folder),
        do=f"A glob names the files in it, e.g. {folder}/*.jsonl.",
    )


def _kind(name: str) -> str:
    path = Path(name)
    if path.suffix in _PACKED:
        path = path.with_suffix("")
    if path.suffix not in KINDS:
        known = ", ".join(KINDS)
        missing = "://" not in name and not Path(name).exists()
        near = near_name(Path(name)) if missing else ""
        found = path.suffix or "no ending"
        raise InputError(f"a file ending in {known}", found, where=name, do=near)
    return KINDS[path.suffix]


def _read(rows: Rows, dataset: Dataset, root: Path) -> Source:
    """Rows in the layout that is named, or that the first row has."""
    if not len(rows):
        raise InputError("a row a line", "an empty file", where=rows.name)
    layout = _layout(rows, dataset)
    if layout.grouped:
        bad = dataset.on_bad_row
        return nli.open_nli(rows, root, layout.grouped, on_bad_row=bad)
    return Read(rows, layout)


def _layout(rows: Rows, dataset: Dataset) -> layouts.Layout:
    last = min(len(rows), 1 if dataset.on_bad_row == "stop" else 100) - 1
    first: InputError | None = None
    for number in range(last + 1):
        try:
            row = rows.row(number)
            return layouts.find(dataset.layout, dataset.columns, row)
        except InputError as error:
            named = error.where.startswith(rows.name)
            first = first or (error if named else error.at(rows.where(number)))
    assert first is not None
    if not last:
        raise first
    found = f"none ({first})"
    expected = f"a row among the first {last + 1} that tells the layout"
    raise InputError(expected, found, where=rows.name)
