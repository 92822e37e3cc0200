"""Parquet files, converted to Arrow files that can be read at any row."""

import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from m3jax.core.errors import InputError
from m3jax.core.progress import bar
from m3jax.data import cache
from m3jax.data.sources import arrow_file
from m3jax.data.sources.stamps import Stamp

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_BATCH = 10_000  # rows


def convert(source: Stamp, root: Path) -> Path:
    """Convert a Parquet file to an Arrow file in the cache, unless that was done.

    A file that has changed is converted again, and what was made of it is removed.

    Args:
        source: the Parquet file.
        root: folder of the cache.

    Returns:
        The Arrow file.

    Raises:
        InputError: the file is truncated or something else, or there is no room.
        OSError: the cache cannot be written to.
    """
    path = Path(source.path).resolve()
    target = cache.entry(root / "parquet", path, source.size, source.mtime_ns)
    with cache.claimed(target):
        if not _is_whole(target):
            _convert(source.path, target)
        cache.drop_older(target)
    return target


def _is_whole(target: Path) -> bool:
    if not target.exists():
        return False
    try:
        arrow_file.read(str(target))
    except InputError:
        print(f"{target} is damaged: converted again", file=sys.stderr)
        return False
    return True


def _convert(source: str, target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(source, page_checksum_verification=True) as file:
            _require_room(file, target.parent)
            _write(file, source, target)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            text = os.strerror(error.errno)
            raise OSError(error.errno, text, error.filename or str(target)) from None
        raise InputError(
            "a Parquet file",
            f"one that is damaged, or something else ({arrow_file.first_line(error)})",
            where=source,
            do="Copy or download it again.",
        ) from None


def _require_room(file: "pq.ParquetFile", folder: Path) -> None:
    groups = (file.metadata.row_group(i) for i in range(file.num_row_groups))
    need = sum(group.total_byte_size for group in groups)
    free = shutil.disk_usage(folder).free
    if need > free:
        raise InputError(
            f"{need / 1e9:.1f} GB of free space",
            f"{free / 1e9:.1f} GB",
            where=str(folder),
            do="Make room, or set data.cache to a folder on another disk.",
        )


def _write(file: "pq.ParquetFile", source: str, target: Path) -> None:
    import pyarrow as pa

    # One name for all: who writes has claimed the target, and a killed one leaves it.
    temporary = target.with_name(f".{target.name}.tmp")
    rows = file.metadata.num_rows
    try:
        with (
            bar(f"read {Path(source).name}", rows, "rows") as advance,
            pa.OSFile(str(temporary), "wb") as out,
            pa.ipc.new_stream(out, file.schema_arrow) as writer,
        ):
            for batch in file.iter_batches(_BATCH):
                writer.write_batch(batch)
                advance(batch.num_rows)
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
