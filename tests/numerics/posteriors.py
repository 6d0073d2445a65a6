"""Posteriors as dense matrices: N(mode, inverse of likelihood * H + prior * K), likelihood = N / temperature."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Sequence

import numpy as np


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file."""
    content = path.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    types = {"F32": np.float32, "F64": np.float64, "I64": np.int64}
    tensors = {}
    for name, entry in json.loads(content[8:8 + size]).items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        values = np.frombuffer(content[8 + size + begin:8 + size + end], types[entry["dtype"]])
        tensors[name] = values.reshape(entry["shape"])
    return tensors


@dataclass(frozen=True)
class Posterior:
    """h [P, P]; k [P], the diagonal of K."""

    h: np.ndarray
    k: np.ndarray
    likelihood: float
    prior: float

    @property
    def precision(self) -> np.ndarray:
        return self.likelihood * self.h + self.prior * np.diag(self.k)

    @property
    def sigma(self) -> np.ndarray:
        # With unit diagonal, which inverts more accurately.
        matrix = self.precision
        scale = 1 / np.sqrt(np.diag(matrix))
        return np.linalg.inv(matrix * np.outer(scale, scale)) * np.outer(scale, scale)

    @property
    def effective_parameters(self) -> float:
        return len(self.k) - self.prior * float((np.diag(self.sigma) * self.k).sum())

    def log_marginal_likelihood(self, sum_loss: float, temperature: float, mode: np.ndarray) -> float:
        prior = self.prior * self.k
        return (-sum_loss / temperature - 0.5 * float((prior * mode**2).sum()) + 0.5 * float(np.log(prior).sum())
                - 0.5 * float(np.linalg.slogdet(self.precision)[1]))

    def covariance(self, jacobian: np.ndarray) -> np.ndarray:
        """J Sigma J' of every example, [B, C, C], for J [B, C, P]."""
        v = jacobian @ self.sigma @ jacobian.transpose(0, 2, 1)
        return (v + v.transpose(0, 2, 1)) / 2


@dataclass(frozen=True)
class LowRankParts:
    """What was measured along directions u [P, K], as means over examples, before anything is cut off at zero."""

    u: np.ndarray
    values: np.ndarray  # [K]
    errors: np.ndarray  # [K]
    trace: float
    blocks: np.ndarray  # traces over parameter tensors
    diagonal: np.ndarray  # [P]
    share: float = 1.0  # of every direction: 1/2 where two batches' directions stand next to each other
    cut: float = 1e-3  # singular values of u below this are rounding: roots of 1e-6 in single precision, 1e-12 in double


def residual(parts: LowRankParts, kind: str, sizes: Sequence[int]) -> np.ndarray:
    """Curvature per parameter that the directions leave over, [P]; isotropic: the same number everywhere."""
    weights = parts.share * np.maximum(parts.values, 0)
    p = len(parts.u)
    if kind == "none":
        return np.zeros(p)
    if kind == "isotropic":
        left = p - np.linalg.matrix_rank(parts.u, tol=1e-3)
        return np.full(p, max(0.0, parts.trace - weights.sum()) / left if left > 0 else 0.0)
    along = (parts.u**2) @ weights
    if kind == "diagonal":
        return np.maximum(parts.diagonal - along, 0)
    sums = np.add.reduceat(along, np.cumsum([0, *sizes[:-1]]))
    return np.repeat(np.maximum(parts.blocks - sums, 0) / np.asarray(sizes), sizes)


def span(u: np.ndarray, cut: float) -> np.ndarray:
    """An orthonormal basis of the directions."""
    q, s, _ = np.linalg.svd(u, full_matrices=False)
    return q[:, s > cut]


def low_rank(parts: LowRankParts, kind: str, sizes: Sequence[int], corrected: bool, likelihood: float,
             prior: float) -> np.ndarray:
    """H = U diag(share * values) U' + R, [P, P]. `corrected`: precisions along the directions times 1 + CV^2."""
    values = np.maximum(parts.values, 0)
    if corrected:
        values = values + likelihood * parts.errors**2 / (likelihood * values + prior)
    left_over = residual(parts, kind, sizes)
    rest = np.diag(left_over)
    if kind == "isotropic":
        q = span(parts.u, parts.cut)
        rest = rest - left_over[0] * q @ q.T
    return (parts.u * (parts.share * values)) @ parts.u.T + rest


def block_diagonal(blocks: Sequence[np.ndarray]) -> np.ndarray:
    size = sum(len(block) for block in blocks)
    matrix = np.zeros((size, size))
    begin = 0
    for block in blocks:
        matrix[begin:begin + len(block), begin:begin + len(block)] = block
        begin += len(block)
    return matrix
