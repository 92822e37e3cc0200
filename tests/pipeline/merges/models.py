"""Small models of every family, in every layout, to be merged."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from m3jax.hub import folder, reranker, tensors, torch_file
from m3jax.hub.kind import kind

GOLDEN = Path(__file__).parents[2] / "golden"


def golden(name: str) -> Any:
    """A model with its parameters."""
    opened = reranker if kind(GOLDEN / name) == "reranker" else folder
    return opened.load(GOLDEN / name)


def other(model: Any, seed: int, scale: float = 0.1) -> Any:
    """The same model with other numbers."""
    rng = np.random.default_rng(seed)
    params = jax.tree.map(
        lambda x: np.asarray(x + rng.normal(0, scale, x.shape), x.dtype), model.params
    )
    return dataclasses.replace(model, params=params)


def write(model: Any, to: Path, **options: Any) -> str:
    """Write a model; returns its folder."""
    save: Any = folder.save if isinstance(model, folder.Model) else reranker.save
    save(model, to, **options)
    return str(to)


def as_bin(to: str) -> str:
    """Weights as PyTorch wrote them, with a prefix, and without ours around them."""
    path = Path(to) / tensors.SAFETENSORS
    stored = tensors.read_safetensors(path)
    torch_file.write(
        Path(to) / tensors.BIN, {f"roberta.{n}": t[:] for n, t in stored.items()}
    )
    path.unlink()
    return to
