"""The sections of the report on curvature, slopes and conjugate gradients of mini-batches (C1 to C7), from the files of
paper_curvature."""
import math

import numpy as np

from report_parts import COLOURS, OPEN, REFUTED, SHOWN, Claim, figure, group, larger, number, read, save, settings, table

CLAIMS = {
    "top": "Curvature along the first direction of a batch, measured on that batch, is too large",
    "tail": "... and along the last directions that were computed, too small",
    "gone": "On an independent batch it is right (95 % of ratios within two standard errors of 1 would be chance alone)",
    "relative_sd": "Its relative standard deviation falls as 1 / sqrt(|B2|)",
    "slopes": "Slopes along the directions of conjugate gradients are too steep on their own batch",
    "slopes_gone": "... and right on an independent batch",
    "cg": "Undamped, debiased conjugate gradients end with a lower true loss than those of one batch of |B1|",
    "cg_budget": "... and than those of one batch of |B1| + |B2| (equal budget)",
    "cg_damped": "With the largest damping debiasing brings nothing over equal budget",
}


def claims():
    return {key: Claim(text) for key, text in CLAIMS.items()}


def _ratio_lines(axis, rows, colour, style, label):
    index, ratio, error = (np.array([r[k] if r[k] is not None else np.nan for r in rows]) for k in ("index", "ratio", "ratio_se"))
    axis.errorbar(index, ratio, error, color=colour, linestyle=style, marker=".", linewidth=1.1, capsize=0, label=label)


def _with_error_of_d(rows, folder):
    """Adds "error" to each row: that of the repetitions, and that of D, which is the same in all of them and so does not show
    in ratio_se. Where on_d_se is not known, the scatter of one example (c3) and the size of D give it."""
    d_size = float(settings(folder / "settings.csv").get("d_size", "inf"))
    of_one = {(r["b1"], r["index"]): r["predicted"] * math.sqrt(r["b2"]) for r in read(folder / "c3_relative_sd.csv") if r["predicted"]}
    for row in rows:
        if row.get("on_d_se") is not None and row["on_d"]:
            relative = row["on_d_se"] / abs(row["on_d"])
        else:
            relative = of_one.get((row["b1"], row["index"]), 0.0) / math.sqrt(d_size)
        row["error"] = None if row["ratio_se"] is None else math.hypot(row["ratio_se"], row["ratio"] * relative)
    return rows


def _bias(folder, network, claims):
    biased = _with_error_of_d(read(folder / "c1_bias_ratio.csv"), folder)
    debiased = _with_error_of_d(read(folder / "c2_debiased_ratio.csv"), folder)
    if not biased:
        return []
    drawing, axes = figure(2, width=4.2)
    for axis, rows, title in ((axes[0][0], biased, "measured on B1 itself"), (axes[0][1], debiased, "measured on an independent B2")):
        for colour, ((b1,), of_b1) in zip(COLOURS, group(rows, "b1").items()):
            _ratio_lines(axis, of_b1, colour, "-", f"|B1| = {b1:.0f}")
        axis.axhline(1, color="#999999", linewidth=0.8)
        axis.set(title=title, xlabel="index of the direction", xscale="log", yscale="log")
    axes[0][0].set_ylabel("curvature / curvature on D")
    axes[0][0].legend()
    picture = save(drawing, folder / "bias.svg")

    for (b1,), rows in group(biased, "b1").items():
        first, last = rows[0], rows[-1]
        claims["top"].add(network, larger(first["ratio"], 1, first["error"]), f"|B1| = {b1:.0f}: {number(first['ratio'], first['error'], 2)}")
        verdict = {SHOWN: REFUTED, REFUTED: SHOWN}.get(larger(last["ratio"], 1, last["error"]), OPEN)
        claims["tail"].add(network, verdict, f"|B1| = {b1:.0f}, i = {last['index']:.0f}: {number(last['ratio'], last['error'], 2)}")
    judged = [r for r in debiased if r["error"]]
    if judged:
        inside = np.mean([abs(r["ratio"] - 1) <= 2 * r["error"] for r in judged])
        above, below = (np.mean([sign * (r["ratio"] - 1) > 2 * r["error"] for r in judged]) for sign in (1, -1))
        verdict = SHOWN if inside >= 0.8 else REFUTED if above > 0.5 or below > 0.5 else OPEN
        middle = float(np.median([r["ratio"] for r in judged]))
        claims["gone"].add(network, verdict, f"{100 * inside:.0f} % of {len(judged)} within two standard errors, median ratio {middle:.2f}; directions of a "
                           "repetition share B2, and all of them D")  # fmt: skip

    indices = sorted({r["index"] for r in biased})
    shown = [i for i in indices if i in (1, 2, 3, 5, 10, 20, 30, 50)] or indices
    cells = lambda rows: [next((number(r["ratio"], r["ratio_se"], 2) for r in rows if r["index"] == i), "") for i in shown]
    lines = [[f"{b1:.0f}", f"B{which}", *cells(rows)] for which, all_rows in ((1, biased), (2, debiased)) for (b1,), rows in group(all_rows, "b1").items()]
    return [
        "Curvature along direction i of B1, over that on D (C1: on B1; C2: on an independent B2). 1 is right. Errors here are over repetitions; the "
        "verdicts above add that of D, which is finite too.",
        table(["\\|B1\\|", "measured on", *(f"i = {i:.0f}" for i in shown)], sorted(lines, key=lambda line: float(line[0]))),
        f"![Bias ratio by index]({folder.name}/{picture})",
    ]


def _scatter_and_overlap(folder, network, claims):
    scatter, overlap = read(folder / "c3_relative_sd.csv"), read(folder / "c4_overlap.csv")
    if not scatter or not overlap:
        return []
    drawing, axes = figure(2, width=4.2)
    smallest = min(r["b1"] for r in scatter)
    observed, predicted = [], []
    few = [key for key in group(scatter, "b1", "index") if key[0] == smallest][:: max(1, len({r["index"] for r in scatter}) // 4)][:5]
    for colour, key in zip(COLOURS, few):
        rows = group(scatter, "b1", "index")[key]
        b2 = [r["b2"] for r in rows]
        axes[0][0].plot(b2, [r["relative_sd"] for r in rows], "o", color=colour, markersize=3.5, label=f"i = {key[1]:.0f}")
        axes[0][0].plot(b2, [r["predicted"] for r in rows], "-", color=colour, linewidth=0.9)
    axes[0][0].set(xscale="log", yscale="log", xlabel="|B2|", title=f"relative sd of curvature (points) and\nsd of one example / sqrt(|B2|) (lines), |B1| = {smallest:.0f}")
    axes[0][0].legend(fontsize=8)
    for row in scatter:
        if row["relative_sd"] and row["predicted"]:
            observed.append(math.log(row["relative_sd"]))
            predicted.append(math.log(row["predicted"]))
    for colour, ((batch,), rows) in zip(COLOURS, group(overlap, "batch").items()):
        axes[0][1].errorbar([r["k"] for r in rows], [r["overlap"] for r in rows], [r["overlap_se"] or 0 for r in rows], color=colour, marker=".",
                            linewidth=1.1, capsize=0, label=f"batches of {batch:.0f}")  # fmt: skip
    axes[0][1].set(xlabel="k", ylim=(0, 1), title="overlap of the first k directions\nof two independent batches")
    axes[0][1].legend(fontsize=8)
    picture = save(drawing, folder / "scatter_overlap.svg")
    factor = math.exp(float(np.mean(np.array(observed) - np.array(predicted))))
    claims["relative_sd"].add(network, SHOWN if 0.75 < factor < 1.33 else REFUTED, f"observed / predicted, geometric mean of {len(observed)}: {factor:.2f}")
    return ["Scatter of the debiased curvature (C3) and overlap of subspaces (C4; 1 is the same space).", f"![Scatter and overlap]({folder.name}/{picture})"]


def _slopes(folder, network, claims):
    rows = read(folder / "c5_slope_ratio.csv")
    if not rows:
        return []
    # True slopes may be nearly nothing, and ratios to them nonsense: a ratio counts if its error is below half of itself, or of 1.
    for (checkpoint, b1), of_b1 in group(rows, "checkpoint", "b1").items():
        for key, name in (("slopes", "biased"), ("slopes_gone", "debiased")):
            known = lambda r: r[f"{name}_ratio_se"] is not None and r[f"{name}_ratio_se"] < 0.5 * max(1, abs(r[f"{name}_ratio"]))
            later = [r for r in of_b1 if known(r)]
            where = f"{checkpoint}, |B1| = {b1:.0f}"
            if not later:
                claims[key].add(network, OPEN, f"{where}: no ratio is known well enough")
                continue
            apart = [(r[f"{name}_ratio"] - 1) / r[f"{name}_ratio_se"] for r in later]
            share = np.mean([a > 2 for a in apart]) if key == "slopes" else np.mean([abs(a) <= 2 for a in apart])
            verdict = SHOWN if share > (0.5 if key == "slopes" else 0.8) else OPEN
            what = "above 1 by more than" if key == "slopes" else "of 1 within"
            claims[key].add(network, verdict, f"{where}: {100 * share:.0f} % of {len(later)} ratios that are known {what} two standard errors")
    steps = sorted({r["step"] for r in rows})
    shown = steps[:: max(1, len(steps) // 8)]
    lines = []
    for (checkpoint, b1), of_b1 in group(rows, "checkpoint", "b1").items():
        by_step = {r["step"]: r for r in of_b1}
        for name, on in (("biased", "B1"), ("debiased", "B2")):
            cell = lambda r: number(r[f"{name}_ratio"], r[f"{name}_ratio_se"], 2)
            lines.append([checkpoint, f"{b1:.0f}", on, *(cell(by_step[s]) if s in by_step else "" for s in shown)])
    return ["Slope at the checkpoint along direction k of conjugate gradients on B1, over that on D (C5). Where the network is trained, true slopes are nearly 0.",
            table(["checkpoint", "\\|B1\\|", "measured on", *(f"k = {s:.0f}" for s in shown)], lines)]  # fmt: skip


def _cuts(folder, network):
    rows = read(folder / "c6_quadratics.csv")
    if not rows:
        return []
    b1, seed = rows[0]["b1"], rows[0]["seed"]
    chosen = {r["measured_on"]: r for r in rows if r["b1"] == b1 and r["seed"] == seed}
    cut = [r for r in read(folder / "c6_cut.csv") if r["b1"] == b1 and r["seed"] == seed]
    reach_a, reach_b = (max((abs(r[k]) for r in cut), default=1.0) for k in ("a", "b"))
    drawing, axes = figure(3)
    grid = np.linspace(-1, 1, 41)
    a, b = np.meshgrid(reach_a * grid, reach_b * grid)
    surfaces = {on: r["loss"] + a * r["slope1"] + b * r["slope2"] + (a * a * r["c11"] + 2 * a * b * r["c12"] + b * b * r["c22"]) / 2 for on, r in chosen.items()}
    lowest = min(s.min() for s in surfaces.values())
    levels = lowest + np.geomspace(0.1 * np.ptp(surfaces.get("d", a)), max(s.max() for s in surfaces.values()) - lowest, 9)
    titles = {"b1": "B1, which chose the directions", "b2": "independent B2", "d": "D"}
    for axis, (on, surface) in zip(axes[0], surfaces.items()):
        axis.contour(a, b, surface, levels=levels, colors=COLOURS[0], linewidths=0.9)
        axis.plot(0, 0, "x", color=COLOURS[1])
        axis.set(title=f"quadratic of {titles[on]}", xlabel="along u1", ylabel="along u2")
    picture = save(drawing, folder / "cuts.svg")
    return [f"The quadratics on the plane of the first two directions (C6; |B1| = {b1:.0f}, one repetition; the same levels, in equal factors, in all three).",
            f"![Cuts]({folder.name}/{picture})"]  # fmt: skip


def _cg(folder, network, claims):
    rows = read(folder / "c7_cg_curves.csv")
    if not rows:
        return []
    panels = group(rows, "checkpoint", "damping")
    columns = min(3, len(panels))
    drawing, axes = figure(columns, -(-len(panels) // columns))
    lines = []
    for axis, ((checkpoint, damping), of_panel) in zip(axes.flat, panels.items()):
        variants = group(of_panel, "variant")
        start = of_panel[0]["loss_d"]
        for colour, ((variant,), curve) in zip(COLOURS, variants.items()):
            axis.errorbar([r["step"] for r in curve], [r["loss_d"] for r in curve], [r["loss_d_se"] or 0 for r in curve], color=colour, linewidth=1.1,
                          capsize=0, label=variant.replace("_", " "))  # fmt: skip
        axis.axhline(start, color="#999999", linewidth=0.8)
        axis.set(title=f"{checkpoint}, damping {damping:g}", xlabel="step", ylim=(0, min(max(r["loss_d"] for r in of_panel) * 1.05, 4 * start)))
        ends = {variant: curve[-1] for (variant,), curve in variants.items()}
        lines.append([checkpoint, f"{damping:g}", number(start), *(number(ends[v]["loss_d"], ends[v]["loss_d_se"]) if v in ends else "" for v in
                                                                   ("single", "equal_budget", "debiased", "oracle"))])  # fmt: skip
        _judge_cg(network, claims, checkpoint, damping, max(p[1] for p in panels), ends)
    axes[0][0].set_ylabel("loss on D")
    axes[0][0].legend(fontsize=8)
    picture = save(drawing, folder / "cg.svg")
    last = max(r["step"] for r in rows)
    return [f"Loss on D along conjugate gradients, and at step {last:.0f} (C7; |B1| = {rows[0]['b1']:.0f}, |B2| = {max(row['b2'] for row in rows):.0f}).",
            table(["checkpoint", "damping", "start", "single", "equal budget", "**debiased**", "oracle"], lines), f"![Conjugate gradients]({folder.name}/{picture})"]  # fmt: skip


def _judge_cg(network, claims, checkpoint, damping, largest, ends):
    def lower(key, worse):
        if "debiased" not in ends or worse not in ends:
            return None
        difference = ends[worse]["loss_d"] - ends["debiased"]["loss_d"]
        error = math.hypot(ends[worse]["loss_d_se"] or math.nan, ends["debiased"]["loss_d_se"] or math.nan)
        where = f"{checkpoint}: {'lower' if difference >= 0 else 'higher'} by {number(abs(difference), error)}"
        return larger(difference, 0, error), where

    if damping == 0:
        for key, worse in (("cg", "single"), ("cg_budget", "equal_budget")):
            found = lower(key, worse)
            if found:
                claims[key].add(network, *found)
    if damping == largest and damping > 0:
        found = lower("cg_damped", "equal_budget")
        if found:
            verdict = {SHOWN: REFUTED, REFUTED: SHOWN}.get(found[0], SHOWN)
            claims["cg_damped"].add(network, verdict, f"damping {damping:g}, {found[1]}")


def section(folder, network, claims):
    """Markdown of a network's results in `folder`, where its figures go too; "" if there are none. Adds verdicts to claims."""
    parts = [*_bias(folder, network, claims), *_scatter_and_overlap(folder, network, claims), *_cuts(folder, network), *_slopes(folder, network, claims),
             *_cg(folder, network, claims)]  # fmt: skip
    if not parts:
        return ""
    chosen = settings(folder / "settings.csv")
    words = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in chosen.items() if key != "network")
    return "\n\n".join([f"### {network}: curvature, slopes, conjugate gradients (C1 to C7)", f"Settings: {words}.", *parts])
