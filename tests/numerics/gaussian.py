"""The Gaussian over outputs that a dense posterior gives, with what rounding may do to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

import posteriors
from dense import Linearisation
from measured import Measured
from subject import Subject


@dataclass(frozen=True)
class Outputs:
    """f [B, C] and its covariance v [B, C, C], each with the tolerance of every entry; `rows` are kept for what is made of
    them. Tolerances of v, with e the relative rounding of a Jacobian:
      likelihood dH |Sigma J_c'| |Sigma J_d'|   H's own error through the inverse: e times the condition number
      2 e |J| (|Sigma J_c'| + |Sigma J_d'|)     the Jacobian's
      4 e sqrt(p_c p_d), p = J D^-1 J'          the server subtracts what lies along the directions from that, where D is
                                                the diagonal part of the precision."""

    f: np.ndarray
    v: np.ndarray
    f_tolerance: float
    v_tolerance: np.ndarray

    @property
    def variance(self) -> np.ndarray:
        return np.diagonal(self.v, axis1=1, axis2=2)

    @property
    def variance_tolerance(self) -> np.ndarray:
        return np.diagonal(self.v_tolerance, axis1=1, axis2=2)


def outputs(subject: Subject, measured: Measured, posterior: posteriors.Posterior, at: Linearisation,
            columns: np.ndarray | None = None) -> Outputs:
    """`at` is of the uncertain parameters. `columns`: those of them that move, the others are held at the mode."""
    sigma, j = posterior.sigma, at.j
    if columns is not None:
        sigma, j = sigma[np.ix_(columns, columns)], j[:, :, columns]
    e = subject.rounding.jacobian
    spread = j @ sigma
    v = spread @ j.transpose(0, 2, 1)
    sizes = np.linalg.norm(spread, axis=2)  # [B, C]
    norms = np.sqrt((j**2).sum((1, 2)))[:, None, None]
    # D: the prior, and what the residual adds evenly; the smallest precision is at least as small.
    diagonal = posterior.prior * posterior.k
    if measured.fit["structure"] == "low_rank" and measured.fit["residual"] != "none" and measured.parts is not None:
        rest = posteriors.residual(measured.parts, measured.fit["residual"], measured.selection.sizes)
        diagonal = diagonal + posterior.likelihood * rest
    if measured.fit["structure"] == "kfac":
        p = np.diagonal(v, axis1=1, axis2=2)  # a sum of positive terms: nothing is subtracted
    else:
        p = (j**2 / (diagonal if columns is None else diagonal[columns])).sum(2)
    tolerance = (posterior.likelihood * measured.h_tolerance * sizes[:, :, None] * sizes[:, None, :]
                 + 2 * e * norms * (sizes[:, :, None] + sizes[:, None, :])
                 + 4 * e * np.sqrt(p[:, :, None] * p[:, None, :]))
    return Outputs(at.f, (v + v.transpose(0, 2, 1)) / 2, subject.rounding.outputs, tolerance)
