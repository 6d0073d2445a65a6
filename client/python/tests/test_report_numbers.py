"""The numbers of the report against values written out by hand and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest

from laplace_client.report import numbers
from laplace_client.types import ParameterBlock, PriorCandidate


def test_reliability_bins_are_closed_above() -> None:
    # Four bins (0, .25], (.25, .5], (.5, .75], (.75, 1].
    stated = np.array([0.25, 0.5, 0.5, 0.75, 1.0, 0.0])
    bins = numbers.reliability(stated, np.array([1, 0, 1, 1, 1, 0]), bins=4)
    assert bins.counts.tolist() == [2, 2, 1, 1]
    np.testing.assert_allclose(bins.probability, [0.125, 0.5, 0.75, 1.0])
    np.testing.assert_allclose(bins.rate, [0.5, 0.5, 1.0, 1.0])
    np.testing.assert_allclose(bins.standard_error[:2], np.sqrt(0.25 / 2))
    # (2 * .375 + 2 * 0 + 1 * .25 + 1 * 0) / 6
    assert bins.ece == pytest.approx(1.0 / 6)


def test_empty_bins_count_nothing_and_have_no_rate() -> None:
    bins = numbers.reliability(np.array([0.9, 0.95]), np.array([True, False]), bins=10)
    assert bins.counts.tolist() == [0] * 8 + [1, 1]
    assert np.isnan(bins.rate[:8]).all()
    assert bins.ece == pytest.approx((0.1 + 0.95) / 2)


def test_reliability_agrees_with_scikit_learn() -> None:
    calibration = pytest.importorskip("sklearn.calibration", reason="needs scikit-learn")
    random = np.random.default_rng(0)
    p = random.uniform(size=5000)
    true = random.uniform(size=5000) < p**1.5
    bins = numbers.reliability(p, true, bins=15)
    rate, probability = calibration.calibration_curve(true, p, n_bins=15)
    np.testing.assert_allclose(bins.rate, rate)
    np.testing.assert_allclose(bins.probability, probability)


def test_categorical_quality_written_out() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.0, 0.9]])
    quality = numbers.categorical_quality(p, np.array([0, 2, 1]))
    assert quality.accuracy == pytest.approx(1 / 3)
    smallest = np.finfo(np.float32).tiny
    assert quality.nll == pytest.approx(-(np.log(0.7) + np.log(0.3) + np.log(smallest)) / 3)
    assert quality.ece == pytest.approx((0.3 + 0.4 + 0.9) / 3)


def test_bernoulli_quality_written_out() -> None:
    p = np.array([[0.9, 0.2], [0.6, 0.7]])
    quality = numbers.bernoulli_quality(p, np.array([[1, 0], [0, 1]]))
    assert quality.accuracy == pytest.approx(0.75)
    assert quality.nll == pytest.approx(-np.log([0.9, 0.8, 0.4, 0.7]).mean())
    # Label by label: (|1 - .9| + |0 - .6|) / 2 and (|0 - .2| + |1 - .7|) / 2.
    assert quality.ece == pytest.approx((0.35 + 0.25) / 2)
    assert quality.bins.counts.sum() == 4


@pytest.mark.parametrize("levels", [4, 10**9])
def test_auroc_and_roc_agree_with_scikit_learn(levels: int) -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    random = np.random.default_rng(1)
    # Few levels: most scores tie.
    inside = np.floor(random.normal(0.0, 1, 300) * levels) / levels
    outside = np.floor(random.normal(0.8, 2, 200) * levels) / levels
    truth = np.r_[np.zeros(300), np.ones(200)]
    everything = np.r_[inside, outside]
    assert numbers.auroc(inside, outside) == pytest.approx(metrics.roc_auc_score(truth, everything))
    false, true = numbers.roc(inside, outside)
    expected_false, expected_true, _ = metrics.roc_curve(truth, everything, drop_intermediate=False)
    np.testing.assert_allclose(false, expected_false)
    np.testing.assert_allclose(true, expected_true)
    wanted = expected_false[np.argmax(expected_true >= 0.95)]
    assert numbers.fpr_at_95(inside, outside) == pytest.approx(wanted)


def test_detection_written_out() -> None:
    inside, outside = np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0])
    # Of six pairs four are in order, one ties, one is not.
    assert numbers.auroc(inside, outside) == pytest.approx(4.5 / 6)
    # All of OOD is flagged from 2 on: 2 and 3 of ID are too.
    assert numbers.fpr_at_95(inside, outside) == pytest.approx(2 / 3)


@pytest.mark.parametrize("outside", [np.empty(0), np.array([1.0, np.nan])])
def test_detection_without_a_meaning_is_nan(outside: np.ndarray) -> None:
    inside = np.array([1.0, 2.0])
    assert np.isnan(numbers.auroc(inside, outside))
    assert np.isnan(numbers.fpr_at_95(inside, outside))
    assert numbers.roc(inside, outside)[0].size == 0


def test_thinning_keeps_ends_and_shape() -> None:
    random = np.random.default_rng(2)
    x, y = numbers.roc(random.normal(0, 1, 4000), random.normal(1.5, 1, 4000))
    few_x, few_y = numbers.thin(x, y, 200)
    assert len(few_x) <= 200
    assert (few_x[0], few_y[0], few_x[-1], few_y[-1]) == (0, 0, 1, 1)
    # The curve is two units long; no point of it is further than two steps from one that was kept.
    distance = np.abs(x[:, None] - few_x) + np.abs(y[:, None] - few_y)
    assert distance.min(axis=1).max() <= 2 * 2 / 199


def test_histogram_counts_everything_once() -> None:
    values = np.r_[np.linspace(0, 1, 1000), 50.0, -np.inf]
    edges = numbers.histogram_edges([values, np.array([0.2, 0.3])], include=2.0, bins=20)
    assert edges[0] < 0.01 and edges[-1] == 2.0 and len(edges) == 21
    shares = numbers.shares(values, edges)
    assert shares.sum() == pytest.approx(1.0)
    assert shares[-1] == pytest.approx(1 / 1002)  # the outlier
    assert shares[0] > 1 / 1002


def test_histogram_of_one_value_has_a_width() -> None:
    edges = numbers.histogram_edges([np.array([3.0, 3.0])])
    assert edges[0] < 3 < edges[-1]
    assert numbers.histogram_edges([np.empty(0)])[-1] == 1.0


def test_bias_ratio_and_its_error() -> None:
    found = numbers.bias_ratio(
        np.array([4.0, 3.0, 1.0]), np.array([2.0, 2.0, 0.0]), np.array([0.1, 0.2, 0.1])
    )
    np.testing.assert_allclose(found.ratio, [2.0, 1.5, np.nan])
    np.testing.assert_allclose(found.standard_error, [0.1, 0.15, np.nan])
    assert found.of_sums == pytest.approx(2.0)
    assert np.isnan(numbers.bias_ratio(np.ones(1), np.zeros(1)).of_sums)


def test_bias_ratio_error_is_the_spread_of_the_ratio() -> None:
    random = np.random.default_rng(3)
    draws = 3.0 / random.normal(2.0, 0.02, 200_000)
    found = numbers.bias_ratio(np.array([3.0]), np.array([2.0]), np.array([0.02]))
    assert found.standard_error[0] == pytest.approx(draws.std(), rel=0.02)


def _block(name: str, size: int, trace: float, residual: float) -> ParameterBlock:
    return ParameterBlock(name, size, "directions", trace, residual, 0.0, 0.0)


def test_layers_are_weights_with_their_biases() -> None:
    layers = numbers.residual_by_layer(
        [
            _block("a.0.weight", 10, 3.0, 0.1),
            _block("a.0.bias", 2, 1.0, 0.5),
            _block("w", 4, 0.0, 0.0),
        ]
    )
    assert [layer.layer for layer in layers] == ["a.0", "w"]
    assert (layers[0].n_parameters, layers[0].trace) == (12, 4.0)
    assert layers[0].share == pytest.approx((10 * 0.1 + 2 * 0.5) / 4.0)
    assert layers[1].share == 0.0


def test_candidates_split_where_the_precision_falls() -> None:
    candidates = [PriorCandidate(d, 0.0, 0.0) for d in (1.0, 2.0, 4.0, 2.0, 2.5)]
    grid, steps = numbers.split_candidates(candidates)
    assert [c.prior_precision for c in grid] == [1.0, 2.0, 4.0]
    assert [c.prior_precision for c in steps] == [2.0, 2.5]
    assert numbers.split_candidates([]) == ([], [])
