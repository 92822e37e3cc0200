"""Arrays that the cache keeps as files."""

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from m3jax.data.columns import column


def test_threads_open_arrays_one_after_another(tmp_path: Path, monkeypatch) -> None:
    """Numpy reads headers by `ast`, which two threads at once break in Python 3.11."""
    for i in range(6):
        np.save(tmp_path / f"{i}.npy", np.arange(i))
    inside, most, load = 0, 0, np.load

    def slow(*arguments: Any, **options: Any) -> np.ndarray:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        found = load(*arguments, **options)
        inside -= 1
        return found

    monkeypatch.setattr(np, "load", slow)
    found: dict[int, int] = {}

    def read(i: int) -> None:
        found[i] = len(column(f"{tmp_path}/{i}.npy"))

    threads = [threading.Thread(target=read, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {i: i for i in range(6)} and most == 1
