#!/usr/bin/env python3
"""The statistics of the soak on made-up series: a planted leak is found, noise without a leak is not taken for one."""

from __future__ import annotations

import sys

import numpy as np
from server import require
from soak_trend import BLOCKS, after_warm_up, growth, problems, slope

SECONDS = np.arange(0, 1800, 2.0)
LIMIT = 1.0  # MB/h


def series(seed: int, per_hour: float, memory: float = 0.9, noise: float = 0.3) -> np.ndarray:
    """A warm-up of 40 MB, then a line in noise of which each value remembers the last, as an allocator does."""
    random = np.random.default_rng(seed)
    wander = np.zeros(len(SECONDS))
    for i in range(1, len(SECONDS)):
        wander[i] = memory * wander[i - 1] + noise * random.standard_normal()
    return 200 - 40 * np.exp(-SECONDS / 60) + wander + per_hour * SECONDS / 3600


def verdict(rss: np.ndarray, fds: np.ndarray | None = None) -> list[str]:
    late = after_warm_up(SECONDS)
    counts = np.full(len(SECONDS), 40.0) if fds is None else fds
    return problems(slope(SECONDS[late], rss[late]), LIMIT, growth(counts[late]), growth(np.full(late.sum(), 20.0)))


def exact_line() -> None:
    values = 7 + 3.5 * SECONDS / 3600
    found = slope(SECONDS, values)
    require(abs(found.value - 3.5) < 1e-9 and found.standard_error < 1e-9, f"of a line of 3.5 MB/h: {found}")


def same_as_textbook() -> None:
    """With one sample for all of a block, the formula is ordinary least squares on the blocks."""
    random = np.random.default_rng(1)
    times = np.arange(BLOCKS, dtype=float) * 3600
    means = random.standard_normal(BLOCKS)
    found = slope(np.repeat(times, 2), np.repeat(means, 2))
    (value, _), covariance = np.polyfit(times / 3600, means, 1, cov="unscaled")
    residuals = means - np.polyval(np.polyfit(times / 3600, means, 1), times / 3600)
    error = np.sqrt(covariance[0, 0] * (residuals**2).sum() / (BLOCKS - 2))
    require(abs(found.value - value) < 1e-12 and abs(found.standard_error - error) < 1e-12, f"{found}: {value}, {error}")


def leaks_are_found() -> None:
    missed = sum(not verdict(series(seed, per_hour=20)) for seed in range(100))
    require(missed == 0, f"{missed} of 100 leaks of 20 MB/h were missed")


def noise_is_no_leak() -> None:
    alarms = sum(bool(verdict(series(seed, per_hour=0))) for seed in range(300))
    print(f"  {alarms} of 300 series without a leak were taken for one")
    require(alarms <= 24, f"{alarms} of 300 series without a leak were taken for one; 5 % may be")


def errors_cover() -> None:
    late = after_warm_up(SECONDS)
    inside = sum(slope(SECONDS[late], series(seed, per_hour=5)[late]).at_least <= 5 for seed in range(300))
    print(f"  the lower end of the interval lay below the true slope in {inside} of 300 series")
    require(inside >= 270, f"the 95 % interval held the slope in {inside} of 300 series only")


def descriptors_are_found() -> None:
    one_a_minute = 40 + np.floor(SECONDS / 60)
    require(verdict(series(1, 0), one_a_minute) != [], "a descriptor lost every minute was missed")
    random = np.random.default_rng(2)
    require(verdict(series(1, 0), 40 + random.integers(0, 8, len(SECONDS)).astype(float)) == [],
            "descriptors that come and go were taken for growth")


def main() -> int:
    for test in (exact_line, same_as_textbook, leaks_are_found, noise_is_no_leak, errors_cover, descriptors_are_found):
        print(test.__name__, flush=True)
        test()
    return 0


if __name__ == "__main__":
    sys.exit(main())
