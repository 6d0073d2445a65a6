"""Out-of-distribution scores from their definitions, with NumPy, SciPy and scikit-learn: the oracle of server/ood.

    python3 ood_reference.py IN.npz OUT.npz

IN holds train_phi [N, D], train_y [N], train_f [N, C], val_f [n, C], head_w [C, D], head_b [C], and the examples to score:
phi [B, D], f [B, C], v [B, C, C] (their functional covariance). Every training example is in the bank. OUT has one [B] array for
every score; higher is more out-of-distribution. With val_phi [n, D] and val_v [n, C, C] `combined` is among them. `mutual_information` averages its own Monte Carlo samples. If IN has `is_ood` [B] and
`served/<score>` [B], the AUROC of both is printed, one line for each score: name, that of the served values, that of these.
"""
import sys

import numpy as np
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy
from sklearn.covariance import EmpiricalCovariance
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import normalize


def logit_scores(f, val_f):
    p = softmax(f, axis=1)
    top = np.sort(p, axis=1)[:, ::-1][:, :100]
    val_p = softmax(val_f, axis=1)
    predicted = val_p.argmax(axis=1)
    templates = [val_p[predicted == c].mean(axis=0) for c in range(f.shape[1]) if (predicted == c).any()]
    return {
        "msp": 1 - p.max(axis=1),
        "max_logit": -f.max(axis=1),
        "energy": -logsumexp(f, axis=1),
        "entropy": entropy(p, axis=1),
        "gen": (top**0.1 * (1 - top) ** 0.1).sum(axis=1),
        "kl_matching": np.min([entropy(p, t[None], axis=1) for t in templates], axis=0),
    }


def mahalanobis_distances(x, covariance, mean):
    return EmpiricalCovariance(assume_centered=True).fit(covariance).mahalanobis(x - mean)


def feature_scores(d):
    phi, f, train, y = d["phi"], d["f"], d["train_phi"], d["train_y"]
    means = {c: train[y == c].mean(axis=0) for c in np.unique(y)}
    centred = train - np.stack([means[c] for c in y])
    tied = np.min([mahalanobis_distances(phi, centred, m) for m in means.values()], axis=0)
    of_all = mahalanobis_distances(phi, train - train.mean(axis=0), train.mean(axis=0))

    k = max(1, len(train) // 1000)
    neighbours = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(normalize(train))

    w, b = d["head_w"], d["head_b"]
    origin = -np.linalg.pinv(w) @ b
    shifted = train - origin
    values, vectors = np.linalg.eigh(shifted.T @ shifted / len(train))
    n_features = train.shape[1]
    dims = 1000 if n_features >= 2048 else 512 if n_features >= 768 else n_features // 2
    rest = vectors[:, np.argsort(-values)[dims:]]
    alpha = d["train_f"].max(axis=1).sum() / np.linalg.norm(shifted @ rest, axis=1).sum()

    clipped = np.minimum(phi, np.quantile(train, 0.9))
    return {
        "mahalanobis": tied,
        "relative_mahalanobis": tied - of_all,
        "knn": neighbours.kneighbors(normalize(phi))[0][:, k - 1],
        "vim": alpha * np.linalg.norm((phi - origin) @ rest, axis=1) - logsumexp(f, axis=1),
        "react": -logsumexp(clipped @ w.T + b, axis=1),
    }


def posterior_scores(f, v):
    diagonal = np.diagonal(v, axis1=1, axis2=2)
    moderated = f / np.sqrt(1 + np.pi / 8 * diagonal)
    p = softmax(moderated, axis=1)
    values, vectors = np.linalg.eigh(v)
    root = vectors * np.sqrt(np.maximum(values, 0))[:, None, :]
    rng = np.random.default_rng(7)
    mean, mean_entropy, n = 0, 0, 4000
    for z in rng.standard_normal((n, f.shape[1])):
        q = softmax(f + root @ z, axis=1)
        mean, mean_entropy = mean + q / n, mean_entropy + entropy(q, axis=1) / n
    return {
        "variance": diagonal.sum(axis=1),
        "laplace_entropy": -(p * log_softmax(moderated, axis=1)).sum(axis=1),
        "laplace_msp": 1 - p.max(axis=1),
        "moderated_energy": -logsumexp(moderated, axis=1),
        "mutual_information": entropy(mean, axis=1) - mean_entropy,
    }


def combined(scores, of_validation):
    """The soft maximum of three scores, each from its median over validation in steps of what the 95 % quantile is above it."""
    views = []
    for name in ("knn", "react", "moderated_energy"):
        median, upper = np.quantile(of_validation[name], [0.5, 0.95])
        views.append((scores[name] - median) / (upper - median))
    return logsumexp(2 * np.array(views), axis=0) / 2


def main():
    with np.load(sys.argv[1]) as file:
        d = {name: file[name] for name in file.files}
    scores = {**logit_scores(d["f"], d["val_f"]), **feature_scores(d), **posterior_scores(d["f"], d["v"])}
    if "val_v" in d:
        val = {**d, "phi": d["val_phi"], "f": d["val_f"]}
        scores["combined"] = combined(scores, {**feature_scores(val), **posterior_scores(d["val_f"], d["val_v"])})
    np.savez(sys.argv[2], **scores)
    if "is_ood" not in d:
        return
    for name, values in scores.items():
        served = roc_auc_score(d["is_ood"], d["served/" + name])
        print(f"{name} {served:.12f} {roc_auc_score(d['is_ood'], values):.12f}")


if __name__ == "__main__":
    main()
