"""What the sections of the report share: reading CSV files, tables in Markdown, verdicts, figures."""
import csv
import io
import math
import re
from collections import defaultdict
from dataclasses import dataclass, field

import matplotlib
from matplotlib.figure import Figure

matplotlib.use("svg")
# Okabe and Ito's colours, apart for every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#555555", "#000000")
matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "paper", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False, "legend.frameon": False, "figure.facecolor": "white"})  # fmt: skip
LARGEST_FIGURE = 60_000  # bytes


def read(path):
    """Rows as dicts, numbers as floats and empty fields as None; an empty list if the file is not there."""
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return [{key: _value(text) for key, text in row.items()} for row in csv.DictReader(file)]


def _value(text):
    if text in ("", None):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def settings(path):
    """key,value files as a dict of texts."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {row["key"]: row["value"] for row in csv.DictReader(file)}


def group(rows, *keys):
    """Rows by the values of keys, in order of appearance."""
    groups = defaultdict(list)
    for row in rows:
        groups[tuple(row[key] for key in keys)].append(row)
    return groups


def number(value, error=None, digits=3):
    """0.123 ± .004"""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:.{digits}g}" if abs(value) >= 1000 or (value != 0 and abs(value) < 0.001) else f"{value:.{digits}f}"
    return text if error is None or math.isnan(error) else f"{text} ± {error:.{digits}f}".replace("± 0.", "± .")


def table(header, rows):
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


@dataclass
class Claim:
    """What was claimed, and what the numbers say: a verdict per network with the numbers that it rests on."""

    text: str
    verdicts: list = field(default_factory=list)  # (network, verdict, because)

    def add(self, network, verdict, because):
        self.verdicts.append((network, verdict, because))


SHOWN, REFUTED, OPEN = "**shown**", "**refuted**", "not decided"


def larger(value, than, error):
    """SHOWN, REFUTED or OPEN: is value > than by two standard errors, < by two, or neither? OPEN without an error."""
    if error is None or math.isnan(error):
        return OPEN
    if value - than > 2 * error:
        return SHOWN
    return REFUTED if than - value > 2 * error else OPEN


def figure(columns, rows=1, width=3.4, height=2.7):
    drawing = Figure(figsize=(width * columns, height * rows), layout="constrained")
    return drawing, drawing.subplots(rows, columns, squeeze=False)


def _smaller(svg):
    """Without indentation, turns by nothing, names of groups and fonts, and digits that no screen shows."""
    svg = re.sub(r"^\s+", "", svg, flags=re.MULTILINE)
    svg = re.sub(r" transform=\"rotate\(-0 [^)]*\)\"", "", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*(sans-serif)?", "sans-serif", svg)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # no group is referred to
    svg = re.sub(r"(</?g>)\n", r"\1", svg)
    rounded = lambda text: re.sub(r"\d+\.\d{2,}", lambda digits: f"{float(digits[0]):.1f}", text)
    return re.sub(r'"[^"]*"', lambda attribute: rounded(attribute[0]), svg)


def save(drawing, path):
    text = io.StringIO()
    drawing.savefig(text, format="svg", metadata={"Date": None})
    path.write_text(_smaller(text.getvalue()))
    size = path.stat().st_size
    if size > LARGEST_FIGURE:
        raise SystemExit(f"{path}: {size} bytes, expected at most {LARGEST_FIGURE}; draw fewer points")
    return path.name
