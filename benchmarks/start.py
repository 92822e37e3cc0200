"""How long a start takes: load a model and encode one text, in fresh processes.

    python benchmarks/start.py MODEL [--runs 3] [--imports]

Prints the median with an empty compilation cache and with a warm one; the warm cache
is in a temporary folder. --imports also lists the modules that are slowest to import.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time

PROGRAM = """
import sys, time
start = time.perf_counter()
import m3jax
model = m3jax.Embedder.load
imported = time.perf_counter()
model = model(sys.argv[1])
loaded = time.perf_counter()
model.encode_query(["what is a cell?"])
print(imported - start, loaded - imported, time.perf_counter() - loaded)
"""


def run(model: str, cache: str) -> tuple[list[float], str]:
    """Seconds in all, of imports, of loading and of the first text; and stderr."""
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, model],
        env=environment,
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        sys.exit(done.stderr)
    return [seconds, *map(float, done.stdout.split())], done.stderr


def slowest_imports(count: int) -> list[str]:
    """Modules by their own and cumulative time, the largest own time first."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import m3jax; m3jax.Embedder"],
        capture_output=True,
        text=True,
        check=True,
    )
    rows = [
        line.removeprefix("import time:").split("|")
        for line in done.stderr.splitlines()[1:]
    ]
    found = [
        (int(own), int(total), name.strip())
        for own, total, name in (row for row in rows if len(row) == 3)
        if own.strip().isdigit()
    ]
    found.sort(key=lambda row: -row[1])
    return [
        f"{own / 1e6:6.2f} s own {total / 1e6:6.2f} s in all  {name}"
        for own, total, name in found[:count]
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="hub id or folder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--imports", action="store_true")
    flags = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    said = ""
    with tempfile.TemporaryDirectory() as warm:
        for name in ("cold", "warm"):
            rows = []
            for _ in range(flags.runs):
                with tempfile.TemporaryDirectory() as cold:
                    row, err = run(flags.model, cold if name == "cold" else warm)
                rows.append(row)
                said += err
            if name == "cold":
                run(flags.model, warm)
            whole, *parts = (
                statistics.median(column) for column in zip(*rows, strict=True)
            )
            words = ("imports", "loading", "first text")
            detail = ", ".join(
                f"{word} {part:.2f}" for word, part in zip(words, parts, strict=True)
            )
            each = " ".join(f"{row[0]:.2f}" for row in rows)
            print(f"{name} cache: {whole:.2f} s ({detail}); runs: {each}", flush=True)
    print(f"load average {os.getloadavg()[0]:.1f}")
    for line in dict.fromkeys(said.splitlines()):
        print(f"stderr: {line[:400]}")
    for line in slowest_imports(25) if flags.imports else ():
        print(line)


if __name__ == "__main__":
    main()
