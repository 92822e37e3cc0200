"""How every program starts and ends."""

import errno
import os
import sys
from collections.abc import Callable

from m3jax.core.errors import InputError

# Errors of the file system that a user can mend; any other OSError is ours to explain.
_DISK = {
    errno.ENOSPC: "a disk with free space",
    errno.EDQUOT: "a disk quota with room",
    errno.EFBIG: "a file size within the limit",
    errno.EROFS: "a folder that can be written to",
    errno.EACCES: "a path that may be read and written",
    errno.EPERM: "a path that may be read and written",
    errno.ENOTDIR: "a folder",
    errno.ENOENT: "a path that is there or can be made",
}


def run(main: Callable[[], None]) -> None:
    """Run a program; print an `InputError` or a disk error in one line and exit 2.

    Raises:
        SystemExit: with 2 for wrong input and 130 for Ctrl-C.

    Example:
        >>> run(lambda: print("trained"))
        trained
    """
    try:
        main()
    except InputError as error:
        _fail(str(error))
    except BrokenPipeError:
        # The reader of a pipe has seen enough, as in "... | head -1".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        if error.errno is None and " requested and " in str(error):  # numpy's words
            _fail(str(InputError(_DISK[errno.ENOSPC], str(error), where="a new file")))
        if error.errno not in _DISK:
            raise
        where = error.filename2 or error.filename or "the output folder"
        found = (error.strerror or str(error)).lower()
        _fail(str(InputError(_DISK[error.errno], found, where=str(where))))
    except KeyboardInterrupt:
        print("interrupted; run the same command again to continue", file=sys.stderr)
        sys.exit(130)


def _fail(message: str) -> None:
    line = " ".join(message.split())
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
