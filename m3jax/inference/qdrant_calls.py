"""Requests to a Qdrant server, sent again while it is down or busy."""

import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from m3jax.core.errors import InputError

WAITS = (0.5, 1.0, 2.0, 4.0, 8.0)  # seconds between one try and the next
_LONGEST = 60.0  # that a server may ask to be waited for
REQUEST_BYTES = 16_000_000  # a server takes 32 MB, unless it is told otherwise
_TOO_LARGE = 413

T = TypeVar("T")
Model = TypeVar("Model", bound=Any)


def call(send: Callable[[], T], *, where: str, do: str = "") -> T:
    """Send a request; where the server is down, slow or busy, wait and send it again.

    Waited for are connections that fail or time out, and the answers 408, 429 and from
    500 up. Each wait is twice the last one, or as long as the server asks for.

    Args:
        send: sends the request; may be called several times.
        where: what a message says was asked.
        do: what a message says to do when the server stays away.

    Returns:
        What `send` returns.

    Raises:
        InputError: there is still no answer after six tries, the server refuses, or it
            is no Qdrant.

    Example:
        >>> call(lambda: 1, where="collection 'passages'")
        1
    """
    from qdrant_client.common.client_exceptions import QdrantException
    from qdrant_client.http.exceptions import ApiException

    for wait in (*WAITS, None):
        try:
            return send()
        except json.JSONDecodeError as error:
            raise InputError(
                "an answer of Qdrant", _found(error), where=where
            ) from None
        except (ApiException, QdrantException) as error:
            told, found = _wait(error), _found(error)
            if told is None:
                raise _refused(found, error, where) from None
            if wait is not None:
                pause = max(wait, min(told, _LONGEST))
                told = f"{where}: {found}; trying again in {pause:g} s"
                print(told, file=sys.stderr, flush=True)
                time.sleep(pause)
                continue
            found = f"{found}, {len(WAITS) + 1} times"
            do = " ".join(filter(None, ("Is the server running?", do)))
            raise InputError(
                "a Qdrant server that answers", found, where=where, do=do
            ) from None
    raise AssertionError("the last try returns or raises")


def groups(
    items: Sequence[Model], most: int = REQUEST_BYTES
) -> Iterator[Sequence[Model]]:
    """Divide the content of requests, so that none is too large for a server.

    Args:
        items: points or queries of qdrant-client.
        most: bytes of JSON in a group; one item that is larger goes alone.

    Yields:
        Neighbouring items.

    Example:
        >>> from qdrant_client.models import SparseVector
        >>> items = [SparseVector(indices=[1], values=[0.5])] * 3  # 30 bytes each
        >>> [len(group) for group in groups(items, 70)]
        [2, 1]
    """
    first, size = 0, 0
    for i, item in enumerate(items):
        more = len(item.model_dump_json(exclude_none=True)) + 1
        if i > first and size + more > most:
            yield items[first:i]
            first, size = i, 0
        size += more
    if items:
        yield items[first:]


def _wait(error: Exception) -> float | None:
    """Seconds that the server asks to be waited for; None where waiting is no use."""
    import httpx
    from qdrant_client.common.client_exceptions import (
        QdrantException,
        ResourceExhaustedResponse,
    )
    from qdrant_client.http.exceptions import (
        ResponseHandlingException,
        UnexpectedResponse,
    )

    if isinstance(error, ResourceExhaustedResponse):
        return float(error.retry_after_s)
    if isinstance(error, QdrantException):  # busy, and until when cannot be read
        return 0.0
    if isinstance(error, ResponseHandlingException):
        return 0.0 if isinstance(error.source, httpx.TransportError) else None
    status = error.status_code or 0 if isinstance(error, UnexpectedResponse) else 0
    return 0.0 if status in (408, 429) or status >= 500 else None


def _found(error: Exception) -> str:
    """What went wrong, in one line."""
    from qdrant_client.http.exceptions import (
        ResponseHandlingException,
        UnexpectedResponse,
    )

    if isinstance(error, UnexpectedResponse):
        said = f"{error.status_code} {error.reason_phrase}"
        try:
            detail = json.loads(error.content)["status"]["error"]
        except (ValueError, LookupError, TypeError):
            detail = error.content.decode(errors="replace")
    else:
        cause = error.source if isinstance(error, ResponseHandlingException) else error
        said, detail = type(cause).__name__ + _address(cause), str(cause)
    return ": ".join(filter(None, (said.strip(), " ".join(str(detail).split())[:200])))


def _address(error: Exception) -> str:
    """Where a request went that found nobody."""
    import httpx

    if not isinstance(error, httpx.RequestError):
        return ""
    url = error.request.url
    return f" at {url.scheme}://{url.netloc.decode()}"


def _refused(found: str, error: Exception, where: str) -> InputError:
    large = getattr(error, "status_code", None) == _TOO_LARGE
    do = "Keep fewer tokens of a text, or raise the server's max_request_size_mb."
    expected = "a request that Qdrant takes"
    return InputError(expected, found, where=where, do=do if large else "")
