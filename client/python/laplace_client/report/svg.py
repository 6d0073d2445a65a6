"""Matplotlib figures as SVG to stand in an HTML page, in the page's colours and letters.

Figures are drawn in the placeholder colours of `Ink`; `render` replaces each by a CSS variable that
the page's style sheet defines, once for light and once for dark.
"""

from __future__ import annotations

import io
import re
from typing import Any

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("svg")


class Ink:
    """Placeholder colours: what is drawn in them takes the colour of the CSS variable."""

    TEXT = "#010101"  # --text
    MUTED = "#020202"  # --muted: axes, reference lines
    GRID = "#030303"  # --grid
    PAPER = "#040404"  # --paper
    SERIES = ("#0a0101", "#0a0202", "#0a0303", "#0a0404", "#0a0505")  # --series-1 and so on


_VARIABLES = {
    Ink.TEXT: "--text",
    Ink.MUTED: "--muted",
    Ink.GRID: "--grid",
    Ink.PAPER: "--paper",
    **{color: f"--series-{i}" for i, color in enumerate(Ink.SERIES, 1)},
}

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.edgecolor": Ink.MUTED,
    "axes.labelcolor": Ink.TEXT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "none",
    "grid.color": Ink.GRID,
    "grid.linewidth": 0.8,
    "text.color": Ink.TEXT,
    "xtick.color": Ink.MUTED,
    "ytick.color": Ink.MUTED,
    "xtick.labelcolor": Ink.TEXT,
    "ytick.labelcolor": Ink.TEXT,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.0,
    "mathtext.default": "regular",
}


def style() -> Any:
    """Context in which figures are made and rendered."""
    return matplotlib.rc_context(_STYLE)


def new_figure(width: float, height: float) -> Figure:
    """Inches, 72 units of the SVG each."""
    return Figure(figsize=(width, height), layout="constrained")


def render(figure: Figure, key: str, title: str, description: str) -> str:
    """An <svg> element with a title and a description for those who do not see it.

    key: an identifier that no other figure of the page has; the same figure gives the same text.
    """
    out = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": key}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Identifiers such as axes_1 stand in every figure.
    text = re.sub(r' id="[A-Za-z0-9.]+_\d+"', "", text)
    text = re.sub(r"#[0-9a-f]{6}\b", _variable, text)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"\n\s*", "\n", text)
    view_box = re.search(r'viewBox="[^"]+"', text)
    if view_box is None:
        raise RuntimeError("matplotlib wrote an SVG without viewBox")
    body = text[text.index(">") + 1 :]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'{view_box[0]} role="img" '
        f'aria-labelledby="{key}-title {key}-description">'
        f'<title id="{key}-title">{escape(title)}</title>'
        f'<desc id="{key}-description">{escape(description)}</desc>{body}'
    )


def escape(text: str) -> str:
    """For HTML text and attributes in double quotes."""
    return (
        text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace('"', "&quot;")
    )


def _variable(match: re.Match[str]) -> str:
    name = _VARIABLES.get(match[0])
    return match[0] if name is None else f"var({name})"
