"""What a Qdrant collection is made of: named vectors, ids, payload, and who made it."""

import json
import uuid
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from m3jax.core.errors import InputError
from m3jax.inference.encoded import Encoded
from m3jax.inference.qdrant_calls import call

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

NAME, TEXT, HASH = "_id", "text", "_hash"  # fields of a payload
_RECORD = "m3jax"  # key of the collection's metadata
_SPACE = uuid.uuid5(uuid.NAMESPACE_URL, "m3jax")


def point_id(name: str) -> str:
    """The number that Qdrant knows a passage by: Qdrant takes no strings as ids.

    Args:
        name: id of the passage.

    Returns:
        A UUID, the same each time.

    Example:
        >>> point_id("a") == point_id("a") != point_id("b")
        True
    """
    return str(uuid.uuid5(_SPACE, name))


def payload(name: str, text: str, more: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept beside the vectors of a passage.

    Args:
        name: id of the passage.
        text: the passage.
        more: further fields, to filter by.

    Returns:
        The fields, with a hash that changes when one of them does.

    Raises:
        InputError: a further field has a name that is taken, or is no JSON.

    Example:
        >>> list(payload("a", "a fox", {"year": 1999}))
        ['year', '_id', 'text', '_hash']
    """
    where = f"payload of {name!r}"
    if taken := {NAME, TEXT, HASH} & set(more):
        found = ", ".join(sorted(taken))
        expected = f"names other than {NAME}, {TEXT} and {HASH}"
        raise InputError(expected, found, where=where)
    fields = {**more, NAME: name, TEXT: text}
    try:
        content = json.dumps(fields, sort_keys=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError("fields of JSON", str(error), where=where) from None
    return {**fields, HASH: blake2b(content.encode(), digest_size=8).hexdigest()}


def widths(encoded: Encoded) -> dict[str, int]:
    """How wide each output is; of sparse the size of the vocabulary.

    Example:
        >>> import numpy as np
        >>> widths(Encoded(np.eye(3, dtype=np.float32)))
        {'dense': 3}
    """
    dense, sparse, multivec = encoded.dense, encoded.sparse, encoded.multivec
    found = {
        "dense": None if dense is None else int(dense.shape[1]),
        "sparse": None if sparse is None else int(sparse.vocab_size),
        "multivec": None if multivec is None else int(multivec.vectors.shape[1]),
    }
    return {name: width for name, width in found.items() if width is not None}


def vectors(encoded: Encoded, row: int) -> dict[str, Any]:
    """The outputs of one text, as Qdrant takes them.

    Qdrant refuses a text without token vectors. One vector of zeros stands for it,
    which scores 0 with all others, as in `scores.multivec`.

    Args:
        encoded: embeddings.
        row: which of them.

    Returns:
        Output -> vector.

    Example:
        >>> import numpy as np
        >>> vectors(Encoded(np.eye(2, dtype=np.float32)), 1)
        {'dense': [0.0, 1.0]}
    """
    from qdrant_client import models

    found: dict[str, Any] = {}
    if encoded.dense is not None:
        found["dense"] = encoded.dense[row].tolist()
    if encoded.sparse is not None:
        matrix = encoded.sparse.matrix
        part = slice(*matrix.indptr[row : row + 2])
        found["sparse"] = models.SparseVector(
            indices=matrix.indices[part].tolist(), values=matrix.data[part].tolist()
        )
    if encoded.multivec is not None:
        tokens = encoded.multivec[row].tolist()
        found["multivec"] = tokens or [[0.0] * encoded.multivec.vectors.shape[1]]
    return found


def read_record(client: "QdrantClient", collection: str) -> dict[str, Any] | None:
    """What a collection was made of.

    Args:
        client: of `qdrant.connect`.
        collection: its name.

    Returns:
        about and widths, as `create` has written them; None where there is none.

    Raises:
        InputError: somebody else made the collection, or there is no answer.
    """
    where = f"collection {collection!r}"
    if not call(lambda: client.collection_exists(collection), where=where):
        return None
    found = call(lambda: client.get_collection(collection), where=where)
    record = (found.config.metadata or {}).get(_RECORD)
    if not isinstance(record, dict):
        raise InputError(
            "a collection that says which model it was made by",
            "one that does not",
            where=where,
            do="Name another one; the server must be Qdrant 1.16 or newer.",
        )
    return record


def create(
    client: "QdrantClient",
    collection: str,
    about: Mapping[str, str | int],
    width: Mapping[str, int],
    options: Mapping[str, Any],
) -> None:
    """Make a collection with a vector for each output, and note what it is made of.

    Args:
        client: of `qdrant.connect`.
        collection: its name.
        about: what the embeddings depend on.
        width: of each output.
        options: further arguments of `QdrantClient.create_collection`.

    Raises:
        InputError: the server refuses, or there is no answer.
    """
    from qdrant_client import models

    # The embeddings have length 1: their inner product is the cosine, bit by bit ours.
    dot = models.Distance.DOT
    named = {}
    if "dense" in width:
        named["dense"] = models.VectorParams(size=width["dense"], distance=dot)
    if "multivec" in width:
        named["multivec"] = models.VectorParams(
            size=width["multivec"],
            distance=dot,
            multivector_config=models.MultiVectorConfig(
                comparator=models.MultiVectorComparator.MAX_SIM
            ),
            # No graph: a graph over all tokens costs more than all else, and what
            # other vectors have found is scored without it.
            hnsw_config=models.HnswConfigDiff(m=0),
        )
    sparse = {"sparse": models.SparseVectorParams()} if "sparse" in width else None
    record = {"about": dict(about), "widths": dict(width)}

    def send() -> None:
        # An earlier try may have made it, and lost only the answer.
        if not client.collection_exists(collection):
            client.create_collection(
                collection,
                vectors_config=named,
                sparse_vectors_config=sparse,
                metadata={_RECORD: record},
                **options,
            )

    call(send, where=f"collection {collection!r}")


def require_about(
    record: Mapping[str, Any], about: Mapping[str, str | int], collection: str
) -> None:
    """Refuse embeddings of another model than a collection was made by.

    Args:
        record: of `read_record`.
        about: what the embeddings depend on.
        collection: its name.

    Raises:
        InputError: they differ; both are named.

    Example:
        >>> require_about({"about": {"model": "a"}}, {"model": "b"}, "texts")
        Traceback (most recent call last):
        m3jax.core.errors.InputError: collection 'texts': expected embeddings of model \
a, as it was made of, found those of model b. Name another collection.
    """
    made = record["about"]
    differ = [key for key in {**made, **about} if made.get(key) != about.get(key)]
    if differ:
        raise InputError(
            f"embeddings of {_said(made, differ)}, as it was made of",
            f"those of {_said(about, differ)}",
            where=f"collection {collection!r}",
            do="Name another collection.",
        )


def require_widths(
    record: Mapping[str, Any], width: Mapping[str, int], collection: str
) -> None:
    """Refuse embeddings with other outputs or widths than a collection has.

    Args:
        record: of `read_record`.
        width: of each output.
        collection: its name.

    Raises:
        InputError: they differ; both are named.
    """
    made = record["widths"]
    if made != dict(width):
        raise InputError(
            f"{_said(made, made)}, as it was made of",
            _said(width, width) or "no output",
            where=f"collection {collection!r}",
            do="Name another collection.",
        )


def _said(values: Mapping[str, Any], keys: Any) -> str:
    return ", ".join(f"{key} {values.get(key, 'unknown')}" for key in keys)
