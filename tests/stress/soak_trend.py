"""Whether a process grows: a line through its memory with an honest error, and counts before and after.

Neighbouring samples are alike (what the allocator holds now it held two seconds ago), so a line through all of them would
claim to know its slope far too well. The line therefore goes through the means of BLOCKS stretches of equal length, which
are nearly independent, and its error comes from how they scatter around it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCKS = 16
T_95 = 1.761  # one-sided 95 % quantile of Student's t with BLOCKS - 2 degrees of freedom
SMALLEST_GROWTH = 2  # descriptors or threads: fewer come and go with the load of the moment


@dataclass(frozen=True)
class Slope:
    """Of a line, in units per hour."""

    value: float
    standard_error: float

    @property
    def at_least(self) -> float:
        """Lower end of the one-sided 95 % interval."""
        return self.value - T_95 * self.standard_error


def slope(seconds: np.ndarray, values: np.ndarray) -> Slope:
    """[n] times and [n] values, n >= 2 BLOCKS."""
    if len(seconds) < 2 * BLOCKS:
        raise ValueError(f"expected at least {2 * BLOCKS} samples, got {len(seconds)}")
    hours = np.array([block.mean() for block in np.array_split(np.asarray(seconds, float), BLOCKS)]) / 3600
    means = np.array([block.mean() for block in np.array_split(np.asarray(values, float), BLOCKS)])
    centred = hours - hours.mean()
    spread = (centred**2).sum()
    value = (centred * means).sum() / spread
    residuals = means - means.mean() - value * centred
    return Slope(value, float(np.sqrt((residuals**2).sum() / (BLOCKS - 2) / spread)))


def growth(values: np.ndarray) -> float:
    """Median of the last quarter less median of the first."""
    quarter = max(1, len(values) // 4)
    return float(np.median(values[-quarter:]) - np.median(values[:quarter]))


def after_warm_up(seconds: np.ndarray) -> np.ndarray:
    """Mask of the samples after the first third."""
    seconds = np.asarray(seconds)
    return seconds >= seconds[0] + (seconds[-1] - seconds[0]) / 3


def problems(rss: Slope, limit: float, fds: float, threads: float) -> list[str]:
    """Empty if nothing grows. `limit` in MB/h; `fds` and `threads` are growths."""
    found = []
    if rss.at_least > limit:
        found.append(f"memory grows by {rss.value:.2f} MB/h, with 95 % confidence by {rss.at_least:.2f} or more; "
                     f"{limit:g} are allowed")
    for what, count in (("descriptors", fds), ("threads", threads)):
        if count > SMALLEST_GROWTH:
            found.append(f"{count:g} more {what} at the end than after the warm-up; {SMALLEST_GROWTH} may come by chance")
    return found
