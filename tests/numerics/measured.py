"""What a fit of the server measured, in the reference's words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import dense
import posteriors
from dense import Likelihood
from fits import Fit
from subject import Selection, Subject

# Of the largest eigenvalue: what the server takes for rounding in a curvature product, and so, times sqrt P, for nothing.
PRODUCT = {"float32": 1e-6, "float64": 1e-13}


@dataclass(frozen=True)
class Measured:
    """A fit of the server with the reference's idea of it."""

    fit: Fit
    posterior: Any  # laplace_client.types.Posterior
    selection: Selection
    likelihood: Likelihood
    h: np.ndarray  # [P, P] at the posterior's own precisions
    # Sum of the absolute errors that H's eigenvalues may have: of the Jacobians' rounding, 4 e tr H (both factors of
    # J' M J, where it is measured and where it is used), and of Lanczos', 8 eps lambda_max for each direction.
    h_tolerance: float
    # Where H depends on the precisions (variance correction), it again at others.
    parts: posteriors.LowRankParts | None = None
    u: np.ndarray | None = None  # orthonormal basis of the directions, if there is more than they span

    def at(self, likelihood: float, prior: float) -> posteriors.Posterior:
        h = self.h
        if self.parts is not None:
            h = posteriors.low_rank(self.parts, self.fit["residual"], self.selection.sizes,
                                    self.fit.get("variance_correction", False), likelihood, prior)
        return posteriors.Posterior(h, self.selection.k, likelihood, prior)


def h_tolerance(subject: Subject, h: np.ndarray, directions: int = 0) -> float:
    """Measured.h_tolerance of a curvature whose `directions` were looked for by Lanczos."""
    values = np.linalg.eigvalsh(h)
    epsilon = dense.EPSILON[subject.case["dtype"]]
    return float(4 * subject.rounding.jacobian * np.abs(values).sum() + 8 * epsilon * directions * np.abs(values).max())
