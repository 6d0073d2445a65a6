#!/usr/bin/env python3
"""Draws figures from the CSV files of the experiments and writes a report in Markdown.

    /usr/bin/python3 tests/bench/paper/report.py tests/bench/paper/results

RESULTS/NETWORK/ holds what paper_curvature and under_corruption.py wrote for a network, RESULTS/training/RUN/ what
train_all_cnn_c.py did in each run. Writes RESULTS/report.md, and figures (SVG) beside the files they come from. What is not there is said
to be missing. Verdicts follow from the numbers by one rule: a difference counts if it is larger than two standard errors.
"""
import argparse
import os
import pathlib
import platform

import report_corruption
import report_curvature
from report_parts import COLOURS, figure, read, save, table
from revision import commit


def machine():
    """Processor and number of cores, and who made them; not the machine's name."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    except OSError:
        pass
    return f"{len(os.sched_getaffinity(0))} cores of {model}"


def claims_table(claims):
    rows = []
    for claim in claims:
        by_verdict = {}
        for network, verdict, because in claim.verdicts:
            by_verdict.setdefault((network, verdict), []).append(because)
        words = "<br>".join(f"{network}: {verdict} ({'; '.join(because)})" for (network, verdict), because in by_verdict.items())
        rows.append([cell.replace("|", "\\|") for cell in (claim.text, words or "not measured")])
    return table(["claim", "what the numbers say"], rows)


def training(folder):
    """Of the runs of train_all_cnn_c.py in `folder`: what they reached, and their curves in one figure."""
    runs = {path.parent.name: read(path) for path in sorted(folder.glob("*/metrics.csv"))}
    if not runs:
        return ""
    note = folder / "note.md"
    drawing, axes = figure(2)
    lines = []
    for colour, (name, rows) in zip(COLOURS, runs.items()):
        epochs = [r["epoch"] for r in rows]
        axes[0][0].plot(epochs, [r["train_loss"] for r in rows], color=colour, linewidth=0.9, label=f"{name}, training (with dropout)")
        axes[0][0].plot(epochs, [r["validation_loss"] for r in rows], color=colour, linewidth=0.9, linestyle=":", label=f"{name}, validation")
        axes[0][1].plot(epochs, [r["validation_accuracy"] for r in rows], color=colour, linewidth=0.9, label=name)
        last, test = rows[-1], (read(folder / name / "test.csv") or [{}])[-1]
        percent = lambda key, of: f"{100 * of[key]:.2f} %" if key in of else ""
        lines.append([name, f"{last['epoch']:.4g}", f"{last['seconds'] / 60:.1f}", f"{last['train_loss']:.3f}", f"{last['validation_loss']:.3f}",
                      percent("validation_accuracy", last), f"{test['test_loss']:.3f}" if test else "", percent("test_accuracy", test)])  # fmt: skip
    axes[0][0].set(xlabel="epoch", ylabel="loss", ylim=(0, None))
    axes[0][1].set(xlabel="epoch", ylabel="validation accuracy")
    for axis in axes[0]:
        axis.legend(fontsize=7)
    picture = save(drawing, folder / "training.svg")
    heads = ["run", "epochs of 350", "minutes", "training loss, last epoch", "validation loss", "validation accuracy", "test loss", "test accuracy"]
    return "\n\n".join(["### Training ALL-CNN-C", note.read_text().strip() if note.exists() else "", table(heads, lines),
                        f"![Training]({folder.name}/{picture})"])  # fmt: skip


def report(results):
    """The report's text; figures are written as a side effect. SystemExit if there is nothing to report."""
    networks = sorted(p.name for p in results.iterdir() if p.is_dir() and p.name != "training")
    curvature, corruption = report_curvature.claims(), report_corruption.claims()
    sections = []
    for name in networks:
        sections.append(report_curvature.section(results / name, name, curvature))
        sections.append(report_corruption.section(results / name, name, corruption))
    sections.append(training(results / "training"))
    sections = [s for s in sections if s]
    if not sections:
        raise SystemExit(f"{results}: no results here; tests/bench/paper/run.sh makes some")
    head = [
        "# Debiasing mini-batch quadratics: what was reproduced",
        "Written by `tests/bench/paper/report.py` from the CSV files beside it; `tests/bench/paper/README.md` says how to make them again. "
        f"Commit {commit()}, drawn on {machine()}. Numbers are means ± standard errors over repetitions, each with other batches.",
        "A difference counts if it is larger than two standard errors (of paired differences where both sides saw the same images). Three repetitions are few: "
        "\"not decided\" is an answer.",
        "## Claims", claims_table([*curvature.values(), *corruption.values()]),
    ]  # fmt: skip
    note = results / "notes.md"
    if note.exists():
        head.append(note.read_text().strip())
    return "\n\n".join([*head, "## Results", *sections]) + "\n"


def main():
    parser = argparse.ArgumentParser(description="Writes report.md and its figures.")
    parser.add_argument("results", type=pathlib.Path, help="folder with a folder for each network")
    folder = parser.parse_args().results
    if not folder.is_dir():
        raise SystemExit(f"{folder}: expected a folder")
    text = report(folder)
    (folder / "report.md").write_text(text)
    print(f"wrote {folder / 'report.md'}")


if __name__ == "__main__":
    main()
