"""Run blocks of code as they are, and say what some of their variables hold.

Run by the tests under the interpreter of the clients:

    PEERS/bin/python tests/clients/run_blocks.py BLOCKS.json

BLOCKS.json is a list of [code, name of a variable]; the last line of the output is the
list of their values.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np


def plain(value: Any) -> Any:
    """Arrays and tensors, also within lists and dictionaries, as lists."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, float | int | str):
        return value
    return np.asarray(value).tolist()


def main() -> None:
    """Run every block by itself and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("blocks", type=Path)
    args = parser.parse_args()
    found = []
    for code, name in json.loads(args.blocks.read_text(encoding="utf-8")):
        variables: dict[str, Any] = {"__name__": "__main__"}
        exec(compile(code, "card", "exec"), variables)
        found.append(plain(variables[name]))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
