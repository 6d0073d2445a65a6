"""OOD scores of validation and test rows, and the thresholds that follow from the former."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Callable

import numpy as np

import scores
from check_posterior import score_tolerance
from comparison import ANSWER, Mismatch, through
from dense import EPSILON
from gaussian import Outputs, outputs
from measured import Measured
from subject import Data, Subject

Values = dict[str, tuple[np.ndarray, np.ndarray]]  # by score: values and tolerances, [B] each

COMBINED = ("knn", "react", "moderated_energy")


@dataclass(frozen=True)
class Scores:
    """What scores of one posterior are made of. Scores that are left out are ill-conditioned for these data."""

    subject: Subject
    measured: Measured
    functions: dict[str, Callable[[scores.Rows], np.ndarray]]
    training: scores.Training

    @staticmethod
    def of(subject: Subject, measured: Measured) -> Scores:
        data = subject.train
        classes = data.y if subject.case["likelihood"] == "categorical" else None
        weight, bias = subject.head
        # The bank of neighbours is kept in single precision; moments are not. That is inside their tolerance.
        training = scores.Training(data.at.phi, classes, data.at.f, weight, bias)

        def templates() -> scores.Templates:
            return scores.Templates.of(subject.validation.at.f, subject.rounding.outputs)

        functions = scores.functions(subject.case["likelihood"], measured.likelihood.sigma, training, templates)
        if measured.u is None:
            del functions["local_ensemble"]
        if not measured.fit["validates"]:
            functions.pop("kl_matching", None)
        if classes is not None and len(np.unique(classes)) < 2:
            del functions["relative_mahalanobis"]
        return Scores(subject, measured, functions, training)

    def names(self) -> set[str]:
        """All that the posterior must have."""
        more = set()
        if self.subject.case["likelihood"] == "categorical":
            more = {"mutual_information"} | ({"combined"} if self.measured.fit["validates"] else set())
        return set(self.functions) | more

    def gaussian(self, data: Data) -> Outputs:
        """At the precision for scores."""
        posterior = self.measured.posterior
        at = self.measured.at(posterior.n_data / posterior.options.temperature, posterior.ood_prior_precision)
        return outputs(self.subject, self.measured, at, data.at.restricted(self.measured.selection.columns))

    def values(self, data: Data, held_out: bool = False) -> Values:
        """`held_out`: as thresholds are made of them; kl_matching, which waits for its templates, then of logits that were
        kept in single precision."""
        gaussian = self.gaussian(data)
        rows = scores.Rows(gaussian.f, gaussian.v, data.at.phi)
        outside_tolerance = None
        if self.measured.u is not None:
            j = data.at.restricted(self.measured.selection.columns).j
            norm = (j**2).sum((1, 2))
            rows = replace(rows, outside=norm - ((j @ self.measured.u) ** 2).sum((1, 2)))
            # A difference of squared norms; directions are kept in the network's precision.
            outside_tolerance = 8 * self.subject.rounding.jacobian * norm
            if self.measured.parts is not None:
                # Two batches' directions are made orthonormal by their Gram matrix, whose condition is their own, squared.
                s = np.linalg.svd(self.measured.parts.u, compute_uv=False)
                s = s[s > self.measured.parts.cut]
                outside_tolerance = outside_tolerance + 8 * EPSILON["float64"] / s.min() ** 2 * norm
        rounding = self.subject.rounding.features
        values: Values = {}
        for name, function in self.functions.items():
            try:
                result = function(rows)
                kept = gaussian
                if held_out and name == "kl_matching":
                    kept = replace(gaussian, f_tolerance=gaussian.f_tolerance + ANSWER * float(np.abs(gaussian.f).max()))
                off = score_tolerance(kept, rows, function, rounding, outside_tolerance)
                if name == "mutual_information":  # quadrature, to 1e-10 of each label
                    off = off + 1e-10 * self.subject.case["outputs"]
                off = off + self._training_tolerance(name, rows)
                if name == "information_gain":  # the reference's own, a logarithm of numbers near 1
                    off = off + 4 * EPSILON["float64"] * self.subject.case["outputs"]
                if name == "knn":  # from squares that are differences of numbers near 1
                    off = off + np.minimum(8 * EPSILON["float64"] / np.maximum(result, 1e-300), np.sqrt(8 * EPSILON["float64"]))
            except scores.IllConditioned as reason:
                self.subject.ledger.skip(f"score {name}: {reason}")
                continue
            values[name] = (result, off)
        return values

    def _training_tolerance(self, name: str, rows: scores.Rows) -> Any:
        """How far a score of features moves with the training data."""
        if name not in ("mahalanobis", "relative_mahalanobis", "knn", "vim", "react"):
            return 0.0
        kind, sigma = self.subject.case["likelihood"], self.measured.likelihood.sigma
        bank = max(self.subject.rounding.features, ANSWER * float(np.abs(self.training.phi).max()))
        off = bank if name in ("knn", "vim", "react") else self.subject.rounding.features

        def of(phi: np.ndarray, f: np.ndarray) -> np.ndarray:
            moved = replace(self.training, phi=phi, f=f)
            return scores.functions(kind, sigma, moved, lambda: scores.Templates(np.zeros((1, 1))))[name](rows)

        outputs_off = max(self.subject.rounding.outputs, ANSWER * float(np.abs(self.training.f).max()))
        return through(of, [self.training.phi, self.training.f], [off, outputs_off])


def combined(values: Values, held_out: Values) -> tuple[np.ndarray, np.ndarray]:
    """1/2 log sum exp(2 z), z = (score - median) / (95 % quantile - median) on validation data."""
    z, off = [], 0.0
    for name in COMBINED:
        of_held_out, tolerances = held_out[name]
        median, upper = np.quantile(of_held_out, 0.5), np.quantile(of_held_out, 0.95)
        spread = upper - median
        if spread <= 100 * tolerances.max():
            raise scores.IllConditioned(f"{name} does not spread on the validation data")
        mine = (values[name][0] - median) / spread
        z.append(mine)
        off = np.maximum(off, (values[name][1] + tolerances.max() * (1 + 2 * np.abs(mine))) / spread)
    return np.logaddexp.reduce(2 * np.stack(z), 0) / 2, off * 1.01 + 1e-12


def check_thresholds(subject: Subject, of: Scores, held_out: Values) -> None:
    ledger, posterior = subject.ledger, of.measured.posterior
    ledger.require(set(posterior.available_ood_scores) == of.names(),
                   f"available_ood_scores: expected {sorted(of.names())}, got {sorted(posterior.available_ood_scores)}")
    if not of.measured.fit["validates"]:
        ledger.require(not posterior.ood_thresholds, "ood_thresholds: expected none without validation data")
        return
    thresholds = {t.score: t for t in posterior.ood_thresholds}
    ledger.require(set(thresholds) == of.names(),
                   f"ood_thresholds: expected those of {sorted(of.names())}, got {sorted(thresholds)}")
    known = dict(held_out)
    if "combined" in thresholds and all(name in held_out for name in COMBINED):
        try:
            known["combined"] = combined(held_out, held_out)
        except scores.IllConditioned as reason:
            ledger.skip(f"score combined: {reason}")
    for name, (values, tolerances) in known.items():
        threshold, n = thresholds[name], len(values)
        ledger.expect("threshold_count", threshold.count, n, 0)
        k = min(n, int(np.ceil((n + 1) * (1 - threshold.target_id_rate) - 1e-9)))
        # Sorting moves no value further than its tolerance.
        ledger.expect(f"threshold {name}", threshold.threshold, np.sort(values)[k - 1], tolerances.max())
        ledger.expect(f"id_quantiles {name}", threshold.id_quantiles, np.quantile(values, scores.QUANTILES), tolerances.max())


def check_values(subject: Subject, answers: dict[str, Any], mine: Values, where: str) -> None:
    """`answers` by name, of the server."""
    for name, (values, tolerances) in mine.items():
        if name not in answers:
            raise Mismatch(f"{subject.ledger.place}: {where}: the score {name} is missing")
        answer = answers[name]
        subject.ledger.expect(f"score:{name}", answer.values, values, tolerances)
        if answer.threshold is not None:
            wanted = answer.values > answer.threshold
            subject.ledger.require(bool((answer.is_ood == wanted).all()), f"{where}: is_ood of {name} is not value > threshold")


