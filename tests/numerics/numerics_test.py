#!/usr/bin/env python3
"""Fits and predictions of a real server against dense references in double precision, on random small networks.

    run.sh LAPLACED numerics_test.py --seeds 40        # seeds 1 to 40, or --first 100 for others
    run.sh LAPLACED numerics_test.py --seed 17         # one of them, or several
    run.sh LAPLACED numerics_test.py --case '{...}'    # a network as a failure printed it

A failure prints the seed, the network, what differs, a smaller network that fails too, and the command that repeats it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from laplace_client import Client

import dense
from check_curvature import check_curvature
from check_posterior import check_posterior, expected_noise
from check_predictions import check_predictions
from comparison import Ledger, Mismatch
from fits import random_fits
from networks import Case, random_case, smaller
from server import Server
from subject import Subject

SHRINK_SECONDS = 60.0


def check(case: Case, subject: Subject, client: Client) -> None:
    """Every fit of a case; Mismatch at the first difference."""
    kind = case["likelihood"]
    curvature = dense.Likelihood(kind, case["sigma_noise"] or 1.0).hessian(subject.train.at.f)
    everything = np.arange(len(subject.train.x))
    largest = float(np.linalg.eigvalsh(dense.curvature(subject.train.at, curvature, everything))[-1])
    subject.generic = frozenset(client.load_model(subject.name).generic_parameters)
    for i, fit in enumerate(random_fits(case, subject.names, len(subject.parameters), largest)):
        subject.ledger.place = f"fit {i} {json.dumps(fit)}"
        options = {key: value for key, value in fit.items() if key != "validates"}
        uncertain = fit.get("parameters") or subject.names
        if "rank" in fit:
            fit["rank"] = options["rank"] = min(fit["rank"], sum(subject.select(uncertain).sizes))
        validation = (subject.validation.x, subject.validation.y) if fit["validates"] else None
        posterior_id = client.fit(subject.name, (subject.train.x, subject.train.y), validation, **options)
        posterior = client.get_posterior(subject.name, posterior_id=posterior_id)
        likelihood = expected_noise(subject, posterior)
        measured = check_curvature(subject, fit, posterior, likelihood)
        check_posterior(subject, measured)
        check_predictions(subject, measured, client)


@dataclass(frozen=True)
class Failed:
    case: Case
    message: str


def run(binary: Path, cases: list[Case], show: bool) -> tuple[Ledger, list[Failed]]:
    """All cases as models of one server."""
    total, failures = Ledger(""), []
    with tempfile.TemporaryDirectory(prefix="numerics-") as folder:
        registry = Path(folder) / "registry"
        subjects = [Subject.write(case, f"net{i}", registry) for i, case in enumerate(cases)]
        server = Server(binary, registry, Path(folder), load="none")
        try:
            with server.client() as client:
                for case, subject in zip(cases, subjects):
                    start, message = time.monotonic(), ""
                    try:
                        check(case, subject, client)
                        total.add(subject.ledger)
                        client.unload_model(subject.name)
                    except Mismatch as difference:
                        message = str(difference)
                    except Exception:  # of the server or of the reference: both have to answer for every case
                        message = f"{subject.ledger.place}: {traceback.format_exc()}"
                    if message:
                        failures.append(Failed(case, message))
                    if show:
                        layers = " ".join(str(layer[0]) for layer in case["layers"]) or "linear alone"
                        print(f"seed {case['seed']}: {case['likelihood']}, {case['dtype']}, {len(subject.parameters)} "
                              f"parameters, {case['outputs']} outputs, {layers}: {'FAILED' if message else 'right'} "
                              f"({time.monotonic() - start:.1f} s)", flush=True)
        finally:
            server.kill()
    return total, failures


def shrink(binary: Path, failed: Failed) -> Failed:
    """A case that is smaller and fails too; looks for one for about SHRINK_SECONDS."""
    end = time.monotonic() + SHRINK_SECONDS
    found = True
    while found and time.monotonic() < end:
        found = False
        for candidate in smaller(failed.case):
            if time.monotonic() > end:
                break
            failures = run(binary, [candidate], show=False)[1]
            if failures:
                failed, found = failures[0], True
                break
    return failed


def repeat(binary: Path, case: Case) -> str:
    same = case == random_case(case["seed"])
    which = f"--seed {case['seed']}" if same else f"--case '{json.dumps(case)}'"
    return f"repeat it: tests/numerics/run.sh {binary} numerics_test.py {which}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seeds", type=int, default=3, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, nargs="+", help="these alone")
    parser.add_argument("--case", type=json.loads, help="a network as JSON")
    parser.add_argument("--no-shrink", action="store_true", help="do not look for a smaller network that fails too")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.case is not None:
        cases = [options.case]
    else:
        seeds = options.seed or range(options.first, options.first + options.seeds)
        cases = [random_case(seed) for seed in seeds]
    ledger, failures = run(options.binary, cases, show=True)
    print(ledger.table())
    for failed in failures:
        print(f"FAILED: seed {failed.case['seed']}: {json.dumps(failed.case)}\n{failed.message}\n"
              f"{repeat(options.binary, failed.case)}", flush=True)
    if not failures:
        return 0
    if options.no_shrink:
        return 1
    small = shrink(options.binary, failures[0])
    if small.case != failures[0].case:
        print(f"A smaller network fails, too: {small.message}\n{repeat(options.binary, small.case)}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
