"""Metrics as scikit-learn and NumPy compute them, for tests of client/cli/metrics.h and detection_metrics.h.

    metrics_reference.py OUT.npz

Writes seeded random cases with the expected values beside them. Detection, case d: "d<d>/in", "d<d>/out" and "d<d>/expected" =
AUROC, AUPR-in, AUPR-out, FPR@95 with OOD and with ID as positive. Classification, case c: "c<c>/p" [N, C] float32, "c<c>/y" and
"c<c>/expected" = accuracy, NLL, ECE, Brier. Intervals: "binomial" rows of hits, n, confidence, lower, upper.
"""
import sys

import numpy as np
from scipy.stats import beta
from sklearn.metrics import accuracy_score, average_precision_score, log_loss, roc_auc_score, roc_curve


def fpr_at_95(positive, score):
    fpr, tpr, _ = roc_curve(positive, score, drop_intermediate=False)
    return fpr[np.argmax(tpr >= 0.95)]


def detection(inside, outside):
    score = np.concatenate([inside, outside])
    is_out = np.concatenate([np.zeros(len(inside), int), np.ones(len(outside), int)])
    return [roc_auc_score(is_out, score), average_precision_score(1 - is_out, -score),
            average_precision_score(is_out, score), fpr_at_95(is_out, score), fpr_at_95(1 - is_out, -score)]


def ece(p, y, bins=15):
    confidence, hit = p.max(1), p.argmax(1) == y
    total = 0.0
    for low, high in zip(np.arange(bins) / bins, np.arange(1, bins + 1) / bins):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(hit[inside].mean() - confidence[inside].mean())
    return total


def classification(p32, y):
    p = p32.astype(np.float64)
    brier = ((p - np.eye(p.shape[1])[y]) ** 2).sum(1).mean()
    # log_loss makes rows of float32 sum to one again, and clips at 1e-15, which no case here reaches.
    nll = -np.log(p[np.arange(len(y)), y]).mean()
    assert abs(nll - log_loss(y, p, labels=np.arange(p.shape[1]))) < 1e-5
    return [accuracy_score(y, p.argmax(1)), nll, ece(p, y), brier]


def main():
    rng = np.random.default_rng(20240501)
    arrays = {}
    # Sizes, gap between the means, and decimals kept: few decimals make many ties.
    cases = [(1, 1, 0, 9), (2, 3, 1, 9), (20, 20, 1, 9), (500, 300, 1, 9), (500, 300, 1, 1), (300, 500, 1, 0), (40, 2000, 2, 1),
             (2000, 40, -1, 1), (1000, 1000, 4, 2), (57, 83, 0, 0), (10000, 10000, 1.5, 9), (10000, 10000, 1.5, 2)]
    for d, (n_in, n_out, gap, decimals) in enumerate(cases):
        inside = np.round(rng.normal(size=n_in), decimals)
        outside = np.round(rng.normal(gap, 1.3, size=n_out), decimals)
        arrays.update({f"d{d}/in": inside, f"d{d}/out": outside, f"d{d}/expected": np.array(detection(inside, outside))})
    for c, (rows, classes, scale) in enumerate([(1, 2, 1), (7, 3, 1), (500, 10, 2), (3000, 10, 3), (400, 100, 3)]):
        logits = scale * rng.normal(size=(rows, classes))
        p = np.exp(logits - logits.max(1, keepdims=True))
        p = (p / p.sum(1, keepdims=True)).astype(np.float32)
        drawn = np.array([rng.choice(classes, p=row / row.sum()) for row in p.astype(np.float64)])
        y = np.where(rng.random(rows) < 0.8, drawn, rng.integers(0, classes, rows))
        arrays.update({f"c{c}/p": p, f"c{c}/y": y.astype(np.int64), f"c{c}/expected": np.array(classification(p, y))})
    binomial = []
    for hits, n, confidence in [(0, 10, .95), (10, 10, .95), (1, 1, .9), (3, 7, .5), (500, 10000, .95), (9999, 10000, .99),
                                (50000, 100000, .95)]:
        tail = (1 - confidence) / 2
        lower = beta.ppf(tail, hits, n - hits + 1) if hits else 0
        upper = beta.ppf(1 - tail, hits + 1, n - hits) if hits < n else 1
        binomial.append([hits, n, confidence, lower, upper])
    arrays["binomial"] = np.array(binomial, dtype=np.float64)
    np.savez(sys.argv[1], **arrays)


main()
