"""Comparing with tolerances, and remembering the largest errors.

A tolerance is what the precision of the network and the conditioning of the question allow, never a number that happened to
fit; where it comes from stands beside each comparison. What is asked of a score or link is propagated through it
(`through`): how far its result moves when everything that it is made of moves within its own tolerance.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Sequence

import numpy as np

ANSWER = 2.0**-24  # predictions come in single precision, whatever the network's is


class Mismatch(Exception):
    """The server and the reference differ by more than rounding; the text says where and how much."""


@dataclass
class Largest:
    count: int = 0
    relative: float = 0.0  # to the largest value of its array
    of_tolerance: float = 0.0


@dataclass
class Ledger:
    """`kind` is fp32 or fp64; `place` says which fit is looked at, for messages."""

    kind: str
    place: str = ""
    largest: dict[tuple[str, str], Largest] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)

    def expect(self, what: str, got: Any, wanted: Any, tolerance: Any) -> None:
        """Every number within its tolerance, of `wanted`'s shape or one for all."""
        a, b = np.asarray(got, float), np.asarray(wanted, float)
        if a.shape != b.shape:
            raise Mismatch(f"{self.place}: {what}: expected the shape {b.shape}, got {a.shape}")
        if a.size == 0:
            return
        limit = np.maximum(np.broadcast_to(np.asarray(tolerance, float), b.shape), 1e-300)
        error = np.abs(a - b)
        # Written so that NaN fails.
        wrong = ~(error <= limit)
        if wrong.any():
            worst = np.unravel_index(np.argmax(np.where(np.isfinite(error), error / limit, np.inf)), b.shape)
            raise Mismatch(
                f"{self.place}: {what}{list(map(int, worst)) if worst else ''}: expected {b[worst]:.17g} +- "
                f"{limit[worst]:.3g}, got {a[worst]:.17g}; {wrong.sum()} of {b.size} numbers are off")
        largest = self.largest.setdefault((what.split(" ")[0].split("[")[0], self.kind), Largest())
        largest.count += b.size
        if np.abs(b).max() > 10 * limit.max():  # not of what ought to be nothing
            largest.relative = max(largest.relative, float(error.max() / np.abs(b).max()))
        largest.of_tolerance = max(largest.of_tolerance, float((error / limit).max()))

    def require(self, holds: bool, what: str) -> None:
        if not holds:
            raise Mismatch(f"{self.place}: {what}")

    def skip(self, what: str) -> None:
        self.skipped[what] = self.skipped.get(what, 0) + 1

    def table(self) -> str:
        lines = [f"{'WHAT':34} {'':5} {'NUMBERS':>9} {'LARGEST ERROR':>14} {'OF TOLERANCE':>13}"]
        for (what, kind), largest in sorted(self.largest.items()):
            lines.append(f"{what:34} {kind:5} {largest.count:9} {largest.relative:14.1e} {largest.of_tolerance:13.2g}")
        lines += [f"left out {count} times: {what}" for what, count in sorted(self.skipped.items())]
        return "\n".join(lines)

    def add(self, other: Ledger) -> None:
        for key, theirs in other.largest.items():
            mine = self.largest.setdefault(key, Largest())
            mine.count += theirs.count
            mine.relative = max(mine.relative, theirs.relative)
            mine.of_tolerance = max(mine.of_tolerance, theirs.of_tolerance)
        for what, count in other.skipped.items():
            self.skipped[what] = self.skipped.get(what, 0) + count


def through(function: Callable[..., np.ndarray], values: Sequence[np.ndarray], tolerances: Sequence[Any],
            draws: int = 10) -> np.ndarray:
    """How far function(*values) moves at most when each value moves by up to its tolerance: twice the largest of some random
    directions, and what double precision does to the result itself. Without bound where something has no value there."""
    random = np.random.default_rng(4)
    base = function(*values)
    moved = np.zeros_like(base)
    for draw in range(draws):
        # Neighbours apart first: two logits that move together change nothing.
        signs = [(-1.0) ** np.arange(value.shape[-1]) * np.ones(value.shape) if draw == 0
                 else random.choice([-1.0, 1.0], value.shape) for value in values]
        parts = [value + tolerance * sign for value, tolerance, sign in zip(values, tolerances, signs)]
        with np.errstate(all="ignore"):
            difference = np.abs(function(*parts) - base)
        moved = np.maximum(moved, np.where(np.isfinite(difference), difference, np.inf))
    return 2 * moved + 1e-13 * (np.abs(base) + np.abs(base).max())
