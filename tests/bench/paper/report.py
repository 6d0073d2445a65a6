#!/usr/bin/env python3
"""Draws figures from the CSV files of the experiments and writes a report in Markdown.

    /usr/bin/python3 tests/bench/paper/report.py tests/bench/paper/results

RESULTS/NETWORK/ holds what paper_curvature and under_corruption.py wrote for a network, RESULTS/all_cnn_c/metrics.csv what
train_all_cnn_c.py did. Writes RESULTS/report.md, and figures (SVG) beside the files they come from. What is not there is said
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
    rows = read(folder / "metrics.csv")
    if not rows:
        return ""
    note = folder / "note.md"
    drawing, axes = figure(2)
    for axis, quantities in zip(axes[0], (("train_loss", "validation_loss"), ("validation_accuracy",))):
        for colour, quantity in zip(COLOURS, quantities):
            axis.plot([r["epoch"] for r in rows], [r[quantity] for r in rows], ".-", color=colour, label=quantity.replace("_", " "))
        axis.set(xlabel="epoch")
        axis.legend()
    picture = save(drawing, folder / "training.svg")
    last = rows[-1]
    return "\n\n".join([
        "### ALL-CNN-C",
        note.read_text().strip() if note.exists() else "",
        f"After {last['step']:.0f} steps of 256 images ({last['epoch']:.2f} of 350 epochs, {last['seconds'] / 60:.1f} min of training): validation loss "
        f"{last['validation_loss']:.3f}, accuracy {100 * last['validation_accuracy']:.1f} %.",
        f"![Training]({folder.name}/{picture})",
    ])  # fmt: skip


def report(results):
    """The report's text; figures are written as a side effect. SystemExit if there is nothing to report."""
    networks = sorted(p.name for p in results.iterdir() if p.is_dir() and p.name != "all_cnn_c")
    curvature, corruption = report_curvature.claims(), report_corruption.claims()
    sections = []
    for name in networks:
        sections.append(report_curvature.section(results / name, name, curvature))
        sections.append(report_corruption.section(results / name, name, corruption))
    sections.append(training(results / "all_cnn_c"))
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
