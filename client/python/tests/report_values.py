"""Models, posteriors and answers for tests of the report, made up but consistent."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from laplace_client.report.data import Evaluated
from laplace_client.types import (
    FitCost,
    FitOptions,
    Model,
    OodThreshold,
    ParameterBlock,
    Posterior,
    PriorCandidate,
)


def model(**changes: Any) -> Model:
    value = Model(
        name="net", version=3, state="ready", state_message="", likelihood="categorical",
        input_shape=(1, 4), input_dtype="float32", accepts_uint8=True, n_outputs=3,
        n_parameters=120, class_names=("a", "b", "c"), n_data=1000, weight_decay=1e-3,
        bias_weight_decay=1e-3, checkpoint_sha256="c0ffee" * 8, active_posterior_id="p-1",
        captured_parameters=(), generic_parameters=(), last_layer_parameters=(), sigma_noise=0.0,
        description="made up", memory_bytes=0,
    )  # fmt: skip
    return dataclasses.replace(value, **changes)


def options(**changes: Any) -> FitOptions:
    value = FitOptions(
        rank=12, direction_batch_size=64, curvature_batch_size=256, debiasing="two_batch",
        residual="layerwise", seed=7, prior_precision=4.0, ood_prior_precision=1.0,
        lanczos_tolerance=1e-3, max_products=120, target_id_rate=0.05, max_validation_examples=0,
        structure="low_rank", curvature="ggn", parameters=(), kfac_eigenvalues="",
        prior_method="validation", temperature=1.0, noise_method="", sigma_noise=None,
        target_relative_standard_error=0.0, variance_correction=False, memory_limit_bytes=0,
        fisher_samples=0, feature_layer="",
    )  # fmt: skip
    return dataclasses.replace(value, **changes)


def blocks(**changes: Any) -> tuple[ParameterBlock, ...]:
    sizes = {"hidden.weight": 80, "hidden.bias": 10, "head.weight": 27, "head.bias": 3}
    return tuple(
        dataclasses.replace(
            ParameterBlock(name, size, "directions", 2.0, 1.0 / size, 0.0, 0.0), **changes
        )
        for name, size in sizes.items()
    )


def posterior(fit: FitOptions | None = None, **changes: Any) -> Posterior:
    debiased = 5.0 * 0.7 ** np.arange(12)
    grid = 10.0 ** np.linspace(-2, 4, 25)
    value = Posterior(
        id="p-1", model="net", version=3, active=True, options=fit or options(), n_data=1000,
        n_parameters=120, rank=12, prior_precision=float(grid[10]), ood_prior_precision=1.0,
        biased_eigenvalues=debiased * np.linspace(1.1, 2.5, 12), eigenvalues=debiased,
        standard_errors=0.05 * debiased, lanczos_residuals=np.zeros(12), residual=0.01, trace=8.0,
        trace_standard_error=0.1, log_marginal_likelihood=-700.0, effective_parameters=17.3,
        mean_train_loss=0.2,
        prior_candidates=tuple(
            PriorCandidate(d, 0.3 + 0.02 * (np.log10(d) - 0.5) ** 2, -700.0 - d) for d in grid
        ),
        validation_nll_map=0.42,
        ood_thresholds=(OodThreshold("energy", 1.0, 0.05, 500, 0.03, 0.07, np.zeros(9)),),
        default_ood_score="energy", train_dataset_id="sha256-" + "1" * 64,
        validation_dataset_id="sha256-" + "2" * 64, checkpoint_sha256="c0ffee" * 8,
        code_version="0.1.0", create_time="2026-02-03T04:05:06Z",
        cost=FitCost(12.0, 30, 6.0, 4.0, 2.0, 1 << 20), mc_samples=100, warnings=(),
        blocks=blocks(), residual_share=0.5, curvature_count=256, clipped_directions=0,
        parent_posterior_id="", updated_examples=0, updated_dataset_ids=(),
        calibration_dataset_id="sha256-" + "2" * 64, available_ood_scores=("msp", "energy"),
        features=None,
    )  # fmt: skip
    return dataclasses.replace(value, **changes)


def kfac(**changes: Any) -> Posterior:
    none = np.empty(0)
    return posterior(
        options(structure="kfac", residual="", rank=0, kfac_eigenvalues="exact"),
        rank=0, biased_eigenvalues=none, eigenvalues=none, standard_errors=none,
        blocks=blocks(kind="kronecker", residual=0.0, biased_sum=3.0, debiased_sum=2.0),
        residual_share=0.0, **changes,
    )  # fmt: skip


def answers(name: str = "ID", rows: int = 400, shift: float = 0.0, **changes: Any) -> Evaluated:
    """Three classes; the posterior is less sure than the network. shift: of the scores."""
    random = np.random.default_rng(len(name) + rows)
    logits = random.normal(0, 2, (rows, 3))

    def softmax(values: np.ndarray) -> np.ndarray:
        e = np.exp(values - values.max(1, keepdims=True))
        return (e / e.sum(1, keepdims=True)).astype(np.float32)

    mean = softmax(logits)
    labels = (mean.cumsum(1) < random.uniform(size=(rows, 1))).sum(1).clip(0, 2)
    scores = {score: random.normal(shift, 1, rows) for score in ("energy", "msp")}
    value = Evaluated(name, softmax(2 * logits), mean, labels, scores, {"energy": 1.6})
    return dataclasses.replace(value, **changes)
