"""Whether one model is better than another, or was lucky with the queries."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.stats

from m3jax.core.errors import InputError

RESAMPLES = 10_000
_BLOCK = 2**22  # items drawn at once
# Differences cancel to less than this, and not to 0, where they are summed.
_ZERO = 1e-12


@dataclass(frozen=True)
class Paired:
    """How much better b is than a, over the same items.

    Attributes:
        difference: mean of b minus mean of a.
        low: lower end of the 95 % interval of the difference.
        high: upper end.
        p: how often chance alone would turn the sign, on both sides together.
        better: items that b does better.
        worse: items that b does worse.
        equal: the others.
    """

    difference: float
    low: float
    high: float
    p: float
    better: int
    worse: int
    equal: int

    @property
    def count(self) -> int:
        """How many items there are."""
        return self.better + self.worse + self.equal

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def bootstrap(
    a: Mapping[str, float],
    b: Mapping[str, float],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Paired:
    """Compare two models on the same items by the paired bootstrap.

    d_i = b_i - a_i. Each resample draws n of the n differences, with repeats, and takes
    their mean. The interval is from the 2.5th percentile of these means to the 97.5th;
    p = min(1, 2 (1 + c) / (1 + resamples)), where c of them are 0 or on the other side
    of 0 than the mean of d. The two 1 count the data themselves, so p is never 0.

    Args:
        a: item -> value of one model.
        b: item -> value of the other.
        resamples: how many.
        seed: of the draws; the same one gives the same result.

    Returns:
        Difference, interval, p and counts.

    Raises:
        InputError: the items are not the same, or fewer than two.

    Source: Efron and Tibshirani 1993; Koehn 2004; Sakai 2006.

    Example:
        >>> a = {"q1": 0.1, "q2": 0.5, "q3": 0.2}
        >>> found = bootstrap(a, {"q1": 0.3, "q2": 0.7, "q3": 0.4})
        >>> round(found.low, 6), round(found.high, 6), found.better
        (0.2, 0.2, 3)
    """
    _check_same(a, b)
    d = np.array([b[item] - a[item] for item in a])
    if len(d) < 2:
        raise InputError("two items or more", f"{len(d)}", where="paired bootstrap")
    found = scipy.stats.bootstrap(
        (d,),
        np.mean,
        n_resamples=resamples,
        batch=max(1, _BLOCK // len(d)),
        method="percentile",
        rng=seed,
    )
    mean = float(d.mean())
    side = found.bootstrap_distribution * (1 if mean >= 0 else -1)
    beyond = int((side <= _ZERO).sum())
    return Paired(
        difference=mean,
        low=float(found.confidence_interval.low),
        high=float(found.confidence_interval.high),
        p=min(1.0, 2 * (1 + beyond) / (1 + resamples)),
        better=int((d > 0).sum()),
        worse=int((d < 0).sum()),
        equal=int((d == 0).sum()),
    )


def _check_same(a: Mapping[str, float], b: Mapping[str, float]) -> None:
    for one, other, name in ((a, b, "the second"), (b, a, "the first")):
        missing = [item for item in one if item not in other]
        if missing:
            shown = ", ".join(map(repr, missing[:3]))
            more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
            raise InputError(
                "the same items on both sides",
                f"{shown}{more} missing from {name}",
                where="paired bootstrap",
                do="Evaluate both models on the same data.",
            )
