"""Train, evaluate and use text-embedding models in JAX.

Everything is imported when it is first used: `import m3jax.losses` needs jax only.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from m3jax import losses
    from m3jax.core.errors import InputError
    from m3jax.inference import scores
    from m3jax.inference.embedder import Embedder
    from m3jax.inference.encode import CutWarning
    from m3jax.inference.encoded import Encoded
    from m3jax.inference.index import Index
    from m3jax.inference.reranker import Reranker

__version__ = "0.1.0"
__all__ = [
    "CutWarning",
    "Embedder",
    "Encoded",
    "Index",
    "InputError",
    "Reranker",
    "losses",
    "scores",
]

_PUBLIC = {
    "Embedder": ("m3jax.inference.embedder", "Embedder"),
    "Encoded": ("m3jax.inference.encoded", "Encoded"),
    "Index": ("m3jax.inference.index", "Index"),
    "InputError": ("m3jax.core.errors", "InputError"),
    "CutWarning": ("m3jax.inference.encode", "CutWarning"),
    "Reranker": ("m3jax.inference.reranker", "Reranker"),
    "losses": ("m3jax.losses", None),
    "scores": ("m3jax.inference.scores", None),
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _PUBLIC:
        raise AttributeError(f"module 'm3jax' has no attribute '{name}'")
    module, attribute = _PUBLIC[name]
    found = importlib.import_module(module)
    return found if attribute is None else getattr(found, attribute)


def __dir__() -> list[str]:
    """List the public names for completion."""
    return [*__all__, "__version__"]
