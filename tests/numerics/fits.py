"""Random fits of a case: what the server is asked to do, as the options of client.fit."""

from __future__ import annotations

from typing import Any

import numpy as np

from networks import Case

Fit = dict[str, Any]


def random_fits(case: Case, names: list[str], parameters: int, largest: float) -> list[Fit]:
    """One fit of each kind. `largest`: the largest eigenvalue of the curvature, by which prior precisions are drawn so that
    the condition number N largest / delta goes from 0.3 to 3000."""
    random = np.random.default_rng([case["seed"], 5])
    n = case["train"]
    count = case["n_data"] or n

    def pick(*words: str) -> str:
        return str(random.choice(words))

    def precision() -> float:
        return float(count * max(largest, 1e-6) * 10 ** random.uniform(-3.5, 0.5))

    def batches(debiasing: str) -> dict[str, Any]:
        first = int(random.integers(8, n // 2))
        sizes: dict[str, Any] = {"debiasing": debiasing, "direction_batch_size": first}
        if debiasing in ("two_batch", "cross_fit"):
            sizes["curvature_batch_size"] = int(random.integers(8, n - first + 1))
        return sizes

    tolerance = {"lanczos_tolerance": 1e-5 if case["dtype"] == "float32" else 1e-10, "max_products": 40 * parameters}
    some = sorted(str(name) for name in random.choice(names, int(random.integers(1, len(names) + 1)), replace=False))
    rank = int(random.integers(1, min(parameters, 13)))
    fits: list[Fit] = [
        # Everything at once: H is the curvature of all data, whatever basis the server finds.
        {"structure": "low_rank", "rank": parameters, "debiasing": "none", "direction_batch_size": n,
         "residual": pick("none", "layerwise"), "prior_method": "evidence" if random.random() < 0.3 else "given", **tolerance},
        {"structure": "low_rank", "rank": rank, "residual": pick("none", "isotropic", "layerwise", "diagonal"),
         "curvature": pick("ggn", "empirical_fisher"), **batches("two_batch"),
         "variance_correction": bool(random.random() < 0.6), **tolerance},
        {"structure": "low_rank", "rank": rank, "residual": pick("none", "isotropic", "layerwise", "diagonal"),
         "variance_correction": bool(random.random() < 0.5), **batches(pick("cross_fit", "full_pass")), **tolerance},
        {"structure": "low_rank", "rank": min(rank, 6), "residual": "none", "curvature": "hessian", **batches("two_batch"),
         **tolerance},
        {"structure": "low_rank", "rank": min(rank, 6), "residual": "none", "curvature": "mc_fisher",
         "fisher_samples": int(random.integers(1, 5)), **batches("two_batch"), **tolerance},
        {"structure": "kfac", "kfac_eigenvalues": "factors", "debiasing": "none", "direction_batch_size": n},
        {"structure": "kfac", "kfac_eigenvalues": pick("factors", "exact"),
         "curvature": pick("ggn", "empirical_fisher"), **batches(pick("two_batch", "none"))},
        {"structure": "last_layer", "curvature": pick("ggn", "empirical_fisher")},
    ]
    for i, fit in enumerate(fits):
        fit["seed"] = int(random.integers(0, 2**40))
        fit["temperature"] = float(random.choice([1.0, 1.0, 0.2, 3.0]))
        if fit["structure"] != "last_layer" and i not in (0, 5) and random.random() < 0.3:
            fit["parameters"] = some
        if case["likelihood"] == "gaussian":
            fit["noise_method"] = pick("manifest", "data") if fit.get("curvature") == "empirical_fisher" else pick(
                "manifest", "data", "evidence")
        method = fit.setdefault("prior_method", pick("given", "given", "weight_decay", "validation"))
        if method == "given":
            fit["prior_precision"] = precision()
        fit["ood_prior_precision"] = precision()
        fit["validates"] = bool(method == "validation" or random.random() < 0.6)
    return fits
