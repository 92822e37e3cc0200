"""How many cores this process may use."""

import os


def cores() -> int:
    """Count the cores that this process may run on.

    Returns:
        At least 1; fewer than the machine has where `taskset` or a container says so.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
