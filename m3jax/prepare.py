"""`python -m m3jax.prepare --input DATA --tokenizer M --output DIR`: tokens, once.

The folder is read like any other data set: `data.train` of a config, or --data.train.
"""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from m3jax.core import cli, config
from m3jax.core.errors import InputError

if TYPE_CHECKING:
    from m3jax.data.tokenize import Tokenizer

PROG = "python -m m3jax.prepare"
DESCRIPTION = (
    "Turn a data set into shards of token ids, which every host of a pod reads at any "
    "row. The same command run again goes on where it stopped. Example: "
    "python -m m3jax.prepare --input train.jsonl.gz --tokenizer BAAI/bge-m3 "
    "--output prepared"
)


@dataclass(frozen=True)
class Prepare:
    """What to read, how to cut it into tokens, and where to."""

    input: str
    """A file (.jsonl, .txt, .parquet, .arrayrecord, also .gz and .zst), a glob, a
    folder saved by datasets or in BEIR's layout, a hub id, hf:ID, tfds:NAME, a URL such
    as gs://..., or "builtin"."""
    tokenizer: str
    """A folder with tokenizer.json, or the model that will be trained: a folder, a
    finished run or a hub id."""
    output: str
    """The folder to write. After a stop, the same command continues it."""
    layout: str = "auto"
    """What the columns mean: auto looks at the first row."""
    columns: tuple[str, ...] = ()
    """Columns to read in the order query, positive, negatives; for other names than
    the known ones."""
    split: str = "train"
    """Part of a hub or TFDS data set, or file of judgements of a BEIR folder."""
    subset: str | None = None
    """Configuration of a hub data set."""
    query_length: int = 512
    """Tokens kept of a query."""
    passage_length: int = 512
    """Tokens kept of a passage."""
    query_prompt: str = ""
    """Text before every query; a row's own prompt takes its place."""
    passage_prompt: str = ""
    """Text before every passage."""
    shards: int | None = None
    """Files to write [default: one for every 100,000 rows]."""
    processes: int | None = None
    """Processes that work; 0 for none but this one [default: one a core]."""
    on_bad_row: Literal["stop", "skip"] = "stop"
    """A row that cannot be read ends the program, or is counted and left out."""
    cache: str | None = None
    """Folder for indexes and unpacked files [default: ~/.cache/m3jax/data]; "beside"
    puts them beside each file."""
    revision: str | None = None
    """Branch, tag or commit of a hub id of a tokenizer."""
    fresh: bool = False
    """Remove what an earlier command wrote into the folder, and start anew."""


def main() -> None:
    """Run the program."""
    flags = config.parse_flags(
        Prepare, sys.argv[1:], prog=PROG, description=DESCRIPTION
    )
    # No device is used, so none is taken from who else is on this machine.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

    from m3jax.data import cache, prepare
    from m3jax.data.config import Dataset
    from m3jax.data.sources.open import open_source

    tokenizer = _tokenizer(flags)  # first: opening the data may take minutes
    dataset = Dataset(
        flags.input,
        layout=flags.layout,
        columns=flags.columns,
        split=flags.split,
        subset=flags.subset,
        on_bad_row=flags.on_bad_row,
    )
    source = open_source(dataset, cache_folder=flags.cache)
    texts = prepare.Texts(
        flags.query_prompt,
        flags.passage_prompt,
        flags.query_length,
        flags.passage_length,
    )
    try:
        found = prepare.prepare(
            source,
            tokenizer,
            flags.output,
            root=cache.root(flags.cache, flags.input),
            texts=texts,
            shards=flags.shards,
            processes=flags.processes,
            on_bad_row=flags.on_bad_row,
            fresh=flags.fresh,
            say=_say,
        )
    except InputError as error:
        raise _of_flag(error) from None
    bad = f", {found.bad_rows:,} bad rows left out" if found.bad_rows else ""
    cut = f"{found.cut_queries:,} queries and {found.cut_passages:,} passages"
    print(f"{flags.output}: {len(found):,} rows ({found.kind}){bad}; {cut} were cut")


def _tokenizer(flags: Prepare) -> "Tokenizer":
    from m3jax.data import tokenize

    path = Path(flags.tokenizer)
    if path.is_dir() and (path / "tokenizer.json").is_file():
        if not (path / "config.json").is_file():
            return tokenize.load(path)
    from m3jax.hub import folder

    # Some models change their tokenizer: an end token, lower case.
    model, _ = folder.open_model(
        flags.tokenizer, revision=flags.revision, default_pooling="mean"
    )
    return model.tokenizer


def _of_flag(error: InputError) -> InputError:
    """An argument goes by the name of its flag."""
    if error.where not in Prepare.__dataclass_fields__:
        return error
    where = f"--{error.where.replace('_', '-')}"
    return InputError(error.expected, error.found, where=where, do=error.do)


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(main)
