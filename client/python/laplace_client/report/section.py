"""Parts of the page, as values. Plain text; the page escapes it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """caption: what the rows are. text_columns: so many first columns hold words, not numbers."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    text_columns: int = 0


@dataclass(frozen=True)
class Section:
    """A figure with what it means and its numbers; or why there is none.

    key: identifier in the page. lead: how to read it. svg: one element; empty: `lead` says why not.
    """

    key: str
    title: str
    lead: str
    svg: str = ""
    tables: tuple[Table, ...] = ()


def number(value: float | None) -> str:
    """Four significant digits; "-" for what is not there."""
    if value is None or math.isnan(value):
        return "-"
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        digits = 4 if value == 0 else max(0, 3 - math.floor(math.log10(abs(value))))
        return f"{value:,.{min(digits, 6)}f}" if value else "0"
    return f"{value:.3e}"


def percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f} %"
