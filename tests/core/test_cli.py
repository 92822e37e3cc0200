import errno
import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from m3jax.core import cli
from m3jax.core.errors import InputError


def fail(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (InputError("a", "b", where="f:3"), 2, "error: f:3: expected a, found b"),
        (InputError("a", "b\nc"), 2, "error: expected a, found b c"),
        (OSError(errno.ENOSPC, "No space left", "/x/y"), 2, "error: /x/y: expected"),
        (OSError(errno.EROFS, "Read-only", "/x"), 2, "found read-only"),
        (KeyboardInterrupt(), 130, "run the same command again"),
    ],
)
def test_ends_in_one_line(
    error: BaseException, code: int, said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.run(fail(error))
    out, err = capsys.readouterr()
    assert end.value.code == code
    assert out == "" and said in err and err.count("\n") == 1


@pytest.mark.parametrize("error", [KeyError("k"), OSError(errno.ECHILD, "other")])
def test_our_own_mistakes_keep_their_traceback(error: BaseException) -> None:
    with pytest.raises(type(error)):
        cli.run(fail(error))


def test_input_error_survives_pickling() -> None:
    import pickle

    error = InputError("a", "b", where="w", do="d")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert os.linesep not in str(error)


def test_an_array_that_the_disk_does_not_hold(tmp_path: Path) -> None:
    """A limit on the size of files stands for the end of the disk."""
    program = (
        "import resource, numpy as np; from m3jax.core import cli; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); "
        "cli.run(lambda: np.save('a.npy', np.ones(9000)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: a new file: expected a disk with free space")
    assert done.stderr.count("\n") == 1


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    program = (
        "from m3jax.core import cli; cli.run(lambda: [print(i) for i in range(10**6)])"
    )
    done = subprocess.run(
        f'"{sys.executable}" -c "{program}" | head -1',
        shell=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "0\n" and done.stderr == ""


def test_progress_is_shown_on_a_terminal_and_leaves_nothing(monkeypatch) -> None:
    from m3jax.core import progress

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress.bar("encode", 10, "texts") as advance:
        for _ in range(5):
            advance(2)
    assert "encode" in terminal.getvalue() and "texts" in terminal.getvalue()
    quiet = Terminal()
    monkeypatch.setattr(sys, "stderr", quiet)
    with progress.bar("encode", 10, "texts", show=False) as advance:
        advance(10)
    assert quiet.getvalue() == ""
