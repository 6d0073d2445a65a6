"""What the experiments measure: plain functions of arrays."""
import numpy as np

ECE_BINS = 15


def softmax(logits):
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def accuracy(probabilities, labels):
    return float(np.mean(probabilities.argmax(axis=-1) == labels))


def nll(probabilities, labels):
    """Mean negative log likelihood of the true classes, in nats."""
    return float(-np.mean(np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-30))))


def ece(probabilities, labels):
    """Expected calibration error: |mean confidence - accuracy| in 15 bins of equal width, weighted by their shares."""
    confidence = probabilities.max(axis=-1)
    right = probabilities.argmax(axis=-1) == labels
    bins = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    gaps = np.bincount(bins, confidence - right, ECE_BINS)
    return float(np.abs(gaps).sum() / len(labels))


def entropy(probabilities):
    return -np.sum(probabilities * np.log(np.maximum(probabilities, 1e-30)), axis=-1)


def energy(logits):
    """Minus log sum exp: higher is more out-of-distribution."""
    top = logits.max(axis=-1)
    return -(top + np.log(np.exp(logits - top[..., np.newaxis]).sum(axis=-1)))


def auroc(negative, positive):
    """The chance that a positive has the larger score than a negative, ties counting half."""
    values, inverse, counts = np.unique(np.concatenate([negative, positive]), return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2
    of_positive = ranks[inverse[len(negative) :]].sum()
    pairs = len(negative) * len(positive)
    return float((of_positive - len(positive) * (len(positive) + 1) / 2) / pairs)


def best_temperature(logits, labels):
    """The temperature that logits are divided by for the least NLL: golden section on its logarithm, from 1/20 to 20."""
    loss = lambda t: nll(softmax(logits / np.exp(t)), labels)
    low, high = -np.log(20), np.log(20)
    ratio = (np.sqrt(5) - 1) / 2
    for _ in range(60):
        a, b = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return float(np.exp((low + high) / 2))


def mean_and_error(values):
    """Mean and its standard error over repetitions; no error for one, and neither for none."""
    values = np.asarray(values, float)
    if len(values) == 0:
        return float("nan"), float("nan")
    error = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else float("nan")
    return float(values.mean()), float(error)
