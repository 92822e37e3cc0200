"""How every program starts and ends."""

import errno
import os
import sys
from collections.abc import Callable

from m3jax.core import distributed
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
    errno.EEXIST: "a folder, or a name that is free",
    errno.ENAMETOOLONG: "a shorter name",
    errno.ENOENT: "a path that is there or can be made",
}


def run(main: Callable[[], None]) -> None:
    """Run a program; print an `InputError` or a disk error in one line and exit 2.

    Of several processes, the failure of one ends all (`distributed.fail`).

    Raises:
        SystemExit: with 2 for wrong input and 130 for Ctrl-C.

    Example:
        >>> run(lambda: print("trained"))
        trained
    """
    try:
        main()
        distributed.finish()
    except SystemExit as end:
        if not end.code:
            distributed.finish()
        raise
    except BrokenPipeError as error:
        distributed.fail("error: nobody reads the output any more", 141, error)
        # The reader of a pipe has seen enough, as in "... | head -1".
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except BaseException as error:
        line, code = _told(error)
        distributed.fail(line, code, error)
        if line is None:
            raise
        print(line, file=sys.stderr)
        sys.exit(code)


def _told(error: BaseException) -> tuple[str | None, int]:
    """What the user is told in one line, None for a mistake of ours; and the code."""
    if isinstance(error, KeyboardInterrupt):
        return (
            "interrupted; run the same command again to go on from what was saved last",
            130,
        )
    if isinstance(error, OSError):
        if error.errno is None and " requested and " in str(error):  # numpy's words
            error = InputError(_DISK[errno.ENOSPC], str(error), where="a new file")
        elif error.errno in _DISK:
            where = error.filename2 or error.filename or "the output folder"
            found = (error.strerror or str(error)).lower()
            error = InputError(_DISK[error.errno], found, where=str(where))
    if isinstance(error, InputError):
        return f"error: {' '.join(str(error).split())}", 2
    return None, 1
