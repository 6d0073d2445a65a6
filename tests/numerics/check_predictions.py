"""Answers to Predict and Score: every link, mode and extra, against the dense posterior."""

from __future__ import annotations

from typing import Any

import numpy as np
from laplace_client import Client

import predictives
from check_scores import COMBINED, Scores, Values, check_thresholds, check_values, combined
from comparison import ANSWER, through
from dense import logsumexp, sigmoid, softmax
from gaussian import Outputs, outputs
from measured import Measured
from scores import IllConditioned
from subject import Subject

DRAWS = 128
LINKS = {"categorical": ("probit", "mc", "laplace_bridge", "mean_field"), "bernoulli": ("probit", "mc", "mean_field"),
         "gaussian": ("probit",)}


def check_predictions(subject: Subject, measured: Measured, client: Client) -> None:
    of = Scores.of(subject, measured)
    held_out = of.values(subject.validation, held_out=True) if measured.fit["validates"] else {}
    check_thresholds(subject, of, held_out)
    _check_exact(subject, measured, client, of, held_out)
    _check_links(subject, measured, client)
    _check_last_layer(subject, measured, client)
    _check_top_classes(subject, measured, client)
    # Two forward-mode passes for every draw: one fit of three.
    if (subject.case["seed"] + measured.fit["seed"]) % 3 == 0:
        _check_sampled(subject, measured, client)


def _gaussian(subject: Subject, measured: Measured, likelihood: float, prior: float) -> Outputs:
    at = subject.test.at.restricted(measured.selection.columns)
    return outputs(subject, measured, measured.at(likelihood, prior), at)


def _own(measured: Measured) -> tuple[float, float]:
    posterior = measured.posterior
    return posterior.n_data / posterior.options.temperature, posterior.prior_precision


def _expect(subject: Subject, what: str, got: Any, wanted: np.ndarray, tolerance: Any) -> None:
    """A number of an answer, which comes in single precision."""
    wanted = np.asarray(wanted)
    subject.ledger.expect(what, got, wanted, tolerance + 1.01 * ANSWER * np.abs(wanted) + 1e-37)


def _check_exact(subject: Subject, measured: Measured, client: Client, of: Scores, held_out: Values) -> None:
    ledger, data = subject.ledger, subject.test
    names = sorted(of.names())
    answer = client.predict(subject.name, data.x, ood_scores=names, return_covariance=True, return_joint_covariance=True)
    ledger.require(answer.variance_mode == "exact", f"variance_mode: expected exact, got {answer.variance_mode}")
    gaussian = _gaussian(subject, measured, *_own(measured))
    _expect(subject, "functional_mean", answer.functional_mean, gaussian.f, gaussian.f_tolerance)
    plain = {"categorical": softmax, "bernoulli": sigmoid, "gaussian": lambda f: f}[subject.case["likelihood"]]
    _expect(subject, "map_mean", answer.map_mean, plain(gaussian.f), through(plain, [gaussian.f], [gaussian.f_tolerance]))
    _expect(subject, "functional_variance", answer.variance, gaussian.variance, gaussian.variance_tolerance)
    _expect(subject, "functional_covariance", answer.covariance, gaussian.v, gaussian.v_tolerance)
    _check_mean(subject, measured, answer, gaussian, "probit")
    # All rows at once, as if they were outputs of one example.
    j = data.at.restricted(measured.selection.columns).j
    size, outputs_ = len(data.x), j.shape[1]
    spread = j.reshape(-1, j.shape[2]) @ measured.at(*_own(measured)).sigma
    joint = (spread @ j.reshape(-1, j.shape[2]).T).reshape(size, outputs_, size, outputs_)
    roots = np.sqrt(gaussian.variance_tolerance)
    largest = np.maximum(roots[:, :, None, None], roots.max()) * roots.max()
    _expect(subject, "joint_covariance", answer.joint_covariance, joint, np.broadcast_to(largest, joint.shape))

    mine = of.values(data)
    if "combined" in names and all(name in mine and name in held_out for name in COMBINED):
        try:
            mine["combined"] = combined(mine, held_out)
        except IllConditioned as reason:
            ledger.skip(f"score combined: {reason}")
    check_values(subject, answer.ood, mine, "predict")
    if "mutual_information" in names and "mutual_information" not in mine:
        at_scores = of.gaussian(data)
        sampled = predictives.sample(at_scores.f, at_scores.v, subject.case["seed"])
        _expect_sampled(subject, "score:mutual_information", answer.ood["mutual_information"].values, sampled.epistemic,
                        sampled.epistemic_deviation, at_scores)
    alone = client.score(subject.name, data.x, ood_scores=names)
    for name in names:
        # The same formulas on the same numbers; Score may compute a variance where Predict computes a covariance.
        a, b = alone.ood[name].values, answer.ood[name].values
        tolerance = mine[name][1] if name in mine else 1e-5 + 1e-3 * np.abs(b)
        ledger.expect("score_is_predict", a, b, 2 * tolerance)


def _expect_sampled(subject: Subject, what: str, got: Any, wanted: np.ndarray, deviation: np.ndarray,
                    gaussian: Outputs) -> None:
    """Eight standard deviations of what as many samples as the server takes scatter by, and what rounding of the
    Gaussian may do: probabilities and entropies of C classes move at most with the logits, ln C times."""
    roots = np.sqrt(gaussian.variance)
    moved = (gaussian.variance_tolerance / np.maximum(roots, np.sqrt(gaussian.variance_tolerance) + 1e-300)).max(1)
    rounding = 4 * (gaussian.f_tolerance + 3 * moved) * np.log(gaussian.f.shape[1] + 1)
    rounding = rounding[:, None] if np.ndim(wanted) == 2 else rounding
    _expect(subject, what, got, wanted, 8 * deviation * np.sqrt(1 + 1 / predictives.REPLICATES) + rounding + 1e-9)


def _check_mean(subject: Subject, measured: Measured, answer: Any, gaussian: Outputs, link: str) -> None:
    """mean, epistemic and aleatoric of an answer with this link."""
    kind = subject.case["likelihood"]
    f, v, tolerances = gaussian.f, gaussian.v, [gaussian.f_tolerance, gaussian.v_tolerance]
    diagonal = lambda matrix: np.maximum(np.diagonal(matrix, axis1=1, axis2=2), 0)  # noqa: E731
    if kind == "gaussian":
        _expect(subject, "mean", answer.mean, f, gaussian.f_tolerance)
        _expect(subject, "epistemic", answer.epistemic, gaussian.variance, gaussian.variance_tolerance)
        sigma = measured.likelihood.sigma
        _expect(subject, "aleatoric", answer.aleatoric, np.full_like(f, sigma**2), 1e-12 * sigma**2)
        return
    if kind == "bernoulli":
        mean, inner = predictives.bernoulli(f, gaussian.variance)
        if link == "mc":
            wanted = lambda f, v: predictives.bernoulli(f, diagonal(v))[0]  # noqa: E731
        else:
            wanted = lambda f, v: sigmoid(predictives.moderated(f, diagonal(v)))  # noqa: E731
        _expect(subject, f"mean_{link}", answer.mean, wanted(f, v), through(wanted, [f, v], tolerances) + 1e-10)
        parts = lambda f, v: predictives.bernoulli(f, diagonal(v))[1]  # noqa: E731
        _expect(subject, "aleatoric", answer.aleatoric, inner, through(parts, [f, v], tolerances) + 1e-10)

        def information(f: np.ndarray, v: np.ndarray) -> np.ndarray:
            mean, inner = predictives.bernoulli(f, diagonal(v))
            return predictives.binary_entropy(mean) - inner

        _expect(subject, "epistemic", answer.epistemic, information(f, v), through(information, [f, v], tolerances) + 1e-9)
        return
    if link == "mc":
        sampled = predictives.sample(f, v, subject.case["seed"])
        _expect_sampled(subject, "aleatoric_mc", answer.aleatoric, sampled.aleatoric, sampled.aleatoric_deviation, gaussian)
        _expect_sampled(subject, "epistemic_mc", answer.epistemic, sampled.epistemic, sampled.epistemic_deviation, gaussian)
        _expect_sampled(subject, "mean_mc", answer.mean, sampled.mean, sampled.mean_deviation, gaussian)
        # One set of samples for all three.
        total = predictives.entropy(answer.mean.astype(float))
        subject.ledger.expect("epistemic+aleatoric", answer.epistemic + answer.aleatoric, total, 1e-5)
        return
    function = {
        "probit": lambda f, v: softmax(predictives.moderated(f, diagonal(v))),
        "laplace_bridge": predictives.laplace_bridge,
        "mean_field": predictives.mean_field,
    }[link]
    symmetric = lambda f, v: function(f, (v + v.transpose(0, 2, 1)) / 2)  # noqa: E731
    _expect(subject, f"mean_{link}", answer.mean, symmetric(f, v), through(symmetric, [f, v], tolerances))


def _check_links(subject: Subject, measured: Measured, client: Client) -> None:
    """Each with a prior precision and a temperature of the request's own."""
    random = np.random.default_rng([subject.case["seed"], 7])
    for link in LINKS[subject.case["likelihood"]]:
        prior = measured.posterior.prior_precision * float(10 ** random.uniform(-0.5, 1))
        temperature = float(random.choice([0.5, 1.0, 2.0]))
        answer = client.predict(subject.name, subject.test.x, link_approx=link, prior_precision=prior, temperature=temperature,
                                return_covariance=True)
        gaussian = _gaussian(subject, measured, measured.posterior.n_data / temperature, prior)
        _expect(subject, "functional_covariance", answer.covariance, gaussian.v, gaussian.v_tolerance)
        if link == "laplace_bridge" and _sum_is_known(gaussian):
            subject.ledger.skip("laplace_bridge: the sum of the logits has no variance, up to rounding")
            continue
        _check_mean(subject, measured, answer, gaussian, link)


def _sum_is_known(gaussian: Outputs) -> bool:
    total = gaussian.v.sum((1, 2))
    rest = gaussian.variance - gaussian.v.sum(2) ** 2 / np.maximum(total, 1e-300)[:, None]
    return bool((total <= 1e3 * gaussian.v_tolerance.sum((1, 2))).any()
                or (rest <= 1e2 * gaussian.v_tolerance.sum((1, 2))[:, None]).any())


def _check_last_layer(subject: Subject, measured: Measured, client: Client) -> None:
    head = [name for name in measured.selection.names if name in subject.head_names]
    if not head:
        return
    columns = np.concatenate([np.arange(place.start, place.stop) for place in map(measured.selection.place, head)])
    answer = client.predict(subject.name, subject.test.x, variance_mode="last_layer", return_covariance=True)
    at = subject.test.at.restricted(measured.selection.columns)
    gaussian = outputs(subject, measured, measured.at(*_own(measured)), at, columns)
    _expect(subject, "last_layer_covariance", answer.covariance, gaussian.v, gaussian.v_tolerance)


def _check_top_classes(subject: Subject, measured: Measured, client: Client) -> None:
    if subject.case["likelihood"] != "categorical":
        return
    c = subject.case["outputs"]
    m = int(np.random.default_rng([subject.case["seed"], 8]).integers(1, c + 1))
    gaussian = _gaussian(subject, measured, *_own(measured))
    ordered = np.sort(gaussian.f, 1)
    if c > 1 and np.diff(ordered, axis=1).min() <= 2 * gaussian.f_tolerance:
        subject.ledger.skip("top_classes: two logits are equal, up to rounding")
        return
    answer = client.predict(subject.name, subject.test.x, variance_mode="top_classes", top_classes=m)
    top = np.argsort(-gaussian.f, 1)[:, :m]
    subject.ledger.expect("variance_outputs", answer.variance_outputs, top, 0)
    take = lambda a: np.take_along_axis(a, top, 1)  # noqa: E731
    _expect(subject, "top_variance", answer.variance, take(gaussian.variance), take(gaussian.variance_tolerance))
    known = np.zeros_like(gaussian.f)
    np.put_along_axis(known, top, 1.0, 1)

    def mean(f: np.ndarray, variance: np.ndarray) -> np.ndarray:
        return softmax(predictives.moderated(f, np.maximum(variance, 0) * known))

    arguments = [gaussian.f, gaussian.variance], [gaussian.f_tolerance, gaussian.variance_tolerance]
    _expect(subject, "top_mean", answer.mean, mean(*arguments[0]), through(mean, *arguments))
    if m == c:
        return
    _expect(subject, "left_out_probability", answer.left_out_probability, (mean(*arguments[0]) * (1 - known)).sum(1),
            through(lambda *values: (mean(*values) * (1 - known)).sum(1), *arguments))
    # What it promises: the true answer is no further away, whatever the variances left out are.
    truth = softmax(predictives.moderated(gaussian.f, gaussian.variance))
    off = np.abs(truth - answer.mean).max(1)
    subject.ledger.require(bool((off <= answer.left_out_bound + 1e-5).all()),
                           f"left_out_bound: {answer.left_out_bound} does not bound the error {off}")
    rest = logsumexp(np.where(known > 0, -np.inf, np.maximum(gaussian.f, 0)))
    taken = logsumexp(np.where(known > 0, predictives.moderated(gaussian.f, gaussian.variance), -np.inf))
    _expect(subject, "left_out_bound", answer.left_out_bound, sigmoid(rest - taken),
            (through(lambda f, v: logsumexp(np.where(known > 0, predictives.moderated(f, np.maximum(v, 0)), -np.inf)), *arguments)
             + gaussian.f_tolerance))


def _check_sampled(subject: Subject, measured: Measured, client: Client) -> None:
    """Functions drawn from the posterior: their variances are estimates, and those of the answer are theirs."""
    answer = client.predict(subject.name, subject.test.x, variance_mode="sampled", samples=DRAWS, return_samples=DRAWS,
                            seed=subject.case["seed"] + 1)
    gaussian = _gaussian(subject, measured, *_own(measured))
    deviations = answer.samples.astype(float) - gaussian.f
    scale = np.abs(answer.samples).max()
    seen = (deviations**2).mean(0)
    rounding = 8 * ANSWER * scale + subject.rounding.outputs
    # Functions are differences from f in single precision.
    _expect(subject, "sampled_variance", answer.variance, seen,
            2 * np.sqrt(seen) * rounding + rounding**2 + 1e-4 * seen * (subject.case["dtype"] == "float32"))
    subject.ledger.expect("sampled_error", answer.variance_relative_error, np.sqrt(2 / DRAWS), 1e-12)
    # Of the truth: seven standard deviations of a chi-squared with DRAWS degrees of freedom.
    variance = gaussian.variance + gaussian.variance_tolerance
    subject.ledger.expect("sampled_truth", answer.variance, gaussian.variance,
                          7 * np.sqrt(2 / DRAWS) * variance + gaussian.variance_tolerance + rounding**2 + 1e-37)
    mean = deviations.mean(0)
    subject.ledger.expect("sampled_mean", mean, np.zeros_like(mean), 7 * np.sqrt(variance / DRAWS) + rounding)
