"""Errors that a user can act on."""

from typing import Any


class InputError(ValueError):
    """Something a user gave does not fit; printed in one line, without a traceback.

    The message reads ``where: expected ..., found .... What to do.``

    Args:
        expected: what would have been right.
        found: what was there instead.
        where: the file and line, flag or argument that is meant; may be empty.
        do: what the user can do about it; may be empty.

    Example:
        >>> str(InputError("a list of texts", "a number", where="a.jsonl:17: pos"))
        'a.jsonl:17: pos: expected a list of texts, found a number'
    """

    def __init__(
        self, expected: str, found: str, *, where: str = "", do: str = ""
    ) -> None:
        self.expected, self.found, self.where, self.do = expected, found, where, do
        message = f"expected {expected}, found {found}"
        if where:
            message = f"{where}: {message}"
        if do:
            message = f"{message}. {do}"
        super().__init__(message)

    def at(self, where: str) -> "InputError":
        """The same error, told to be inside of `where`, e.g. a line of a file."""
        inner = f"{where}: {self.where}" if self.where else where
        return InputError(self.expected, self.found, where=inner, do=self.do)

    def __reduce__(self) -> tuple[Any, ...]:
        """Survive the trip from a worker process."""
        return _rebuild, (self.expected, self.found, self.where, self.do)


def _rebuild(expected: str, found: str, where: str, do: str) -> InputError:
    return InputError(expected, found, where=where, do=do)
