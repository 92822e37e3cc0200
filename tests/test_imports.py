"""What an import costs."""

import json
import subprocess
import sys

HEAVY = ("flax", "optax", "orbax", "grain", "transformers", "tokenizers", "tyro")
HEAVY += ("matplotlib", "tensorflow_datasets", "torch", "scipy.sparse", "rich")

MEASURE = """
import json, sys, time
start = time.perf_counter()
import jax
import jax.numpy
middle = time.perf_counter()
import m3jax.losses
print(json.dumps([middle - start, time.perf_counter() - middle, sorted(sys.modules)]))
"""


def measure() -> tuple[float, float, set[str]]:
    out = subprocess.run(
        [sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True
    )
    jax_seconds, own_seconds, modules = json.loads(out.stdout)
    return jax_seconds, own_seconds, set(modules)


def test_losses_import_jax_only() -> None:
    # The least of three: other work on the machine only ever adds.
    runs = [measure() for _ in range(3)]
    assert min(own for _, own, _ in runs) <= 0.2
    # scipy and numpy come with jax itself.
    assert {name for name in HEAVY if name in runs[0][2]} <= {"scipy.sparse"}


def test_public_names_are_there() -> None:
    import m3jax

    assert set(m3jax.__all__) <= set(dir(m3jax))
    assert all(getattr(m3jax, name) is not None for name in m3jax.__all__)
    assert m3jax.losses.info_nce.__name__ == "info_nce"
