"""What every test runs under: eight CPU devices, no silent broadcasting, no cache."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# No test asks the network for a model.
os.environ["HF_HUB_OFFLINE"] = "1"
# The folder of compiled programs is the user's; tests/core/test_cache.py makes its own.
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"
# Tests compile much and compute little: half the time goes without optimisation.
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

import jax

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
