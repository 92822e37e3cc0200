"""One memory-mapped Arrow file, in the stream format that `datasets` writes."""

import json
from typing import TYPE_CHECKING

from m3jax.core.errors import InputError

if TYPE_CHECKING:
    import pyarrow as pa


def read(path: str) -> "tuple[pa.Schema, list[pa.RecordBatch]]":
    """Open an Arrow file; its rows stay in the file until they are asked for.

    Args:
        path: of the file.

    Returns:
        Its schema, and its batches of rows.

    Raises:
        InputError: the file is truncated, or something else.

    Example:
        >>> read("no.arrow")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: no.arrow: expected a whole Arrow file, found \
none that can be read ([Errno 2] Failed to open local file 'no.arrow'. Detail: [errno \
2] No such file or directory). Save or download it again.
    """
    import pyarrow as pa

    try:
        with pa.ipc.open_stream(pa.memory_map(path)) as reader:
            return reader.schema, list(reader)
    except (OSError, pa.ArrowException) as error:
        found = f"none that can be read ({first_line(error)})"
        do = "Save or download it again."
        raise InputError("a whole Arrow file", found, where=path, do=do) from None


def classes(schema: "pa.Schema") -> dict[str, list[str]]:
    """Names of the classes of each ClassLabel column, as `datasets` notes them.

    Args:
        schema: of a file.

    Returns:
        Column -> names; without columns of other kinds.

    Example:
        >>> import pyarrow as pa
        >>> classes(pa.schema([("text", pa.string())]))
        {}
    """
    noted = (schema.metadata or {}).get(b"huggingface")
    if noted is None:
        return {}
    try:
        features = dict(json.loads(noted)["info"]["features"])
    except (ValueError, KeyError, TypeError):  # a note of some other program
        return {}
    return {
        name: [str(label) for label in feature["names"]]
        for name, feature in features.items()
        if name in schema.names
        and isinstance(feature, dict)
        and feature.get("_type") == "ClassLabel"
        and isinstance(feature.get("names"), list)
    }


def first_line(error: BaseException) -> str:
    r"""What an error of a library says, in one line.

    Example:
        >>> first_line(ValueError("one\ntwo"))
        'one'
    """
    return (str(error).splitlines() or [type(error).__name__])[0]
