"""Compiled programs kept between runs, so that a second start is fast."""

import os
from pathlib import Path
from typing import Any

import jax

_JAX_SECONDS = 1.0  # jax's own least time of what is kept


def user_folder() -> Path:
    """Where things are kept for the next start: $XDG_CACHE_HOME/m3jax, or ~/.cache's.

    Example:
        >>> user_folder().name
        'm3jax'
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "m3jax"


def keep_compiled() -> None:
    """Let jax keep what it compiles in the user's cache folder, unless told otherwise.

    The folder is `$XDG_CACHE_HOME/m3jax/jax`, or `~/.cache/m3jax/jax`. Whoever has set
    jax_compilation_cache_dir (JAX_COMPILATION_CACHE_DIR) keeps that folder, and
    JAX_ENABLE_COMPILATION_CACHE=false switches caching off.

    Example:
        >>> keep_compiled()
    """
    # jax gives its options as attributes that type checkers do not know.
    config: Any = jax.config
    if not config.jax_enable_compilation_cache:
        return
    if config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", str(user_folder() / "jax"))
    # A start compiles a few buckets of less than a second each, which add up.
    if config.jax_persistent_cache_min_compile_time_secs == _JAX_SECONDS:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
