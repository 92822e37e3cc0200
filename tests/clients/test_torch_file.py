"""Our PyTorch files in the hands of PyTorch, which m3jax does not need.

Set M3JAX_PEERS to the Python interpreter of an environment with torch to run these.
"""

import json
import os
import subprocess
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from m3jax.hub import torch_file
from m3jax.hub.torch_file import read, write

PEERS = os.environ.get("M3JAX_PEERS", "")
pytestmark = pytest.mark.skipif(
    not PEERS, reason="M3JAX_PEERS names no interpreter with torch"
)
OPEN = """
import json, sys
import torch
for mapped in (False, True):
    found = torch.load(sys.argv[1], weights_only=True, mmap=mapped)
    torch.save(found, sys.argv[2 + mapped])
print(json.dumps({
    "type": type(found).__name__,
    "tensors": {
        name: [str(value.dtype), list(value.shape), str(value.device),
               value.is_contiguous(), value.double().tolist()]
        for name, value in found.items()
    },
}))
linear = torch.nn.Linear(3, 2)
linear.load_state_dict({name: found[name] for name in ("weight", "bias")})
"""


def peer(code: str, *args: Path) -> str:
    command = [PEERS, "-c", code, *map(str, args)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("big", [1 << 30, 10])
def test_pytorch_opens_what_we_write(big, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(torch_file, "_BIG", big)  # the sizes of big entries are longer
    tensors = {
        "weight": np.arange(6, dtype=np.float32).reshape(3, 2).T,
        "bias": np.array([-0.5, 1e-30], np.float32),
        "float16": np.array([[1.5, -0.0]], np.float16),
        "bfloat16": np.array([[1.5], [3e38]], jnp.bfloat16),
        "int64": np.array([-1, 2**52]),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
        "Straße \U0001f9ec": np.zeros((2, 1, 300), np.float32),
    }
    write(tmp_path / "a.pt", tensors)
    saved = [tmp_path / "b.pt", tmp_path / "c.pt"]
    found = json.loads(peer(OPEN, tmp_path / "a.pt", *saved))
    assert found["type"] == "OrderedDict"
    assert list(found["tensors"]) == list(tensors)
    for name, value in tensors.items():
        dtype, shape, device, contiguous, numbers = found["tensors"][name]
        assert (dtype, tuple(shape)) == (f"torch.{value.dtype}", value.shape)
        assert (device, contiguous) == ("cpu", True)
        assert numbers == value.astype(np.float64).tolist()
    # And what it makes of them opens here.
    for path in saved:
        again = read(path)
        assert list(again) == list(tensors)
        for name, value in tensors.items():
            assert again[name].tobytes() == value.tobytes(), name
