"""What every test runs under: eight CPU devices, no silent broadcasting, no cache."""

import os
import shutil
import tempfile
from collections.abc import Iterator

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# No test asks the network for a model.
os.environ["HF_HUB_OFFLINE"] = "1"
# What one test compiles, another one and the programs that tests start need not. The
# first process makes the folder, the workers inherit it, and the user's is not touched.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
    "M3JAX_TEST_CACHE"
) or tempfile.mkdtemp(prefix="m3jax-test-")
# Nor is the user's folder of indexes.
os.environ["XDG_CACHE_HOME"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "0"
# Tests compile much and compute little: half the time goes without optimisation.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def untraced() -> Iterator[None]:
    """Inner programs are traced anew: the test changes what they are made of."""
    jax.clear_caches()
    yield
    jax.clear_caches()


def pytest_configure(config: pytest.Config) -> None:
    """Tell the workers the folder of compiled programs, and remove it in the end."""
    if "M3JAX_TEST_CACHE" not in os.environ:
        folder = os.environ["JAX_COMPILATION_CACHE_DIR"]
        os.environ["M3JAX_TEST_CACHE"] = folder
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
