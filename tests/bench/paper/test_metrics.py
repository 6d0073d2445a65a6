"""Metrics against their definitions, written out the slow way."""
import numpy as np
import pytest

import metrics


def test_auroc_counts_pairs():
    random = np.random.default_rng(0)
    a, b = random.integers(0, 6, 40).astype(float), random.integers(1, 8, 30).astype(float)  # with ties
    pairs = np.mean([(p > n) + 0.5 * (p == n) for n in a for p in b])
    assert metrics.auroc(a, b) == pytest.approx(pairs, abs=1e-12)


def test_ece_of_stated_and_true_rates():
    p = np.array([[0.9, 0.1]] * 10 + [[0.6, 0.4]] * 10)
    y = np.array([0] * 8 + [1] * 2 + [0] * 6 + [1] * 4)  # 80 % right where 90 % are claimed; 60 % where 60 % are
    assert metrics.ece(p, y) == pytest.approx(0.05)
    assert metrics.accuracy(p, y) == pytest.approx(0.7)
    assert metrics.nll(p, y) == pytest.approx(-np.mean(np.log([0.9] * 8 + [0.1] * 2 + [0.6] * 6 + [0.4] * 4)))


def test_temperature_undoes_a_scale():
    random = np.random.default_rng(1)
    logits = random.normal(size=(20000, 4)) * 2
    labels = np.array([random.choice(4, p=p) for p in metrics.softmax(logits)])
    assert metrics.best_temperature(3 * logits, labels) == pytest.approx(3, rel=0.05)


def test_energy_and_entropy_have_the_signs_of_scores():
    sure, unsure = np.array([[9.0, 0, 0]]), np.array([[0.1, 0, 0]])
    assert metrics.energy(sure) < metrics.energy(unsure)
    assert metrics.entropy(metrics.softmax(sure)) < metrics.entropy(metrics.softmax(unsure))
    assert metrics.energy(sure)[0] == pytest.approx(-np.log(np.exp(9) + 2))


def test_mean_and_error():
    assert metrics.mean_and_error([1, 2, 3]) == (2, pytest.approx(1 / np.sqrt(3)))
    assert np.isnan(metrics.mean_and_error([1])[1])
