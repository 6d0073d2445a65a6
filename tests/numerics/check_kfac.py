"""K-FAC: factors, eigenbases and eigenvalues against those that hooks on the layers give."""

from __future__ import annotations

from typing import Any

import numpy as np

import dense
import posteriors
from batches import disjoint
from dense import Likelihood
from fits import Fit
from measured import Measured, h_tolerance
from subject import Selection, Subject


def check_kfac(subject: Subject, fit: Fit, posterior: Any, likelihood: Likelihood, selection: Selection,
               at: dense.Linearisation, m: np.ndarray, tensors: dict[str, np.ndarray]) -> Measured:
    ledger, data = subject.ledger, subject.train
    first, second = fit["direction_batch_size"], fit.get("curvature_batch_size", 0)
    b1, b2 = disjoint(len(data.x), [first, second], fit["seed"])
    rows = b1 if fit["debiasing"] == "none" else b2
    chosen = dense.kronecker_factors(subject.network, data.x, m, b1)
    measured = chosen if rows is b1 else dense.kronecker_factors(subject.network, data.x, m, rows)
    blocks = []
    epsilon = dense.EPSILON[subject.case["dtype"]]
    for i, (name, size) in enumerate(zip(selection.names, selection.sizes)):
        place = selection.place(name)
        mine = dense.Linearisation(at.f, at.j[:, :, place], at.phi)
        block, kind = posterior.blocks[i], "kronecker" if name in chosen else "dense"
        if kind == "kronecker" and block.kind == "dense" and name in subject.generic:
            # Its gradients are so small that the server, when it loaded the model, saw rounding in place of a layer.
            ledger.skip("weights of layers that the server found no factors of")
            kind = "dense"
            del chosen[name]
        ledger.require(block.kind == kind, f"block {name}: expected {kind}, got {block.kind}")
        left = tensors[f"blocks.{i}.left"].astype(float)
        if kind == "kronecker":
            right = tensors[f"blocks.{i}.right"].astype(float)
            basis, before = np.kron(left, right), np.kron(chosen[name].s, chosen[name].a)
            after = np.kron(measured[name].s, measured[name].a)
            for q, factor in ((left, chosen[name].s), (right, chosen[name].a)):
                _check_eigenbasis(subject, name, q, factor)
        else:
            basis, before = left, dense.curvature(mine, m, b1)
            after = dense.curvature(mine, m, rows)
            _check_eigenbasis(subject, name, left, before)
        tolerance = 4 * subject.rounding.jacobian * np.trace(before) + 16 * epsilon * np.trace(before)
        ledger.expect("kfac_biased_sum", block.biased_sum, np.trace(before), tolerance)
        if fit["kfac_eigenvalues"] == "exact":
            after = dense.curvature(mine, m, rows)
            values = np.diag(basis.T @ after @ basis)
            got = tensors[f"values.{i}.exact"]
        else:
            values = np.diag(basis.T @ after @ basis)
            got = tensors[f"values.{i}.left"]
            got = np.outer(got, tensors[f"values.{i}.right"]).ravel() if kind == "kronecker" else got
        tolerance = (4 * subject.rounding.jacobian + 16 * epsilon) * np.trace(after)
        ledger.expect("kfac_values", got, values, tolerance)
        ledger.expect("kfac_debiased_sum", block.debiased_sum, values.sum(), tolerance)
        known = fit["debiasing"] == "none" and fit["kfac_eigenvalues"] == "factors"
        # Factors of one batch are what their eigenvalues and bases make: nothing was looked up.
        blocks.append(before if known else (basis * np.maximum(values, 0)) @ basis.T)
    h = posteriors.block_diagonal(blocks)
    ledger.expect("trace", posterior.trace, np.trace(h), (4 * subject.rounding.jacobian + 16 * epsilon) * np.trace(h))
    return Measured(fit, posterior, selection, likelihood, h, 2 * h_tolerance(subject, h, 4))


def _check_eigenbasis(subject: Subject, name: str, q: np.ndarray, matrix: np.ndarray) -> None:
    epsilon = dense.EPSILON[subject.case["dtype"]]
    subject.ledger.expect("orthonormality", q.T @ q, np.eye(len(q)), 16 * epsilon * np.sqrt(len(q)))
    turned = q.T @ matrix @ q
    off = turned - np.diag(np.diag(turned))
    tolerance = (4 * subject.rounding.jacobian + 16 * epsilon) * np.trace(matrix)
    subject.ledger.expect("kfac_off_diagonal", off, np.zeros_like(off), tolerance)
