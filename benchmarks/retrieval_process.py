"""Processes that answer line by line; `benchmarks.retrieval` has several at once."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

# Of this process alone: ru_maxrss begins with what the process had that started it.
PEAK = """
def peak():
    with open("/proc/self/status") as file:
        return next(int(x.split()[1]) for x in file if x.startswith("VmHWM")) * 1024
"""
_EVERY = 15  # seconds between two lines of progress


def start(python: str, code: str, *arguments: str) -> subprocess.Popen[str]:
    """Let an interpreter run some code, which answers each line with one of JSON."""
    return subprocess.Popen(
        [python, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )


def ask(process: subprocess.Popen[str], line: str = "") -> Any:
    """Send a line, and wait for the answer."""
    assert process.stdin is not None and process.stdout is not None
    print(line, file=process.stdin, flush=True)
    answer = process.stdout.readline()
    if not answer:
        raise SystemExit("a process ended before it answered; see above")
    return json.loads(answer)


def end(process: subprocess.Popen[str]) -> None:
    """Close its input, and wait until it has ended."""
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def telling(name: str, total: int) -> Callable[[int], None]:
    """A function that is told of each finished part, and says so from time to time."""
    begun = last = time.perf_counter()
    done = 0

    def advance(units: int) -> None:
        nonlocal done, last
        done += units
        now = time.perf_counter()
        if now - last > _EVERY or done == total:
            last, speed = now, done / (now - begun)
            told = f"{name}: {done:,} of {total:,} texts, {speed:.0f}/s"
            print(told, file=sys.stderr, flush=True)

    return advance
