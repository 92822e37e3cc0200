"""What is compiled is kept between runs, in the user's cache folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Long enough to compile that it is worth keeping.
PROGRAM = """
import jax
from m3jax.core.cache import keep_compiled
keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
events = []
jax.monitoring.register_event_listener(lambda name, **_: events.append(name))
jax.jit(lambda x: jax.numpy.sin(x) @ x)(jax.numpy.ones((3, 3))).block_until_ready()
print(events.count("/jax/compilation_cache/cache_hits"))
print(jax.config.jax_compilation_cache_dir)
"""


def run(folder: Path, **environment: str) -> list[str]:
    """Hits of the cache and where it is, in a fresh process."""
    ours = ("JAX_ENABLE_COMPILATION_CACHE", "JAX_COMPILATION_CACHE_DIR")
    inherited = {key: os.environ[key] for key in os.environ if key not in ours}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**inherited, "XDG_CACHE_HOME": str(folder), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_start_reads_what_the_first_compiled(tmp_path: Path) -> None:
    place = tmp_path / "m3jax" / "jax"
    assert run(tmp_path) == ["0", str(place)]
    assert any(place.iterdir())
    hits, _ = run(tmp_path)
    assert int(hits) >= 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"JAX_ENABLE_COMPILATION_CACHE": "false"}, "None"),
        ({"JAX_COMPILATION_CACHE_DIR": "OTHER"}, "OTHER"),
    ],
)
def test_the_user_decides(
    tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    other = str(tmp_path / "other")
    given = {key: value.replace("OTHER", other) for key, value in environment.items()}
    assert run(tmp_path, **given) == ["0", said.replace("OTHER", other)]
    assert not (tmp_path / "m3jax").exists()
