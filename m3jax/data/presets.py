"""Published sizes of batches."""

from collections.abc import Sequence

# BGE-M3, Table 9: most tokens of a bucket, and queries in its global batch.
BGE_M3_LENGTHS = (500, 1_000, 2_000, 3_000, 4_000, 5_000, 6_000, 7_000, 8_192)
SIZES = {
    "bge_m3_unsupervised": (
        67_200,
        54_720,
        37_248,
        27_648,
        21_504,
        17_280,
        15_072,
        12_288,
        9_984,
    ),
    "bge_m3_finetune": (1_152, 768, 480, 432, 336, 336, 288, 240, 192),
}


def rounded_up(sizes: Sequence[int], multiple: int) -> tuple[int, ...]:
    """Sizes that a number of devices divides, none smaller than it was.

    Example:
        >>> rounded_up((48, 20), 32)
        (64, 32)
    """
    return tuple(-(-size // multiple) * multiple for size in sizes)
