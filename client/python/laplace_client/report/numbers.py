"""What the figures show, as pure functions of arrays.

Definitions are those of `laplace evaluate`, so the numbers agree with it to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Sequence

import numpy as np
from numpy.typing import NDArray

from ..types import ParameterBlock, PriorCandidate

Array = NDArray[np.float64]

CALIBRATION_BINS = 15


@dataclass(frozen=True)
class Reliability:
    """How often what was predicted with a probability comes true. M bins ((m-1)/M, m/M].

    edges: [M + 1]. counts: [M] predictions. probability: [M] mean of what was stated. rate: [M]
        share that came true. standard_error: [M] sqrt(rate (1 - rate) / count). NaN in empty bins.
    ece: sum over bins of count / N * |rate - probability| (Guo et al. 2017); NaN if N is 0.
    """

    edges: Array
    counts: NDArray[np.int64]
    probability: Array
    rate: Array
    standard_error: Array
    ece: float


def reliability(
    stated: NDArray[Any], came_true: NDArray[Any], bins: int = CALIBRATION_BINS
) -> Reliability:
    """stated: [N] probabilities in [0, 1]. came_true: [N] bool or 0 and 1."""
    p = np.asarray(stated, np.float64)
    hit = np.asarray(came_true, np.float64)
    index = np.clip(np.ceil(p * bins).astype(np.int64) - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins)
    sum_p = np.bincount(index, p, bins)
    sum_hit = np.bincount(index, hit, bins)
    with np.errstate(invalid="ignore", divide="ignore"):
        probability, rate = sum_p / counts, sum_hit / counts
        error = np.sqrt(rate * (1 - rate) / counts)
    ece = float(np.abs(sum_hit - sum_p).sum() / len(p)) if len(p) else float("nan")
    return Reliability(np.linspace(0, 1, bins + 1), counts, probability, rate, error, ece)


@dataclass(frozen=True)
class Quality:
    """accuracy: share of examples (Bernoulli: of labels) that are predicted right. nll: mean of
    -log p of the truth, nats. ece: of the largest probability; Bernoulli: mean over labels."""

    accuracy: float
    nll: float
    ece: float
    bins: Reliability


_SMALLEST = float(np.finfo(np.float32).tiny)


def categorical_quality(probabilities: NDArray[Any], labels: NDArray[Any]) -> Quality:
    """probabilities: [N, C], rows sum to one. labels: [N] classes in [0, C)."""
    p = np.asarray(probabilities, np.float64)
    labels = np.asarray(labels, np.int64)
    right = p.argmax(1) == labels
    of_truth = np.maximum(p[np.arange(len(p)), labels], _SMALLEST)
    bins = reliability(p.max(1), right)
    return Quality(float(right.mean()), float(-np.log(of_truth).mean()), bins.ece, bins)


def bernoulli_quality(probabilities: NDArray[Any], targets: NDArray[Any]) -> Quality:
    """probabilities: [N, C], one for each label on its own. targets: [N, C] of 0 and 1."""
    p = np.asarray(probabilities, np.float64)
    there = np.asarray(targets, np.float64) == 1
    of_truth = np.maximum(np.where(there, p, 1 - p), _SMALLEST)
    ece = np.mean([reliability(p[:, c], there[:, c]).ece for c in range(p.shape[1])])
    return Quality(
        float(((p >= 0.5) == there).mean()),
        float(-np.log(of_truth).mean()),
        float(ece),
        reliability(p.ravel(), there.ravel()),
    )


def auroc(in_scores: NDArray[Any], out_scores: NDArray[Any]) -> float:
    """Probability that a random OOD example scores above a random ID one, ties counting one half.

    in_scores: [N], out_scores: [M], larger is stranger. NaN without one of them or with a NaN.
    """
    inside, outside = _finite_pair(in_scores, out_scores)
    if inside is None or outside is None:
        return float("nan")
    inside = np.sort(inside)
    below = np.searchsorted(inside, outside, "left")
    not_above = np.searchsorted(inside, outside, "right")
    return float((below + not_above).sum() / (2.0 * len(inside) * len(outside)))


def roc(in_scores: NDArray[Any], out_scores: NDArray[Any]) -> tuple[Array, Array]:
    """False and true positive rates of "score >= t" for every distinct t, from 0 to 1.

    OOD is the positive. Empty arrays where auroc is NaN.
    """
    inside, outside = _finite_pair(in_scores, out_scores)
    if inside is None or outside is None:
        return np.empty(0), np.empty(0)
    thresholds = np.unique(np.concatenate([inside, outside]))[::-1]
    false = 1 - np.searchsorted(np.sort(inside), thresholds, "left") / len(inside)
    true = 1 - np.searchsorted(np.sort(outside), thresholds, "left") / len(outside)
    return np.concatenate([[0.0], false]), np.concatenate([[0.0], true])


def fpr_at_95(in_scores: NDArray[Any], out_scores: NDArray[Any]) -> float:
    """Share of ID that the highest threshold flags which flags at least 95 % of OOD."""
    inside, outside = _finite_pair(in_scores, out_scores)
    if inside is None or outside is None:
        return float("nan")
    needed = -(-95 * len(outside) // 100)
    return float((inside >= np.sort(outside)[len(outside) - needed]).mean())


def _finite_pair(
    in_scores: NDArray[Any], out_scores: NDArray[Any]
) -> tuple[Array, Array] | tuple[None, None]:
    inside, outside = np.asarray(in_scores, np.float64), np.asarray(out_scores, np.float64)
    if not len(inside) or not len(outside) or np.isnan(inside).any() or np.isnan(outside).any():
        return None, None
    return inside, outside


def thin(x: Array, y: Array, size: int) -> tuple[Array, Array]:
    """At most `size` points of the monotone curve (x, y), evenly spaced along it, ends included."""
    if len(x) <= size:
        return x, y
    length = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
    kept = np.unique(np.searchsorted(length, np.linspace(0, length[-1], size)))
    return x[kept], y[kept]


def histogram_edges(
    samples: Sequence[NDArray[Any]], include: float | None = None, bins: int = 40
) -> Array:
    """[bins + 1] edges of equal width over what all samples share, outliers apart.

    From the smallest to the largest of the samples' .005 and .995 quantiles, widened to `include`.
    """
    finite = [np.asarray(s, np.float64)[np.isfinite(s)] for s in samples]
    ends = [np.quantile(s, [0.005, 0.995]) for s in finite if len(s)]
    if include is not None:
        ends.append(np.array([include, include]))
    low, high = (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 1.0)
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return np.linspace(low, high, bins + 1)


def shares(values: NDArray[Any], edges: Array) -> Array:
    """[bins] shares of the values; those beyond the edges count in the outermost bins."""
    finite = np.asarray(values, np.float64)
    counts, _ = np.histogram(np.clip(finite, edges[0], edges[-1]), edges)
    return counts / max(len(finite), 1)


@dataclass(frozen=True)
class BiasRatio:
    """biased / debiased curvature of K directions or blocks; NaN where debiased is not above 0.

    standard_error: what that of the debiased value means to first order, ratio * se / debiased.
    of_sums: sum of the biased values over that of the debiased ones.
    """

    ratio: Array
    standard_error: Array
    of_sums: float


def bias_ratio(biased: Array, debiased: Array, standard_errors: Array | None = None) -> BiasRatio:
    """All [K]. Without standard errors those of the ratios are NaN."""
    below = np.where(debiased > 0, debiased, np.nan)
    ratio = biased / below
    errors = np.full(len(ratio), np.nan) if standard_errors is None else standard_errors
    total = float(debiased.sum())
    of_sums = float(biased.sum()) / total if total > 0 else float("nan")
    return BiasRatio(ratio, ratio * errors / below, of_sums)


@dataclass(frozen=True)
class LayerResidual:
    """What the directions leave over of the curvature of one layer, its weight and bias together.

    trace: of the mean curvature. residual: the part of it that is left over. share: in [0, 1]."""

    layer: str
    n_parameters: int
    trace: float
    residual: float

    @property
    def share(self) -> float:
        return min(max(self.residual / self.trace, 0.0), 1.0) if self.trace > 0 else 0.0


def residual_by_layer(blocks: Sequence[ParameterBlock]) -> list[LayerResidual]:
    """In the order of the checkpoint. A layer is a parameter's name without its last part."""
    layers: dict[str, list[ParameterBlock]] = {}
    for block in blocks:
        layers.setdefault(block.name.rpartition(".")[0] or block.name, []).append(block)
    return [
        LayerResidual(
            layer,
            sum(b.n_parameters for b in members),
            sum(b.trace for b in members),
            sum(b.residual * b.n_parameters for b in members),
        )
        for layer, members in layers.items()
    ]


def split_candidates(
    candidates: Sequence[PriorCandidate],
) -> tuple[list[PriorCandidate], list[PriorCandidate]]:
    """The grid, by increasing precision, and the steps of the evidence's fixed point after it."""
    end = 1
    while end < len(candidates) and (
        candidates[end].prior_precision > candidates[end - 1].prior_precision
    ):
        end += 1
    return list(candidates[:end]), list(candidates[end:])
