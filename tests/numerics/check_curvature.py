"""What a fit measured against dense curvatures; the result is the posterior's H, from the reference wherever that can know it.

Directions and eigenbases are looked up in the artifact: any orthonormal ones that Lanczos or an eigenvalue problem may have
found are right, as long as they are what they claim to be, which is checked. What is measured along them is not looked up.
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

import dense
import posteriors
from batches import disjoint
from check_kfac import check_kfac
from comparison import Mismatch
from dense import Likelihood
from fits import Fit
from measured import PRODUCT, Measured, h_tolerance
from subject import Selection, Subject


def check_curvature(subject: Subject, fit: Fit, posterior: Any, likelihood: Likelihood) -> Measured:
    ledger = subject.ledger
    selection = subject.select([block.name for block in posterior.blocks])
    wanted = set(subject.head_names if fit["structure"] == "last_layer" else fit.get("parameters") or subject.names)
    ledger.require(set(selection.names) == wanted, f"uncertain parameters: expected {wanted}, got {selection.names}")
    ledger.expect("n_parameters", posterior.n_parameters, len(selection.columns), 0)
    data = subject.train
    at = data.at.restricted(selection.columns)
    kind = fit.get("curvature", "ggn")
    m = likelihood.hessian(at.f)
    if kind == "empirical_fisher":
        g = likelihood.gradient(at.f, data.y)
        m = g[:, :, None] * g[:, None, :]
    tensors = posteriors.read_tensors(
        subject.registry / "models" / subject.name / "1" / "posteriors" / posterior.id / "tensors.safetensors")
    if fit["structure"] == "low_rank":
        return _low_rank(subject, fit, posterior, likelihood, selection, at, m, tensors)
    everything = np.arange(len(data.x))
    if fit["structure"] == "last_layer":
        h = dense.curvature(at, m, everything)
        tolerance = h_tolerance(subject, h)
        ledger.expect("eigenvalues", posterior.eigenvalues, np.linalg.eigvalsh(h)[::-1], tolerance)
        ledger.expect("trace", posterior.trace, np.trace(h), tolerance)
        _expect_error(subject, "trace_standard_error", posterior.trace_standard_error,
                      *[dense.diagonals(at, m, everything).sum(1)] * 2)
        return Measured(fit, posterior, selection, likelihood, h, tolerance)
    return check_kfac(subject, fit, posterior, likelihood, selection, at, m, tensors)


def _off(subject: Subject, values: Any, trace: float) -> Any:
    """Of u'J' M J u where J u is off by e |J|, by J's rounding and that of a sum of P products: 2 e sqrt(value trace) and
    e^2 trace."""
    e = subject.rounding.jacobian + 2 * dense.EPSILON[subject.case["dtype"]] * np.sqrt(len(subject.parameters))
    return 2 * e * np.sqrt(np.maximum(values, 0) * trace) + e**2 * trace


def _expect_error(subject: Subject, what: str, got: Any, samples: np.ndarray, traces: np.ndarray) -> None:
    """Standard errors of means of samples [n] or [n, K], which move with the samples, by that over sqrt n; `traces` [n]."""
    n = len(samples)
    off = _off(subject, samples.max(0), traces.max())
    subject.ledger.expect(what, got, samples.std(0, ddof=1) / np.sqrt(n), 2 * off / np.sqrt(n))


def _low_rank(subject: Subject, fit: Fit, posterior: Any, likelihood: Likelihood, selection: Selection,
              at: dense.Linearisation, m: np.ndarray, tensors: dict[str, np.ndarray]) -> Measured:
    ledger, data = subject.ledger, subject.train
    n, first = len(data.x), fit["direction_batch_size"]
    debiasing, kind = fit["debiasing"], fit.get("curvature", "ggn")
    second = {"none": 0, "full_pass": n - first}.get(debiasing, fit.get("curvature_batch_size", 0))
    b1, b2 = disjoint(n, [first, second], fit["seed"])
    u = tensors["directions"].astype(float)
    sets = [u]
    if debiasing == "cross_fit":
        split = len(tensors["statistics.0.along.mean"])
        sets = [u[:, :split], u[:, split:]]
    biased = np.split(posterior.biased_eigenvalues, [sets[0].shape[1]])
    residuals = np.split(posterior.lanczos_residuals, [sets[0].shape[1]])
    for i, (rows, directions) in enumerate(zip((b1, b2), sets)):
        _check_directions(subject, fit, posterior, likelihood, selection, at, m, rows, directions, biased[i], residuals[i])
    if kind in ("hessian", "mc_fisher"):
        parts = _along_estimates(subject, fit, posterior, likelihood, selection, at, m, b2, u)
        h = posteriors.low_rank(parts, fit["residual"], selection.sizes, False, 1, 1)
        scale = h_tolerance(subject, dense.curvature(at, m, b1), u.shape[1])
        return Measured(fit, posterior, selection, likelihood, h, scale, u=u if u.shape[1] < len(u) else None)

    epsilon = dense.EPSILON[subject.case["dtype"]]
    everything = np.arange(n)
    # Which rows measure which directions.
    measured = {"none": [b1], "two_batch": [b2], "cross_fit": [b2, b1], "full_pass": [everything]}[debiasing]
    q = [dense.along(at, m, rows, directions) for rows, directions in zip(measured, sets)]
    traced = np.concatenate(measured)
    diagonals = dense.diagonals(at, m, traced)
    blocks = np.add.reduceat(diagonals.mean(0), np.cumsum([0, *selection.sizes[:-1]]))
    parts = posteriors.LowRankParts(
        u, np.concatenate([samples.mean(0) for samples in q]),
        np.concatenate([samples.std(0, ddof=1) / np.sqrt(len(samples)) for samples in q]) * (debiasing != "full_pass"),
        diagonals.sum(1).mean(), blocks, diagonals.mean(0), 0.5 if debiasing == "cross_fit" else 1.0,
        1e-3 if subject.case["dtype"] == "float32" else 1e-6)
    total = h_tolerance(subject, dense.curvature(at, m, traced), u.shape[1])
    single = _off(subject, parts.values, parts.trace) + 8 * epsilon * parts.values.max()
    if debiasing == "none":  # Ritz values: by Lanczos' own products
        single = single + 8 * epsilon * parts.values.max() + posterior.lanczos_residuals**2 / max(parts.values.max(), 1e-300)
        single = single + posterior.lanczos_residuals * 1e-2
    ledger.expect("eigenvalues", posterior.eigenvalues, parts.values, single)
    ledger.expect("trace", posterior.trace, parts.trace, total)
    ledger.expect("trace_by_tensor", [block.trace for block in posterior.blocks], blocks, total)
    if debiasing == "full_pass":
        ledger.expect("standard_errors", posterior.standard_errors, np.zeros(u.shape[1]), 0)
    else:
        at_once = 0
        for samples in q:
            k = samples.shape[1]
            _expect_error(subject, "standard_errors", posterior.standard_errors[at_once:at_once + k], samples, diagonals.sum(1))
            at_once += k
        _expect_error(subject, "trace_standard_error", posterior.trace_standard_error, *[diagonals.sum(1)] * 2)
    left_over = posteriors.residual(parts, fit["residual"], selection.sizes)
    ledger.expect("residual", posterior.residual, left_over.mean(),
                  total / max(1, len(u) - np.linalg.matrix_rank(u, tol=1e-3)))
    weights = parts.share * np.maximum(parts.values, 0)
    ledger.expect("residual_share", posterior.residual_share,
                  np.clip(1 - weights.sum() / parts.trace, 0, 1), 2 * total / parts.trace)
    likelihood_precision = posterior.n_data / posterior.options.temperature
    if debiasing == "none" and fit["rank"] == len(u):
        # Every direction that is there: H is the curvature itself, and nothing was looked up.
        h = dense.curvature(at, m, b1)
        values = np.linalg.eigvalsh(h)[::-1]
        ledger.expect("eigenvalues_dense", posterior.eigenvalues, values[:u.shape[1]], total)
        left_out = values[u.shape[1]:]
        ledger.expect("eigenvalues_left_out", left_out, np.zeros_like(left_out), total + _nothing(subject, values))
        outside = u if u.shape[1] < len(u) else None
        return Measured(fit, posterior, selection, likelihood, h, 2 * total + float(np.abs(left_out).sum()), u=outside)
    h = posteriors.low_rank(parts, fit["residual"], selection.sizes, fit.get("variance_correction", False),
                            likelihood_precision, posterior.prior_precision)
    return Measured(fit, posterior, selection, likelihood, h, 2 * total, parts,
                    posteriors.span(u, parts.cut) if u.shape[1] < len(u) else None)


def _check_directions(subject: Subject, fit: Fit, posterior: Any, likelihood: Likelihood, selection: Selection,
                      at: dense.Linearisation, m: np.ndarray, rows: np.ndarray, u: np.ndarray, ritz: np.ndarray,
                      residuals: np.ndarray) -> None:
    """Orthonormal, and eigenvectors of the curvature of their own batch."""
    ledger, epsilon = subject.ledger, dense.EPSILON[subject.case["dtype"]]
    k = u.shape[1]
    ledger.expect("orthonormality", u.T @ u, np.eye(k), 8 * epsilon * np.sqrt(len(u)))
    kind = fit.get("curvature", "ggn")
    if kind == "mc_fisher":
        return  # of its own draws
    if kind == "hessian":
        x, y = subject.train.x[rows], subject.train.y[rows]
        products = dense.hessian_products(subject.network, selection.names, likelihood, x, y, u)
        # Products of differentiation twice: as the gradient, times the norm that the Gauss-Newton part has at least.
        tolerance = 10 * h_tolerance(subject, dense.curvature(at, m, rows), k)
    else:
        g = dense.curvature(at, m, rows)
        products = g @ u
        tolerance = h_tolerance(subject, g, k)
    left = np.linalg.norm(products - u * ritz, axis=0)
    scale = max(np.abs(ritz).max(), 1e-300)
    product = PRODUCT[subject.case["dtype"]] * scale
    ledger.expect("ritz_residuals", left, residuals, tolerance + product + 1e-2 * residuals)
    converged = not any("did not converge" in warning for warning in posterior.warnings)
    if not converged:
        ledger.skip("fits in which Lanczos did not converge, for whether the largest eigenvalues were found")
        return
    if kind != "hessian":  # whose largest eigenvalue, by which the tolerance goes, may be negative and no direction
        ledger.require(bool((residuals <= fit["lanczos_tolerance"] * scale * 1.001).all() or k < fit["rank"]),
                       f"lanczos_residuals: above the tolerance without a warning: {residuals}")
        values = np.linalg.eigvalsh(g)[::-1]
        _check_ritz_values(subject, ritz, values, tolerance + fit["lanczos_tolerance"] * scale)
        if k < min(fit["rank"], len(u)):
            ledger.expect("ritz_values_left_out", values[k:], np.zeros(len(u) - k), tolerance + _nothing(subject, values))


def _check_ritz_values(subject: Subject, ritz: np.ndarray, values: np.ndarray, tolerance: float) -> None:
    """The largest eigenvalues, all of them; of equal ones, of which a Krylov space holds one, there may be fewer copies."""
    ledger = subject.ledger
    if (np.abs(ritz - values[:len(ritz)]) <= tolerance).all():
        ledger.expect("ritz_values", ritz, values[:len(ritz)], tolerance)
        return
    left = list(values)
    for value in ritz:
        nearest = min(left, key=lambda other: abs(other - value))
        ledger.expect("ritz_values", value, nearest, tolerance)
        left.remove(nearest)
    for value in left:
        if value > ritz.min() + tolerance:
            ledger.require(bool((np.abs(ritz - value) <= 2 * tolerance).any()),
                           f"ritz_values: the eigenvalue {value:.12g} was not found; {ritz} were, of {values}")
    ledger.skip("fits with equal eigenvalues, of which Lanczos found fewer than there are")


def _nothing(subject: Subject, values: np.ndarray) -> float:
    return 2 * PRODUCT[subject.case["dtype"]] * float(np.sqrt(len(values)) * np.abs(values).max())


def _along_estimates(subject: Subject, fit: Fit, posterior: Any, likelihood: Likelihood, selection: Selection,
                     at: dense.Linearisation, m: np.ndarray, rows: np.ndarray, u: np.ndarray) -> posteriors.LowRankParts:
    """HESSIAN: compared along the directions, which is what the posterior is made of. MC_FISHER: an estimate with draws
    that nobody else can know; within ten standard deviations of what it estimates, which follow from the likelihood."""
    ledger = subject.ledger
    if fit["curvature"] == "hessian":
        x, y = subject.train.x[rows], subject.train.y[rows]
        products = dense.hessian_products(subject.network, selection.names, likelihood, x, y, u)
        values = (u * products).sum(0)
        tolerance = 10 * h_tolerance(subject, dense.curvature(at, m, rows), u.shape[1])
        ledger.expect("eigenvalues_hessian", posterior.eigenvalues, np.maximum(values, 0), tolerance)
    else:
        t = at.j[rows] @ u
        values, variances = np.zeros(u.shape[1]), np.zeros(u.shape[1])
        for f, of_row in zip(at.f[rows], t):
            mean, square = _moments(likelihood, f, of_row)
            values += mean / len(rows)
            variances += (square - mean**2) / (len(rows) ** 2 * fit["fisher_samples"])
        ggn = dense.along(at, m, rows, u).mean(0)
        if np.abs(values - ggn).max() > 1e-9 * ggn.max():
            raise Mismatch("the reference's own moments of the Fisher information do not agree with its Lambda")
        ledger.expect("eigenvalues_mc_fisher", posterior.eigenvalues, values, 10 * np.sqrt(variances) + 1e-6 * values.max())
        values = posterior.eigenvalues
    nothing = np.zeros(len(u))
    return posteriors.LowRankParts(u, values, np.zeros(u.shape[1]), 0.0, np.zeros(len(selection.sizes)), nothing)


def _moments(likelihood: Likelihood, f: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """E (t'g)^2 and E (t'g)^4 for the loss gradient g at targets that the model draws; t [C, K]."""
    if likelihood.kind == "gaussian":
        s = (t**2).sum(0) / likelihood.sigma**2
        return s, 3 * s**2
    if likelihood.kind == "categorical":
        p = dense.softmax(f)
        g = (p - np.eye(len(f))) @ t
        return p @ g**2, p @ g**4
    p = dense.sigmoid(f)
    first, second = np.zeros(t.shape[1]), np.zeros(t.shape[1])
    for y in product((0, 1), repeat=len(f)):
        y = np.array(y)
        g = ((p - y) @ t) ** 2
        weight = np.prod(np.where(y == 1, p, 1 - p))
        first, second = first + weight * g, second + weight * g**2
    return first, second
