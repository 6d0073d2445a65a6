"""How the posterior does on data: calibration before and after, scores, and what they separate."""

from __future__ import annotations

from typing import Any, Sequence

import numpy as np
from matplotlib.ticker import PercentFormatter

from ..types import Model
from . import numbers
from .data import Evaluated
from .section import Section, Table, number, percent
from .svg import Ink, new_figure, render

ID_COLOR = Ink.SERIES[0]
OOD_COLORS = Ink.SERIES[1:]
_LINES = ("-", "--", "-.", ":")


def data_sections(
    model: Model, inside: Evaluated | None, outside: Sequence[Evaluated]
) -> list[Section]:
    """inside: in-distribution data, None if there are none. Under svg.style()."""
    return [reliability(model, inside), histograms(inside, outside), roc(inside, outside)]


def quality(model: Model, data: Evaluated) -> tuple[numbers.Quality, numbers.Quality] | None:
    """Before (plain network) and after (posterior); None without targets, and for regression."""
    if data.targets is None or not len(data):
        return None
    if model.likelihood == "categorical":
        return (
            numbers.categorical_quality(data.map_mean, data.targets),
            numbers.categorical_quality(data.mean, data.targets),
        )
    if model.likelihood == "bernoulli":
        return (
            numbers.bernoulli_quality(data.map_mean, data.targets),
            numbers.bernoulli_quality(data.mean, data.targets),
        )
    return None


def reliability(model: Model, inside: Evaluated | None) -> Section:
    key, title = "reliability", "Reliability before and after"
    if inside is None:
        why = "Needs in-distribution data with targets: --id INPUTS,TARGETS."
        return Section(key, title, why)
    if model.likelihood == "gaussian":
        why = "The model predicts numbers, not probabilities, which a reliability diagram is about."
        return Section(key, title, why)
    found = quality(model, inside)
    if found is None:
        return Section(key, title, "The in-distribution data have no targets: --id INPUTS,TARGETS.")
    figure = new_figure(8.2, 4.4)
    panels = figure.subplots(
        2, 2, sharex=True, sharey="row", gridspec_kw={"height_ratios": [3.2, 1]}
    )
    names = ("before: plain network", "after: posterior")
    for column, (name, value) in enumerate(zip(names, found)):
        _reliability_panel(panels[0, column], value.bins, f"{name}, ECE {value.ece:.4f}")
        _count_panel(panels[1, column], value.bins)
    bernoulli = model.likelihood == "bernoulli"
    panels[0, 0].set_ylabel("share with the label" if bernoulli else "accuracy")
    panels[1, 0].set_ylabel("share of rows" if not bernoulli else "share")
    for panel in panels[1]:
        panel.set_xlabel("stated probability" if bernoulli else "confidence")
    before, after = found
    lead = (
        "On the dashed line what is stated comes true as often as it says; below it the model is "
        f"too sure. {len(inside):,} rows of {inside.name}: ECE {before.ece:.4f} before and "
        f"{after.ece:.4f} after, NLL {before.nll:.4f} and {after.nll:.4f} nats. Error bars are one "
        "standard error."
    )
    if bernoulli:
        lead += " All labels stand in one diagram; the ECE is the mean over labels."
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (_quality_table(before, after), _bin_table(before.bins, after.bins)),
    )  # fmt: skip


def _reliability_panel(axes: Any, bins: numbers.Reliability, title: str) -> None:
    full = bins.counts > 0
    axes.plot([0, 1], [0, 1], ls="--", lw=1.2, color=Ink.MUTED)
    axes.vlines(
        bins.probability[full], bins.rate[full], bins.probability[full], color=OOD_COLORS[0], lw=4,
        alpha=0.35,
    )  # fmt: skip
    axes.errorbar(
        bins.probability[full], bins.rate[full], bins.standard_error[full], fmt="o-",
        color=ID_COLOR, elinewidth=1.2,
    )  # fmt: skip
    axes.set(xlim=(0, 1), ylim=(0, 1), title=title)


def _count_panel(axes: Any, bins: numbers.Reliability) -> None:
    width = float(bins.edges[1] - bins.edges[0])
    total = max(int(bins.counts.sum()), 1)
    axes.bar(
        bins.edges[:-1], bins.counts / total, width * 0.9, align="edge", color=ID_COLOR, alpha=0.6
    )
    axes.set(ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))


def _quality_table(before: numbers.Quality, after: numbers.Quality) -> Table:
    return Table(
        "Quality of the predictions",
        ("", "accuracy", "NLL, nats", "ECE"),
        tuple(
            (name, percent(q.accuracy), f"{q.nll:.4f}", f"{q.ece:.4f}")
            for name, q in (("before: plain network", before), ("after: posterior", after))
        ),
        1,
    )


def _bin_table(before: numbers.Reliability, after: numbers.Reliability) -> Table:
    rows = []
    for i in range(len(before.counts)):
        if before.counts[i] or after.counts[i]:
            cells = [f"{before.edges[i]:.3f} to {before.edges[i + 1]:.3f}"]
            for bins in (before, after):
                cells += [
                    f"{bins.counts[i]:,}",
                    percent(float(bins.probability[i])),
                    percent(float(bins.rate[i])),
                ]
            rows.append(tuple(cells))
    columns = ("bin", "rows before", "stated", "true", "rows after", "stated", "true")
    return Table("Bins that are not empty", columns, tuple(rows), 1)


def histograms(inside: Evaluated | None, outside: Sequence[Evaluated]) -> Section:
    key, title = "scores", "Scores and thresholds"
    sets = ([] if inside is None else [inside]) + list(outside)
    if not sets:
        return Section(key, title, "Needs data: --id INPUTS,TARGETS, and --ood NAME=INPUTS.")
    scores = list(sets[0].scores)
    if not scores:
        return Section(
            key, title, "This posterior can give no score of the ones that were asked for."
        )
    n_rows = (len(scores) + 1) // 2
    height = 0.5 + 2.5 * n_rows
    figure = new_figure(8.2, height)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.35 / height))  # the legend is above
    panels = figure.subplots(n_rows, min(2, len(scores)), squeeze=False).ravel()
    for panel in panels[len(scores) :]:
        panel.set_axis_off()
    for score, panel in zip(scores, panels):
        threshold = sets[0].thresholds.get(score)
        edges = numbers.histogram_edges([s.scores[score] for s in sets], threshold)
        for data, color, line in zip(sets, *_looks(inside is not None, len(sets))):
            panel.stairs(
                numbers.shares(data.scores[score], edges), edges, color=color, ls=line, lw=1.6,
                label=data.name,
            )  # fmt: skip
            panel.stairs(
                numbers.shares(data.scores[score], edges), edges, color=color, fill=True, alpha=0.15
            )
        if threshold is not None:
            panel.axvline(threshold, color=Ink.TEXT, lw=1.3, label="threshold")
        panel.set(title=score, xlim=(edges[0], edges[-1]), ylim=(0, None))
        panel.yaxis.set_major_formatter(PercentFormatter(1.0, 0))
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="upper center", ncols=len(labels))
    figure.supylabel("share of rows", fontsize=10)
    lead = (
        "Larger is stranger. What lies right of the threshold is flagged; the threshold comes from "
        "the calibration data of the posterior, not from these. Values beyond the axis count in "
        "its last bins."
    )
    rows = []
    for score in scores:
        threshold = sets[0].thresholds.get(score)
        for data in sets:
            values = data.scores[score]
            flagged = float("nan") if threshold is None else float((values > threshold).mean())
            low, middle, high = (float(q) for q in np.quantile(values, [0.05, 0.5, 0.95]))
            rows.append(
                (score, data.name, f"{len(values):,}", number(low), number(middle), number(high),
                 number(threshold), percent(flagged))
            )  # fmt: skip
    columns = ("score", "data", "rows", "5 %", "median", "95 %", "threshold", "flagged")
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (Table("Scores of each data set", columns, tuple(rows), 2),),
    )  # fmt: skip


def _looks(has_inside: bool, size: int) -> tuple[list[str], list[str]]:
    colors = [ID_COLOR] * has_inside + [OOD_COLORS[i % len(OOD_COLORS)] for i in range(size)]
    lines = ["-"] * has_inside + [_LINES[(i + 1) % len(_LINES)] for i in range(size)]
    return colors[:size], lines[:size]


def roc(inside: Evaluated | None, outside: Sequence[Evaluated]) -> Section:
    key, title = "roc", "ROC curves"
    if inside is None or not outside:
        return Section(
            key,
            title,
            "Needs in- and out-of-distribution data: --id INPUTS, and --ood NAME=INPUTS.",
        )
    scores = list(inside.scores)
    if not scores:
        return Section(
            key, title, "This posterior can give no score of the ones that were asked for."
        )
    alone = len(outside) == 1
    n_rows = (len(outside) + 1) // 2
    figure = new_figure(8.2, 0.4 + 3.6 * n_rows)
    panels = figure.subplots(
        n_rows, 1 if alone else 2, squeeze=False, sharex=True, sharey=True
    ).ravel()
    for panel in panels[len(outside) :]:
        panel.set_axis_off()
    rows, areas = [], []
    for data, panel in zip(outside, panels):
        panel.plot([0, 1], [0, 1], color=Ink.MUTED, ls=":", lw=1.2)
        known = []
        for i, score in enumerate(scores):
            pair = inside.scores[score], data.scores[score]
            area = numbers.auroc(*pair)
            false, true = numbers.thin(*numbers.roc(*pair), 200)
            panel.plot(
                false, true, color=Ink.SERIES[i % len(Ink.SERIES)], ls=_LINES[i % len(_LINES)],
                label=f"{score} {area:.3f}",
            )  # fmt: skip
            rows.append((data.name, score, f"{area:.4f}", percent(numbers.fpr_at_95(*pair))))
            known.append(f"{score} {area:.3f}")
        areas.append(f"AUROC on {data.name}: {', '.join(known)}.")
        panel.set(
            title=f"{inside.name} against {data.name}", xlabel=f"share of {inside.name} flagged",
            ylabel=f"share of {data.name} flagged", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01),
        )  # fmt: skip
        panel.set_aspect("equal")
        place = (
            {"loc": "center left", "bbox_to_anchor": (1.02, 0.5)}
            if alone
            else {"loc": "lower right"}
        )
        panel.legend(title="AUROC", title_fontsize=9, alignment="left", **place)
    lead = (
        "Every threshold of a score flags a share of both data sets; the further up and left the "
        f"curve, the better. {' '.join(areas)}"
    )
    columns = ("data", "score", "AUROC", "FPR at 95 % TPR")
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (Table("Detection of each data set; OOD is the positive", columns, tuple(rows), 2),),
    )  # fmt: skip
