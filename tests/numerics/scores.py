"""OOD scores by their published formulas. Larger is stranger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np

from dense import logsumexp, sigmoid, softmax
from predictives import bernoulli, binary_entropy, energy, entropy, moderated

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)


class IllConditioned(Exception):
    """The formula has no answer that rounding leaves alone, for these data."""


@dataclass(frozen=True)
class Rows:
    """What scores are made of: outputs, their covariance, features, and the squared norm of J outside the directions."""

    f: np.ndarray  # [B, C]
    v: np.ndarray  # [B, C, C]
    phi: np.ndarray  # [B, D]
    outside: np.ndarray | None = None  # [B]

    @property
    def variance(self) -> np.ndarray:
        return np.maximum(np.diagonal(self.v, axis1=1, axis2=2), 0)


@dataclass(frozen=True)
class Training:
    """Features of the training data, their classes (None unless categorical), the outputs there, and the head's weights."""

    phi: np.ndarray
    classes: np.ndarray | None
    f: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def _whitening(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    cut = 1e-10 * values[-1]
    if ((values > 1e-3 * cut) & (values < 1e3 * cut)).any():
        raise IllConditioned("a variance lies at the cut-off of the pseudo-inverse")
    return vectors[:, values > cut] / np.sqrt(values[values > cut])


def mahalanobis(rows: Rows, training: Training, relative: bool = False) -> np.ndarray:
    groups = np.zeros(len(training.phi), int) if training.classes is None else training.classes
    means = {c: training.phi[groups == c].mean(0) for c in np.unique(groups)}
    centred = training.phi - np.stack([means[c] for c in groups])
    a = _whitening(centred.T @ centred / len(centred))
    distances = np.stack([(((rows.phi - mean) @ a) ** 2).sum(1) for mean in means.values()])
    if not relative:
        return distances.min(0)
    mean = training.phi.mean(0)
    total = training.phi - mean
    return distances.min(0) - (((rows.phi - mean) @ _whitening(total.T @ total / len(total))) ** 2).sum(1)


def knn(rows: Rows, training: Training) -> np.ndarray:
    def unit(phi: np.ndarray) -> np.ndarray:
        return phi / (np.linalg.norm(phi, axis=1, keepdims=True) + 1e-10)

    distances = np.linalg.norm(unit(rows.phi)[:, None] - unit(training.phi)[None], axis=2)
    return np.sort(distances, 1)[:, max(1, len(training.phi) // 1000) - 1]


def vim(rows: Rows, training: Training) -> np.ndarray:
    d = training.phi.shape[1]
    origin = -np.linalg.pinv(training.weight) @ training.bias
    moved = training.phi - origin
    values, vectors = np.linalg.eigh(moved.T @ moved / len(moved))
    rest = d - d // 2
    if 0 < rest < d and values[rest] - values[rest - 1] < 1e-5 * values[-1]:
        raise IllConditioned("the principal space of vim is not determined")
    r = vectors[:, :rest]
    norm = np.linalg.norm(moved @ r, axis=1).mean()
    if norm < 1e-4 * np.abs(moved).max():
        raise IllConditioned("the features have nothing outside the principal space")
    alpha = training.f.max(1).mean() / norm
    return alpha * np.linalg.norm((rows.phi - origin) @ r, axis=1) - logsumexp(rows.f)


def react(rows: Rows, training: Training) -> np.ndarray:
    cut = np.quantile(training.phi, 0.9)
    return -logsumexp(np.minimum(rows.phi, cut) @ training.weight.T + training.bias)


def gen(f: np.ndarray) -> np.ndarray:
    p = softmax(f)
    return (p**0.1 * (1 - p) ** 0.1).sum(1)  # fewer than 100 classes: all of them


@dataclass(frozen=True)
class Templates:
    """Mean probabilities of the validation examples that are predicted as each class."""

    log: np.ndarray

    @staticmethod
    def of(f: np.ndarray, doubt: float) -> Templates:
        order = np.sort(f, 1)
        if (order[:, -1] - order[:, -2] <= 2 * doubt).any():
            raise IllConditioned("two classes of a validation example are as likely, up to rounding")
        p = softmax(f)
        return Templates(np.log(np.stack([p[p.argmax(1) == c].mean(0) for c in np.unique(p.argmax(1))])))

    def divergence(self, f: np.ndarray) -> np.ndarray:
        p = softmax(f)
        return ((p * np.log(p)).sum(1)[:, None] - p @ self.log.T).min(1)


def functions(kind: str, sigma: float, training: Training, templates: Callable[[], Templates]
              ) -> dict[str, Callable[[Rows], np.ndarray]]:
    """Every score with a formula but mutual_information of classes, which is sampled, and combined, which is made of others."""
    common: dict[str, Callable[[Rows], np.ndarray]] = {
        "mahalanobis": lambda rows: mahalanobis(rows, training),
        "knn": lambda rows: knn(rows, training),
        "variance": lambda rows: rows.variance.sum(1),
        "local_ensemble": lambda rows: rows.outside,
    }
    if kind == "gaussian":
        eye = np.eye(training.f.shape[1])
        return {**common, "information_gain": lambda rows: 0.5 * np.linalg.slogdet(eye + rows.v / sigma**2)[1]}
    common["max_logit"] = lambda rows: -rows.f.max(1)
    common["energy"] = lambda rows: energy(kind, rows.f)
    if kind == "bernoulli":
        def information(rows: Rows) -> np.ndarray:
            mean, inner = bernoulli(rows.f, rows.variance)
            return (binary_entropy(mean) - inner).sum(1)

        return {
            **common,
            "entropy": lambda rows: binary_entropy(sigmoid(rows.f)).sum(1),
            "laplace_entropy": lambda rows: binary_entropy(sigmoid(moderated(rows.f, rows.variance))).sum(1),
            "mutual_information": information,
        }
    return {
        **common,
        "msp": lambda rows: 1 - softmax(rows.f).max(1),
        "entropy": lambda rows: entropy(softmax(rows.f)),
        "gen": lambda rows: gen(rows.f),
        "kl_matching": lambda rows: templates().divergence(rows.f),
        "relative_mahalanobis": lambda rows: mahalanobis(rows, training, relative=True),
        "vim": lambda rows: vim(rows, training),
        "react": lambda rows: react(rows, training),
        "laplace_entropy": lambda rows: entropy(softmax(moderated(rows.f, rows.variance))),
        "laplace_msp": lambda rows: 1 - softmax(moderated(rows.f, rows.variance)).max(1),
        "moderated_energy": lambda rows: -logsumexp(moderated(rows.f, rows.variance)),
    }
