from pathlib import Path

import pytest

from m3jax.core.errors import InputError
from m3jax.hub.digest import digest


def folder(path: Path, **files: bytes) -> Path:
    for name, content in files.items():
        file = path / name.replace("__", "/").replace("_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return path


def test_it_depends_on_weights_alone(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", model_safetensors=b"12", head_pt=b"3", README_md=b"a")
    b = folder(tmp_path / "b", model_safetensors=b"12", head_pt=b"3", README_md=b"b")
    run = tmp_path / "run"
    folder(run / "model", model_safetensors=b"12", head_pt=b"3")
    assert digest(a) == digest(b) == digest(run) and len(digest(a)) == 16
    others = {
        "content": {"model_safetensors": b"13", "head_pt": b"3"},
        "cut": {"model_safetensors": b"123", "head_pt": b""},
        "name": {"model_safetensors": b"12", "tail_pt": b"3"},
        "more": {"model_safetensors": b"12", "head_pt": b"3", "x__y_bin": b""},
    }
    found = {digest(folder(tmp_path / name, **x)) for name, x in others.items()}
    assert len(found) == 4 and digest(a) not in found


def test_no_such_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a local folder, or a hub id"):
        digest(tmp_path / "none")
