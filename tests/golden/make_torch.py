"""Make tests/golden/torch_file: state dicts as PyTorch itself saves them.

Run once, from the root of the repository, in an environment with torch; the library
itself does not need it:

    PEERS/bin/python tests/golden/make_torch.py

The same version gives the same files, but for legacy.pt, which holds memory addresses.
Made with torch 2.13.0.
"""

# pyright: reportMissingImports=false
# pytest imports this file to look for doctests, so torch is imported when it runs.
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "torch_file"
FLOATS = ("float64", "float32", "float16", "bfloat16")
INTEGERS = ("int64", "int32", "int16", "int8")
NATURALS = ("uint8", "uint16", "uint32", "uint64")


def make_tensors() -> Any:
    """One of each type, and views of one storage, as tied weights are."""
    import torch

    tensors: Any = OrderedDict()
    for names, values in (
        (FLOATS, [[-1.5, 0.25, 3.0], [1e-3, -0.0, 100.0]]),
        (INTEGERS, [[-128, 0, 127], [1, 2, 3]]),
        (NATURALS, [[255, 0, 1], [2, 3, 4]]),
        (("bool",), [[True, False, True], [False, False, True]]),
    ):
        for name in names:
            tensors[name] = torch.tensor(values, dtype=getattr(torch, name))
    base = torch.arange(12.0).reshape(3, 4)
    tensors["embeddings.weight"] = base
    tensors["decoder.weight"] = base
    tensors["transposed"] = base.T
    tensors["part"] = base[1:, 1::2]
    tensors["parameter"] = torch.nn.Parameter(torch.tensor([0.5, -2.0]))
    tensors["expanded"] = torch.arange(5).expand((1, -1))
    tensors["empty"] = torch.zeros(0, 3)
    tensors["scalar"] = torch.tensor(7.5)
    tensors["Straße"] = torch.tensor([1.0])
    tensors._metadata = OrderedDict({"": {"version": 1}, "decoder": {"version": 2}})
    return tensors


def main() -> None:
    """Write the folder."""
    import torch

    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir()
    tensors = make_tensors()
    torch.save(tensors, FOLDER / "zip.pt")
    torch.save(tensors, FOLDER / "legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(dict(tensors), FOLDER / "protocol4.pt", pickle_protocol=4)
    torch.manual_seed(0)
    torch.save(torch.nn.Linear(3, 1).state_dict(), FOLDER / "linear.pt")
    # NumPy has no bfloat16 of its own.
    wide = {**tensors, "bfloat16": tensors["bfloat16"].float()}
    values: Any = {name: value.detach().numpy() for name, value in wide.items()}
    np.savez_compressed(FOLDER / "expected.npz", **values)


if __name__ == "__main__":
    main()
