"""Of small files every byte is known, of large ones the size."""

from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.inference import manifest


@pytest.mark.parametrize(
    ("small", "content", "message"),
    [
        (
            4,
            None,
            "a.npy: expected a file of 4 bytes, found none. The index is damaged",
        ),
        (4, b"cut", "a.npy: expected 4 bytes, as when it was written, found 3. The"),
        (4, b"same", None),
        (4, b"sama", "a.npy: expected what was written, found other bytes. The index"),
        (3, b"sama", None),
        (3, b"cut", "a.npy: expected 4 bytes, as when it was written, found 3. The"),
    ],
)
def test_files_that_are_not_as_written(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small: int,
    content: bytes | None,
    message: str | None,
) -> None:
    monkeypatch.setattr(manifest, "_SMALL", small)
    path = tmp_path / "a.npy"
    path.write_bytes(b"same")
    manifest.write(tmp_path)
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    if message is None:
        manifest.require(tmp_path)
        return
    with pytest.raises(InputError, match=message):
        manifest.require(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", '{"a.npy": 4}', '{"a.npy": {}}'])
def test_a_list_that_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / manifest.NAME).write_text(content)
    with pytest.raises(InputError, match="expected a list of files, found something"):
        manifest.require(tmp_path)
