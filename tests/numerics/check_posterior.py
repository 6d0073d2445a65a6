"""Evidence, prior precisions, losses and thresholds of a fit."""

from __future__ import annotations

from typing import Any, Callable

import numpy as np

import posteriors
import scores
from comparison import through
from dense import Likelihood
from gaussian import Outputs, outputs
from measured import Measured
from predictives import moderated
from subject import Data, Subject

CANDIDATES = 4  # of the grid that are compared


def expected_noise(subject: Subject, posterior: Any) -> Likelihood:
    """The likelihood with the noise that the fit ended with, which is checked unless it is by EVIDENCE (check_posterior)."""
    kind = subject.case["likelihood"]
    if kind != "gaussian":
        return Likelihood(kind)
    sigma, data = posterior.options.sigma_noise, subject.train
    if posterior.options.noise_method == "manifest":
        subject.ledger.expect("sigma_noise", sigma, subject.case["sigma_noise"], 0)
    elif posterior.options.noise_method == "data":
        residuals = data.at.f - data.y
        off = subject.rounding.outputs
        wanted = np.sqrt((residuals**2).mean())
        subject.ledger.expect("sigma_noise", sigma, wanted, off + 1e-12)
    return Likelihood(kind, sigma)


def check_posterior(subject: Subject, measured: Measured) -> None:
    ledger, posterior, case = subject.ledger, measured.posterior, subject.case
    temperature = posterior.options.temperature
    ledger.expect("n_data", posterior.n_data, subject.count, 0)
    likelihood = posterior.n_data / temperature
    data = subject.train
    loss = measured.likelihood.loss(data.at.f, data.y)
    loss_tolerance = through(lambda f: measured.likelihood.loss(f, data.y), [data.at.f], [subject.rounding.outputs]).max()
    # The noise's own rounding moves the loss, at most by itself twice.
    if case["likelihood"] == "gaussian":
        loss_tolerance += 4 * subject.rounding.outputs / measured.likelihood.sigma * np.abs(loss).max()
    ledger.expect("mean_train_loss", posterior.mean_train_loss, loss.mean(), loss_tolerance)

    def evidence(prior: float) -> tuple[float, float, float]:
        """At a prior precision, with its tolerance and that of the effective parameters."""
        at = measured.at(likelihood, prior)
        value = at.log_marginal_likelihood(loss.mean() * posterior.n_data, temperature,
                                           subject.parameters[measured.selection.columns])
        # |d log det| <= likelihood * (sum of |d eigenvalues of H|) * |Sigma|
        moved = likelihood * measured.h_tolerance / np.linalg.eigvalsh(at.precision)[0]
        return value, likelihood * loss_tolerance + moved / 2 + 1e-11 * (abs(value) + len(at.k)), moved

    value, tolerance, moved = evidence(posterior.prior_precision)
    ledger.expect("log_marginal_likelihood", posterior.log_marginal_likelihood, value, tolerance)
    dense = measured.at(likelihood, posterior.prior_precision)
    ledger.expect("effective_parameters", posterior.effective_parameters, dense.effective_parameters,
                  moved + 1e-10 * len(dense.k))
    _check_prior(subject, measured, dense, moved)

    grid = [c for c in posterior.prior_candidates][:8 * 7 + 1]
    center = posterior.n_data * case["weight_decay"]
    ledger.expect("prior_grid", [c.prior_precision for c in grid], center * 10 ** (np.arange(-21, 36) / 7),
                  1e-12 * center * 10 ** (np.arange(-21, 36) / 7))
    random = np.random.default_rng([case["seed"], 6])
    for i in random.choice(len(grid), CANDIDATES, replace=False):
        value, tolerance, _ = evidence(grid[i].prior_precision)
        ledger.expect("candidate_evidence", grid[i].log_marginal_likelihood, value, tolerance)
        if not measured.fit["validates"]:
            ledger.expect("candidate_nll", grid[i].validation_nll, 0, 0)
            continue
        held_out = subject.validation
        at = measured.at(likelihood, grid[i].prior_precision)
        gaussian = outputs(subject, measured, at, held_out.at.restricted(measured.selection.columns))
        ledger.expect("candidate_nll", grid[i].validation_nll, *_nll(measured.likelihood, gaussian, held_out))
    if measured.fit["validates"]:
        held_out = subject.validation
        plain = measured.likelihood.loss(held_out.at.f, held_out.y)
        off = through(lambda f: measured.likelihood.loss(f, held_out.y), [held_out.at.f], [subject.rounding.outputs]).max()
        ledger.expect("validation_nll_map", posterior.validation_nll_map, plain.mean(), off + loss_tolerance)


def _nll(likelihood: Likelihood, gaussian: Outputs, data: Data) -> tuple[float, float]:
    """Mean negative log likelihood of the predictive at the targets, and its tolerance."""

    def loss(f: np.ndarray, variance: np.ndarray) -> np.ndarray:
        if likelihood.kind == "gaussian":
            total = np.maximum(variance, 0) + likelihood.sigma**2
            return (0.5 * (f - data.y) ** 2 / total + 0.5 * np.log(2 * np.pi * total)).sum(1)
        return likelihood.loss(moderated(f, np.maximum(variance, 0)), data.y)

    off = through(loss, [gaussian.f, gaussian.variance], [gaussian.f_tolerance, gaussian.variance_tolerance])
    return float(loss(gaussian.f, gaussian.variance).mean()), float(off.max())


def _check_prior(subject: Subject, measured: Measured, dense: posteriors.Posterior, moved: float) -> None:
    """`moved`: tolerance of the effective parameters."""
    ledger, posterior, fit = subject.ledger, measured.posterior, measured.fit
    method, delta = fit["prior_method"], posterior.prior_precision
    ledger.expect("ood_prior_precision", posterior.ood_prior_precision, fit["ood_prior_precision"], 0)
    if method == "given":
        ledger.expect("prior_precision", delta, fit["prior_precision"], 0)
    elif method == "weight_decay":
        wanted = subject.count * subject.case["weight_decay"]
        ledger.expect("prior_precision", delta, wanted, 1e-14 * wanted)
    elif method == "validation":
        best = min(posterior.prior_candidates, key=lambda c: c.validation_nll)
        ledger.expect("prior_precision", delta, best.prior_precision, 0)
    settled = not any("did not settle" in warning for warning in posterior.warnings)
    mode = subject.parameters[measured.selection.columns]
    gamma = dense.effective_parameters
    if method == "evidence" and settled and 1e-12 < delta < 1e12:
        # MacKay's fixed point; steps end when one changes less than 1e-6.
        ledger.expect("evidence_fixed_point", gamma / (dense.k * mode**2).sum() / delta, 1, 1e-3 + moved / gamma)
    if posterior.options.noise_method == "evidence" and settled:
        likelihood = posterior.n_data / posterior.options.temperature
        if method == "validation":  # which comes after the noise, that was found with the weight decay's precision
            gamma = measured.at(likelihood, subject.count * subject.case["weight_decay"]).effective_parameters
        squares = ((subject.train.at.f - subject.train.y) ** 2).sum(1).mean()
        free = max(likelihood * subject.case["outputs"] - gamma, 1)
        wanted = np.sqrt(likelihood * squares / free)
        ledger.expect("noise_fixed_point", wanted / measured.likelihood.sigma, 1, 1e-3 + moved / free)


def score_tolerance(gaussian: Outputs, rows: scores.Rows, function: Callable[[scores.Rows], np.ndarray],
                    phi_tolerance: float, outside_tolerance: np.ndarray | None) -> np.ndarray:
    """How far a score moves with the rows that it is asked for."""
    names = ["f", "v", "phi"] + (["outside"] if rows.outside is not None else [])
    tolerances = [gaussian.f_tolerance, gaussian.v_tolerance, phi_tolerance, outside_tolerance]

    def of(*values: np.ndarray) -> np.ndarray:
        parts = dict(zip(names, values))
        v = parts["v"]
        return function(scores.Rows(parts["f"], (v + v.transpose(0, 2, 1)) / 2, parts["phi"], parts.get("outside")))

    return through(of, [getattr(rows, name) for name in names], tolerances[:len(names)])
