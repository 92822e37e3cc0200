"""What makes two folders hold the same weights, as a few hex digits."""

from hashlib import blake2b
from pathlib import Path

from m3jax.core import progress
from m3jax.hub import model_files
from m3jax.hub.fetch import fetch

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt")
_PIECE = 16 * 2**20


def digest(name: str | Path, *, show: progress.Show = True) -> str:
    """Hash the files that hold the weights of a model.

    The same weights in other files (several instead of one, or PyTorch's), in another
    order or of another type have another hash.

    Args:
        name: folder, run folder or hub id.
        show: a bar of the bytes that were read, or what is told of them.

    Returns:
        16 hex digits, by the names of the files and their content.

    Raises:
        InputError: there is no such model.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "model.safetensors").write_bytes(b"weights")
        ...     digest(folder)
        '...'
    """
    folder = model_files.find(fetch(name))
    paths = _files(folder)
    found = blake2b(digest_size=8)
    total = sum(path.stat().st_size for path in paths)
    with progress.bar("read the weights", total, "bytes", show=show) as advance:
        for path in paths:
            size = path.stat().st_size
            found.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    found.update(piece)
                    advance(len(piece))
    return found.hexdigest()


def size(name: str | Path) -> int:
    """Bytes that `digest` reads.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = Path(folder, "model.safetensors").write_bytes(b"weights")
        ...     size(folder)
        7
    """
    return sum(x.stat().st_size for x in _files(model_files.find(fetch(name))))


def _files(folder: Path) -> list[Path]:
    return sorted(x for kind in _WEIGHTS for x in folder.rglob(kind) if x.is_file())
