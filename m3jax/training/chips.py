"""What one accelerator can do: memory, arithmetic, links. Data only."""

from dataclasses import dataclass

from m3jax.core.errors import InputError


@dataclass(frozen=True)
class Chip:
    """One kind of accelerator; all rates are peaks.

    Attributes:
        name: short.
        memory: bytes of its HBM.
        flops: bfloat16, dense, a second.
        flops32: float32 products in full precision, a second.
        bandwidth: bytes of HBM a second.
        links: to other chips of the slice; 0 = not told.
        link: bytes a second over one link, in one direction.
    """

    name: str
    memory: float
    flops: float
    flops32: float
    bandwidth: float
    links: int = 0
    link: float = 0.0

    @property
    def ring(self) -> float:
        """Bytes a second that a chip sends in a ring: over two links, one each way."""
        return min(self.links, 2) * self.link


def _tpu(
    name: str, memory: float, flops: float, bandwidth: float, links: int, link: float
) -> Chip:
    # XLA makes a float32 product of full precision in six passes of bfloat16.
    return Chip(name, memory, flops, flops / 6, bandwidth, links, link)


# TPU: cloud.google.com/tpu/docs/{v4,v5e,v5p,v6e}, "system architecture": HBM, peak
# compute, HBM and interconnect bandwidth of a chip; memory in units of 10^9, which is
# the cautious reading. Links in one direction: "How to Scale Your Model", part 2.
# GPU: NVIDIA's data sheets of A100, H100 and H200 (SXM, PCIe, NVL), without sparsity;
# float32 without TF32. Their links differ by machine and are not told.
CHIPS = {
    "v4": _tpu("v4", 32e9, 275e12, 1.228e12, 6, 45e9),
    "v5e": _tpu("v5e", 16e9, 197e12, 0.819e12, 4, 45e9),
    "v5p": _tpu("v5p", 95e9, 459e12, 2.765e12, 6, 90e9),
    "v6e": _tpu("v6e", 32e9, 918e12, 1.640e12, 4, 90e9),
    "a100-40": Chip("a100-40", 40e9, 312e12, 19.5e12, 1.555e12),
    "a100-80": Chip("a100-80", 80e9, 312e12, 19.5e12, 2.039e12),
    "h100": Chip("h100", 80e9, 989e12, 67e12, 3.35e12),
    "h200": Chip("h200", 141e9, 989e12, 67e12, 4.8e12),
    "h100-pcie": Chip("h100-pcie", 80e9, 756e12, 51e12, 2.0e12),
    "h100-nvl": Chip("h100-nvl", 94e9, 835e12, 60e12, 3.9e12),
    "h200-nvl": Chip("h200-nvl", 141e9, 835e12, 60e12, 4.8e12),
}
# Words of what JAX calls a device (`device_kind`); the first that is found holds.
_KINDS = {
    "v6 lite": "v6e",
    "v6e": "v6e",
    "v5 lite": "v5e",
    "v5litepod": "v5e",
    "v5e": "v5e",
    "tpu v5": "v5p",
    "v5p": "v5p",
    "v4": "v4",
    "a100-sxm4-40": "a100-40",
    "a100-pcie-40": "a100-40",
    "a100-40": "a100-40",
    "a100": "a100-80",
    "h100 pcie": "h100-pcie",
    "h100-pcie": "h100-pcie",
    "h100 nvl": "h100-nvl",
    "h100-nvl": "h100-nvl",
    "h200 nvl": "h200-nvl",
    "h200-nvl": "h200-nvl",
    "h100": "h100",
    "h200": "h200",
}


def find(name: str) -> Chip:
    """Look a chip up.

    Args:
        name: `device.device_kind`, or the name of a topology.

    Returns:
        What it can do.

    Raises:
        InputError: none of the table is named.

    Example:
        >>> find("TPU v5 lite").name, find("v5p:4x4x4").name
        ('v5e', 'v5p')
    """
    for words, chip in _KINDS.items():
        if words in name.lower():
            return CHIPS[chip]
    raise InputError(
        f"one of the chips {', '.join(CHIPS)}", name or "none", where="chip"
    )
