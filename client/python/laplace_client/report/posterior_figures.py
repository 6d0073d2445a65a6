"""What the posterior itself shows: its curvature, what that leaves over, its prior precision."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..types import Model, Posterior, PriorCandidate
from . import numbers
from .section import Section, Table, number, percent
from .svg import Ink, new_figure, render

BIASED, DEBIASED = Ink.SERIES[1], Ink.SERIES[0]


def posterior_sections(model: Model, posterior: Posterior) -> list[Section]:
    """Under svg.style()."""
    return [
        spectrum(posterior),
        bias_by_block(posterior) if posterior.options.structure == "kfac" else bias(posterior),
        residual(posterior),
        prior_precision(model, posterior),
    ]


_CROSS_FIT = (
    " Cross-fit: first the directions of one batch, then those of the other, each measured on the "
    "batch that did not choose it."
)


_NOT_DEBIASED = (
    " come from the same batch (debiasing none), so there is no unbiased value to compare with. "
    "Fit with debiasing two_batch to see the bias."
)


def _has_bias(posterior: Posterior) -> bool:
    return (
        len(posterior.biased_eigenvalues) == len(posterior.eigenvalues) > 0
        and posterior.options.debiasing != "none"
    )


def spectrum(posterior: Posterior) -> Section:
    key, title = "spectrum", "Curvature along the directions"
    values, biased = posterior.eigenvalues, posterior.biased_eigenvalues
    if not len(values):
        why = (
            "K-FAC keeps a curvature for each pair of eigenvectors of every block, not a list of "
            "directions, so there is no spectrum to draw."
            if posterior.options.structure == "kfac"
            else "This posterior has no directions, so there is no spectrum to draw."
        )
        return Section(key, title, why)
    index = np.arange(1, len(values) + 1)
    errors = posterior.standard_errors if len(posterior.standard_errors) == len(values) else None
    has_biased = _has_bias(posterior)
    figure = new_figure(8.2, 3.6)
    axes = figure.add_subplot()
    if has_biased:
        axes.plot(
            index, biased, "o", color=BIASED, mfc="none", label="biased: batch that chose them"
        )
    label = "debiased: independent data" if has_biased else "curvature"
    axes.errorbar(
        index, values, errors, fmt="s", ms=3.5, color=DEBIASED, elinewidth=1.2,
        label=label + ("" if errors is None else " (± standard error)"),
    )  # fmt: skip
    shown = np.concatenate([values, biased] if has_biased else [values])
    if (shown > 0).any():
        axes.set_yscale("log", nonpositive="clip")
        # An error bar that reaches zero would stretch a logarithmic axis without end.
        axes.set_ylim(bottom=max(0.6 * shown[shown > 0].min(), 1e-6 * shown.max()))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="direction", ylabel="curvature of the mean loss")
    axes.legend(loc="best")
    zero = int((values <= 0).sum())
    lead = (
        "Each direction was chosen where one mini-batch is curved most, which overstates its "
        "curvature on that batch. The posterior uses the debiased values."
        if has_biased
        else "Eigenvalues of the curvature."
        if posterior.options.structure == "last_layer"
        else "Curvature on the batch that chose the directions; this fit was not debiased."
    )
    if posterior.options.debiasing == "cross_fit":
        lead += _CROSS_FIT
    if zero:
        lead += f" {zero} directions without curvature above zero have no mark for it."
    columns = ["direction"] + ["biased"] * has_biased + ["debiased" if has_biased else "curvature"]
    columns += [] if errors is None else ["standard error"]
    cells = [biased] * has_biased + [values] + ([] if errors is None else [errors])
    rows = tuple(
        (str(i + 1), *(number(float(column[i])) for column in cells)) for i in range(len(values))
    )
    description = (
        f"{len(values)} directions; curvature from {number(float(values.max()))} to "
        f"{number(float(values.min()))}."
    )
    return Section(
        key, title, lead, render(figure, key, title, description),
        (Table("Curvature of each direction", tuple(columns), rows),),
    )  # fmt: skip


def bias(posterior: Posterior) -> Section:
    key, title = "bias", "Bias ratio by direction"
    if not _has_bias(posterior):
        why = {
            "last_layer": "The last layer's curvature is exact over all training data: no batch "
            "chose anything, so there is no bias to show.",
        }.get(
            posterior.options.structure,
            "Directions and curvature" + _NOT_DEBIASED,
        )
        return Section(key, title, why)
    values = posterior.eigenvalues
    errors = posterior.standard_errors if len(posterior.standard_errors) == len(values) else None
    found = numbers.bias_ratio(posterior.biased_eigenvalues, values, errors)
    index = np.arange(1, len(values) + 1)
    figure = new_figure(8.2, 3.0)
    axes = figure.add_subplot()
    axes.axhline(1, color=Ink.MUTED, ls="--", lw=1.2)
    axes.errorbar(
        index, found.ratio, None if errors is None else found.standard_error, fmt="o", ms=4,
        color=BIASED, elinewidth=1.2,
    )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    axes.set(xlabel="direction", ylabel="biased / debiased")
    beyond = _limit_ratio(axes, found.ratio)
    known = found.ratio[np.isfinite(found.ratio)]
    middle = float(np.median(known)) if len(known) else float("nan")
    lead = (
        f"Above 1 (dashed) the batch that chose a direction overstates its curvature. Median "
        f"{number(middle)}; ratio of the sums {number(found.of_sums)}."
    )
    if beyond:
        lead += f" {beyond} directions with almost no curvature lie above the axis."
    if posterior.options.debiasing == "cross_fit":
        lead += _CROSS_FIT
    rows = tuple(
        (str(i + 1), number(float(found.ratio[i])), number(float(found.standard_error[i])))
        for i in range(len(values))
    )
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (Table("Bias ratio of each direction", ("direction", "ratio", "standard error"), rows),),
    )  # fmt: skip


def _limit_ratio(axes: Any, ratio: numbers.Array) -> int:
    """A few directions of almost no curvature must not squeeze all others into a line.

    Returns how many ratios are beyond the axis.
    """
    known = ratio[np.isfinite(ratio)]
    if not len(known):
        return 0
    top = max(1.0, float(min(known.max(), 4 * np.quantile(known, 0.9))))
    low = min(1.0, float(known.min()))
    margin = 0.12 * max(top - low, 0.2)
    axes.set_ylim(max(0.0, low - margin), top + 2 * margin)
    return int((known > top + 2 * margin).sum())


def bias_by_block(posterior: Posterior) -> Section:
    key, title = "bias", "Bias ratio by parameter"
    blocks = posterior.blocks
    if posterior.options.debiasing == "none" or not any(b.biased_sum > 0 for b in blocks):
        return Section(
            key, title,
            "Eigenbases and eigenvalues" + _NOT_DEBIASED,
        )  # fmt: skip
    biased = np.array([b.biased_sum for b in blocks])
    debiased = np.array([b.debiased_sum for b in blocks])
    found = numbers.bias_ratio(biased, debiased)
    figure = new_figure(8.2, 0.9 + 0.24 * len(blocks))
    axes = figure.add_subplot()
    position = np.arange(len(blocks))
    axes.axvline(1, color=Ink.MUTED, ls="--", lw=1.2)
    axes.plot(found.ratio, position, "o", color=BIASED)
    axes.set_yticks(position, [_short(b.name) for b in blocks])
    axes.set_ylim(len(blocks) - 0.4, -0.6)
    axes.set(xlabel="sum of the eigenvalues, biased / debiased")
    lead = (
        "Above 1 (dashed) the batch that chose a block's eigenvectors overstates its curvature. "
        f"Ratio of the sums over all blocks {number(found.of_sums)}."
    )
    rows = tuple(
        (b.name, b.kind, f"{b.n_parameters:,}", number(b.biased_sum), number(b.debiased_sum),
         number(float(r)))
        for b, r in zip(blocks, found.ratio)
    )  # fmt: skip
    columns = ("parameter", "block", "parameters", "biased sum", "debiased sum", "ratio")
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (Table("Bias ratio of each block", columns, rows, 2),),
    )  # fmt: skip


def _short(name: str, size: int = 34) -> str:
    return name if len(name) <= size else "..." + name[3 - size :]


def residual(posterior: Posterior) -> Section:
    key, title = "residual", "Residual share by layer"
    options = posterior.options
    overall = (
        f" The directions leave over {percent(posterior.residual_share)} of the trace, "
        f"{number(posterior.trace)} in all."
    )
    if options.structure != "low_rank":
        name = "K-FAC" if options.structure == "kfac" else "A last-layer posterior"
        return Section(
            key, title,
            f"{name} has the curvature of whole blocks, not of some directions, so nothing is left "
            "over.",
        )  # fmt: skip
    if options.residual == "none":
        return Section(
            key, title,
            "This posterior has no residual (residual none): outside its directions there is only "
            "the prior, and what a layer leaves over was not measured." + overall,
        )  # fmt: skip
    if options.residual == "isotropic":
        return Section(
            key, title,
            "An isotropic residual spreads what is left over evenly over all parameters, so it was "
            "not measured for each layer. Fit with residual layerwise to see it." + overall,
        )  # fmt: skip
    layers = numbers.residual_by_layer(posterior.blocks)
    if not any(layer.trace > 0 for layer in layers):
        return Section(key, title, "No layer has curvature, so there is nothing to share.")
    figure = new_figure(8.2, 0.9 + 0.24 * len(layers))
    axes = figure.add_subplot()
    position = np.arange(len(layers))
    axes.barh(position, [layer.share for layer in layers], 0.68, color=DEBIASED)
    axes.axvline(posterior.residual_share, color=Ink.TEXT, ls="--", lw=1.2)
    axes.set_yticks(position, [_short(layer.layer) for layer in layers])
    axes.set_ylim(len(layers) - 0.4, -0.6)
    axes.set(xlim=(0, 1), xlabel="share of the layer's curvature that the directions leave over")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.yaxis.grid(False)
    lead = (
        "A layer with a large share is certain or uncertain mostly through the residual, not "
        "through the directions. Dashed: all layers together." + overall
    )
    rows = tuple(
        (layer.layer, f"{layer.n_parameters:,}", number(layer.trace), number(layer.residual),
         percent(layer.share))
        for layer in layers
    )  # fmt: skip
    columns = ("layer", "parameters", "trace", "left over", "share")
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (Table("Curvature and residual of each layer", columns, rows, 1),),
    )  # fmt: skip


_METHODS = {
    "given": "It was given.",
    "weight_decay": "It is n_data * weight_decay of the training.",
    "evidence": "It maximises the log marginal likelihood.",
    "validation": "It minimises the validation NLL over the grid.",
}


def prior_precision(model: Model, posterior: Posterior) -> Section:
    key, title = "prior", "Prior precision"
    chosen = posterior.prior_precision
    how = (
        f"Predictions use {number(chosen)}. {_METHODS.get(posterior.options.prior_method, '')} "
        f"Scores use {number(posterior.ood_prior_precision)}."
    )
    if not posterior.prior_candidates:
        return Section(key, title, "This posterior keeps no candidates to draw a curve of. " + how)
    grid, steps = numbers.split_candidates(posterior.prior_candidates)
    validated = [c for c in grid if c.validation_nll != 0]
    n_panels = 2 if validated else 1
    figure = new_figure(8.2, 1.0 + 2.2 * n_panels)
    panels = figure.subplots(n_panels, 1, sharex=True, squeeze=False)[:, 0]
    if validated:
        panels[0].plot(
            [c.prior_precision for c in validated], [c.validation_nll for c in validated],
            "-", color=DEBIASED, label="under the posterior",
        )  # fmt: skip
        if posterior.validation_nll_map != 0:
            panels[0].axhline(
                posterior.validation_nll_map, color=Ink.MUTED, ls=":", lw=1.6, label="plain network"
            )
        panels[0].set(ylabel="validation NLL, nats")
    evidence = panels[-1]
    n = max(posterior.n_data, 1)
    evidence.plot(
        [c.prior_precision for c in grid], [c.log_marginal_likelihood / n for c in grid],
        "-", color=BIASED, label="log marginal likelihood",
    )  # fmt: skip
    if steps:
        evidence.plot(
            [c.prior_precision for c in steps], [c.log_marginal_likelihood / n for c in steps],
            "o", color=BIASED, mfc="none", label="steps of the fixed point",
        )  # fmt: skip
    _limit_evidence(evidence, [c.log_marginal_likelihood / n for c in grid])
    evidence.set(xlabel="prior precision", ylabel="evidence,\nnats per example")
    for panel in panels:
        panel.set_xscale("log")
        panel.minorticks_off()
        panel.axvline(chosen, color=Ink.TEXT, lw=1.3, label=f"chosen: {number(chosen)}")
        if posterior.ood_prior_precision not in (0, chosen):
            panel.axvline(
                posterior.ood_prior_precision, color=Ink.TEXT, ls="--", lw=1.2,
                label=f"for scores: {number(posterior.ood_prior_precision)}",
            )  # fmt: skip
        panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    lead = "Small precisions allow much uncertainty, large ones none"
    lead += f"{': there the NLL meets the plain network' if validated else ''}. {how}"
    decay = model.n_data * model.weight_decay
    if decay > 0:
        lead += f" The weight decay of the training means {number(decay)}."
    if not validated:
        lead += " There was no validation data, so only the evidence is drawn."
    return Section(
        key, title, lead, render(figure, key, title, lead),
        (_candidate_table(grid, steps, chosen, bool(validated)),),
    )  # fmt: skip


def _limit_evidence(axes: Any, values: list[float]) -> None:
    """The evidence falls without end on one side; what is far below its best is cut off."""
    best, middle = max(values), float(np.median(values))
    if best > middle:
        low = max(min(values), best - 2.5 * (best - middle))
        margin = 0.08 * (best - low)
        axes.set_ylim(low - margin, best + margin)


def _candidate_table(
    grid: list[PriorCandidate], steps: list[PriorCandidate], chosen: float, validated: bool
) -> Table:
    rows = [(c, "chosen" if np.isclose(c.prior_precision, chosen, rtol=1e-9) else "") for c in grid]
    rows += [(c, f"step {i}") for i, c in enumerate(steps, 1)]
    columns = ("prior precision",) + ("validation NLL",) * validated + ("evidence", "note")
    cells = tuple(
        (
            number(c.prior_precision),
            *((number(c.validation_nll or None),) if validated else ()),
            f"{c.log_marginal_likelihood:,.1f}",
            note,
        )
        for c, note in rows
    )
    return Table("Candidates, nats (evidence of all examples)", columns, cells)
