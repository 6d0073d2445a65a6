"""From a Gaussian over outputs, f ~ N(f, v), to probabilities and their uncertain parts, by other means than the server's:
integrals by a fine trapezoidal rule, samples by many replicates that also say how far one of them may be off.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from dense import logsumexp, sigmoid, softmax

SERVER_SAMPLES = 256  # in antithetic pairs
REPLICATES = 24


def moderated(f: np.ndarray, variance: np.ndarray) -> np.ndarray:
    return f / np.sqrt(1 + np.pi / 8 * variance)


def entropy(p: np.ndarray) -> np.ndarray:
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


def binary_entropy(p: np.ndarray) -> np.ndarray:
    q = 1 - p
    return -p * np.log(np.maximum(p, 1e-300)) - q * np.log(np.maximum(q, 1e-300))


def laplace_bridge(f: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Mean of the Dirichlet, after conditioning the Gaussian on logits that sum to 0 (Hobbhahn et al. 2022)."""
    c = f.shape[1]
    alphas = []
    for m, cov in zip(f, v):
        # Conditioning written as the usual Schur complement on the sum.
        ones = np.ones(c)
        gain = cov @ ones / (ones @ cov @ ones)
        m = m - gain * m.sum()
        cov = cov - np.outer(gain, ones @ cov)
        alphas.append((1 - 2 / c + np.exp(m) / c**2 * np.exp(-m).sum()) / np.diag(cov))
    alpha = np.stack(alphas)
    return alpha / alpha.sum(1, keepdims=True)


def mean_field(f: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The second-order mean-field approximation (Lu, Ie, Sha 2020), made to sum to 1."""
    result = np.zeros_like(f)
    for n in range(len(f)):
        for k in range(f.shape[1]):
            total = 0.0
            for i in range(f.shape[1]):
                spread = v[n, k, k] + v[n, i, i] - 2 * v[n, k, i]
                total += np.exp((f[n, i] - f[n, k]) / np.sqrt(1 + np.pi / 8 * max(spread, 0)))
            result[n, k] = 1 / total
    return result / result.sum(1, keepdims=True)


@dataclass(frozen=True)
class Sampled:
    """Means over replicates of what SERVER_SAMPLES samples say, and the standard deviation between replicates."""

    mean: np.ndarray  # [B, C]
    mean_deviation: np.ndarray
    aleatoric: np.ndarray  # [B]
    aleatoric_deviation: np.ndarray
    epistemic: np.ndarray  # [B]
    epistemic_deviation: np.ndarray


def sample(f: np.ndarray, v: np.ndarray, seed: int) -> Sampled:
    random = np.random.default_rng([seed, 3])
    half = random.standard_normal((REPLICATES, SERVER_SAMPLES // 2, f.shape[1]))
    noise = np.concatenate([half, -half], 1)
    means, aleatorics, epistemics = [], [], []
    for m, cov in zip(f, v):
        values, vectors = np.linalg.eigh(cov)
        root = vectors * np.sqrt(np.maximum(values, 0)) @ vectors.T
        p = softmax(m + noise @ root)  # [replicates, samples, C]
        mean = p.mean(1)
        inner = entropy(p).mean(1)
        means.append(mean)
        aleatorics.append(inner)
        epistemics.append(entropy(mean) - inner)
    parts = []
    for values in (np.stack(means), np.stack(aleatorics), np.stack(epistemics)):
        parts += [values.mean(1), values.std(1, ddof=1)]
    return Sampled(*parts)


def bernoulli(f: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E sigmoid(f) and E of the entropy of one label, [B, C] each; to about 1e-12 for the variances of these tests."""
    step = 1 / 8  # the nearest pole is pi away: converges geometrically
    deviation = np.sqrt(np.maximum(variance, 0))[..., None]
    # In units of the deviation or of the logistic function's width, whichever is smaller.
    fine = step / np.maximum(deviation, 1)
    count = int(10 / step * max(1.0, float(deviation.max())))
    z = fine * np.arange(-count, count + 1)
    weights = np.exp(-z**2 / 2) * fine / np.sqrt(2 * np.pi)
    t = f[..., None] + deviation * z
    size = np.abs(t)
    inner = np.log1p(np.exp(-size)) + size * sigmoid(-size)
    return (sigmoid(t) * weights).sum(-1), (inner * weights).sum(-1)


def energy(kind: str, f: np.ndarray) -> np.ndarray:
    return -logsumexp(f) if kind == "categorical" else -np.logaddexp(0, f).sum(1)
