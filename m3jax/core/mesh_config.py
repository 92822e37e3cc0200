"""How devices are divided: apart from `core.mesh`, so that `--help` needs no jax."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MeshConfig:
    """How the devices are divided; one axis may be -1, for what is left."""

    data: int = -1
    """Copies of the model, each with its part of the batch."""
    fsdp: int = 1
    """Devices that share one copy of the parameters and divide the batch too."""
    tensor: int = 1
    """Devices that divide each matrix product."""
