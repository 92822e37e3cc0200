"""What Google Cloud says before it takes a machine away, told as SIGTERM."""

import http.client
import os
import signal
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Where Google's own libraries look for another address of the metadata server.
_VARIABLE = "GCE_METADATA_HOST"
_HOST = "metadata.google.internal"
# The server answers when the value changes, or after so many seconds.
_HELD = 300
_PATH = "computeMetadata/v1/instance/preempted"
# Seconds after an error, and after an answer: not every server holds them back.
_AGAIN, _PAUSE = 10.0, 1.0
_PRODUCT = Path("/sys/class/dmi/id/product_name")


@contextmanager
def listen() -> Iterator[None]:
    """Turn the cloud's notice into SIGTERM to this process, once.

    The operating system says SIGTERM too when it goes down, but not to what a container
    hides from it, and later. Nothing happens on machines that are not Google's; where
    their metadata server does not answer, it is asked again.

    Source: "Spot VMs" and "Preemptible VM instances" in the manual of Compute Engine
    (`instance/preempted` of the metadata server).

    Example:
        >>> with listen():
        ...     print("trains")
        trains
    """
    host = _host()
    if host is None:
        yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_wait, args=(host, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _host() -> str | None:
    """The metadata server, if this machine has one."""
    if named := os.environ.get(_VARIABLE):
        return named
    try:
        product = _PRODUCT.read_text(encoding="utf-8")
    except OSError:
        return None
    return _HOST if product.startswith("Google") else None


def _wait(host: str, ended: threading.Event) -> None:
    tag = ""
    while not ended.is_set():
        # Only what is new since the last answer is waited for: nothing falls between.
        query = f"?wait_for_change=true&timeout_sec={_HELD}&last_etag={tag}"
        try:
            said, tag = _ask(f"http://{host}/{_PATH}{query if tag else ''}")
        except (OSError, http.client.HTTPException):
            ended.wait(_AGAIN)
            continue
        if said == "TRUE" and not ended.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
            return
        ended.wait(_PAUSE)


def _ask(url: str) -> tuple[str, str]:
    """What the server says, and its name for this state."""
    asked = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
    # Not through a proxy: the server is the host's own.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(asked, timeout=_HELD + 30) as answer:
        said = answer.read().decode("utf-8").strip()
        return said, answer.headers.get("ETag", "")
