#!/usr/bin/env python3
"""Artifacts that a release wrote load in this version and predict the same digits.

    run.sh LAPLACED golden_test.py                    # every release in tests/data/golden, and tests/data/registry_v1
    run.sh LAPLACED golden_test.py --write 0.2.0      # adds a release: its artifacts, and what its server answers

A release is a folder with a registry of three small networks (one of each likelihood; single and double precision;
TorchScript and weights), posteriors of every structure, and answers.json: inputs, and every number of the answers. Numbers
must agree to six digits, counted from the largest of their array (bits depend on the processor and LibTorch's version); the
test says how many agree to the bit. What a release has is never written again: folders are only added.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from laplace_client import Client

from server import Failure, Server, require

DATA = Path(__file__).resolve().parents[1] / "data"
SIX_DIGITS = 1e-6
FITS: dict[str, tuple[dict[str, Any], ...]] = {
    "classes": (
        {"structure": "low_rank", "rank": 6, "debiasing": "two_batch", "residual": "layerwise", "direction_batch_size": 20,
         "curvature_batch_size": 30},
        {"structure": "low_rank", "rank": 4, "debiasing": "cross_fit", "residual": "diagonal", "direction_batch_size": 20,
         "curvature_batch_size": 30},
        {"structure": "last_layer"},
    ),
    "numbers": (
        {"structure": "low_rank", "rank": 5, "debiasing": "full_pass", "residual": "isotropic", "direction_batch_size": 20,
         "variance_correction": True, "noise_method": "data"},
        {"structure": "kfac", "kfac_eigenvalues": "factors", "debiasing": "none", "direction_batch_size": 30},
    ),
    "labels": (
        {"structure": "kfac", "kfac_eigenvalues": "exact", "direction_batch_size": 20, "curvature_batch_size": 30},
        {"structure": "low_rank", "rank": 3, "debiasing": "none", "residual": "none", "direction_batch_size": 30},
    ),
}
CASES: dict[str, dict[str, Any]] = {
    "classes": {"seed": 1, "likelihood": "categorical", "dtype": "float32", "input": [4], "outputs": 3,
                "layers": [["linear", 6], ["tanh"]], "architecture": None, "sigma_noise": None},
    "numbers": {"seed": 2, "likelihood": "gaussian", "dtype": "float64", "input": [3], "outputs": 2,
                "layers": [["linear", 5], ["silu"]], "architecture": None, "sigma_noise": 0.5},
    "labels": {"seed": 4, "likelihood": "bernoulli", "dtype": "float32", "input": [1, 8, 8], "outputs": 3,
               "layers": [["conv", 2, 3, 1, 0, 1], ["relu"], ["pool", "max"], ["flatten"]],
               "architecture": {"name": "lenet", "activation": "relu", "pool": "max"}, "sigma_noise": None},
}
COMMON = {"bias": True, "train": 60, "validation": 20, "n_data": 300, "weight_decay": 0.02, "bias_weight_decay": None}


def answers_of(client: Client, model: str, x: np.ndarray, scores: list[str]) -> dict[str, np.ndarray]:
    answer = client.predict(model, x, ood_scores=scores, return_covariance=True)
    numbers = {name: getattr(answer, name) for name in (
        "mean", "map_mean", "functional_mean", "variance", "covariance", "epistemic", "aleatoric")}
    for name, score in answer.ood.items():
        numbers[f"score {name}"] = score.values
        if score.threshold is not None:
            numbers[f"threshold {name}"] = np.array([score.threshold])
            numbers[f"is_ood {name}"] = score.is_ood
    return {name: np.asarray(value, float) for name, value in numbers.items()}


class Comparison:
    """Counts numbers and those that agree to the bit."""

    def __init__(self) -> None:
        self.count = self.to_the_bit = 0

    def expect(self, where: str, got: np.ndarray, wanted: np.ndarray) -> None:
        require(got.shape == wanted.shape, f"{where}: expected the shape {wanted.shape}, got {got.shape}")
        off = np.abs(got - wanted)
        worst = np.unravel_index(int(np.argmax(off)), off.shape)
        require(bool((off <= SIX_DIGITS * np.abs(wanted).max()).all()),
                f"{where}{list(map(int, worst))}: the release answered {wanted[worst]!r}, this version {got[worst]!r}")
        self.count += off.size
        self.to_the_bit += int((got == wanted).sum())


def check_release(binary: Path, release: Path) -> None:
    table = json.loads((release / "answers.json").read_text())
    comparison = Comparison()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        registry = Path(folder) / "registry"
        shutil.copytree(release / "registry", registry)
        server = Server(binary, registry, Path(folder), load="all")
        try:
            with server.client() as client:
                for entry in table["answers"]:
                    client.activate_posterior(entry["model"], entry["posterior_id"])
                    x = np.array(entry["inputs"], entry["dtype"])
                    got = answers_of(client, entry["model"], x, entry["scores"])
                    for name, wanted in entry["numbers"].items():
                        where = f"{release.name}: {entry['model']}, {entry['fit']}: {name}"
                        require(name in got, f"{where} is missing")
                        comparison.expect(where, got[name], np.array(wanted, float))
        finally:
            server.kill()
    print(f"{release.name}: {len(table['answers'])} posteriors, {comparison.count} numbers, all the same to six digits, "
          f"{comparison.to_the_bit} to the bit", flush=True)


def check_format_1(binary: Path) -> None:
    """The first artifact format, with the answers of the version that wrote it, as its command line printed them."""
    source = DATA / "registry_v1"
    expected = json.loads((source / "expected.json").read_text())
    x = np.array([[0.5, -1.0, 0.25, 2.0], [-0.75, 0.125, 1.5, -0.5], [0, 0, 0, 0]], np.float32)
    comparison = Comparison()
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        registry = Path(folder) / "registry"
        shutil.copytree(source / "models", registry / "models")
        server = Server(binary, registry, Path(folder), load="all")
        try:
            with server.client() as client:
                got = answers_of(client, expected["model"], x, ["laplace_entropy"])
        finally:
            server.kill()
    names = {"mean": "mean", "map_mean": "map_mean", "functional_mean": "functional_mean", "variance": "functional_variance",
             "epistemic": "epistemic", "aleatoric": "aleatoric"}
    for name, key in names.items():
        comparison.expect(f"registry_v1: {name}", got[name], np.array([row[key] for row in expected["rows"]]))
    wanted = np.array([row["ood_scores"]["laplace_entropy"]["value"] for row in expected["rows"]])
    comparison.expect("registry_v1: score laplace_entropy", got["score laplace_entropy"], wanted)
    print(f"registry_v1: {comparison.count} numbers, all the same to six digits, {comparison.to_the_bit} to the bit", flush=True)


def write_release(binary: Path, name: str) -> None:
    from subject import Subject  # needs PyTorch

    release = DATA / "golden" / name
    require(not release.exists(), f"{release} exists: what a release wrote is kept as it is")
    answers = []
    with tempfile.TemporaryDirectory(prefix="golden-") as folder:
        registry = Path(folder) / "registry"
        subjects = [Subject.write({**COMMON, **case}, model, registry) for model, case in CASES.items()]
        server = Server(binary, registry, Path(folder), load="all")
        try:
            with server.client() as client:
                for subject in subjects:
                    for fit in FITS[subject.name]:
                        posterior_id = client.fit(
                            subject.name, (subject.train.x, subject.train.y), (subject.validation.x, subject.validation.y),
                            prior_precision=10.0, ood_prior_precision=5.0, **fit)
                        scores = list(client.get_posterior(subject.name).available_ood_scores)
                        numbers = answers_of(client, subject.name, subject.test.x, scores)
                        answers.append({"model": subject.name, "posterior_id": posterior_id, "fit": fit, "scores": scores,
                                        "dtype": subject.case["dtype"], "inputs": subject.test.x.tolist(),
                                        "numbers": {key: value.tolist() for key, value in numbers.items()}})
        finally:
            server.stop()
        (release / "registry").mkdir(parents=True)
        shutil.copytree(registry / "models", release / "registry" / "models")
        lines = ",\n".join(json.dumps(entry) for entry in answers)
        (release / "answers.json").write_text(f'{{"release": "{name}", "answers": [\n{lines}\n]}}\n')
    print(f"wrote {release}: {len(answers)} posteriors")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--write", metavar="RELEASE", help="add the artifacts of this version, under this name")
    options = parser.parse_args()
    try:
        if options.write:
            write_release(options.binary, options.write)
        releases = sorted(path for path in (DATA / "golden").iterdir() if path.is_dir())
        require(bool(releases), f"no release in {DATA / 'golden'}")
        check_format_1(options.binary)
        for release in releases:
            check_release(options.binary, release)
    except Failure as failure:
        print(f"FAILED: {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
