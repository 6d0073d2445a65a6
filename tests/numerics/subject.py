"""A case that is served: its network, data and linearisations, and the client to ask."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Sequence

import numpy as np
from torch import nn

import dense
import networks
from comparison import Ledger
from networks import Case


@dataclass(frozen=True)
class Data:
    x: np.ndarray
    y: np.ndarray
    at: dense.Linearisation


@dataclass
class Subject:
    case: Case
    name: str  # of the model
    registry: Path
    network: nn.Module  # in double precision
    ledger: Ledger
    generic: frozenset[str] = frozenset()  # parameters that the server knows no layer of

    @staticmethod
    def write(case: Case, name: str, registry: Path) -> Subject:
        """Also writes the model into the registry."""
        network = networks.build(case)
        networks.write_model(case, network, registry, name)
        kind = "fp32" if case["dtype"] == "float32" else "fp64"
        return Subject(case, name, registry, network, Ledger(kind))

    def _data(self, count: int, stream: int) -> Data:
        x, y = networks.data(self.case, self.network, count, stream)
        return Data(x, y, dense.linearise(self.network, x))

    @cached_property
    def train(self) -> Data:
        return self._data(self.case["train"], 0)

    @cached_property
    def validation(self) -> Data:
        return self._data(self.case["validation"], 1)

    @cached_property
    def test(self) -> Data:
        data = self._data(6, 2)
        # Rows far away, too.
        x = data.x * np.array([1, 1, 1, 4, 0.1, -3], data.x.dtype).reshape(-1, *[1] * (data.x.ndim - 1))
        return Data(x, data.y, dense.linearise(self.network, x))

    @cached_property
    def rounding(self) -> dense.Rounding:
        """Four times what PyTorch's own single precision was seen to do: the server may add in another order."""
        parts = [dense.rounding(data.at, self.network, data.x, self.case["dtype"]) for data in (self.train, self.test)]
        return dense.Rounding(*(4 * max(getattr(part, field) for part in parts)
                                for field in ("outputs", "features", "jacobian")))

    @cached_property
    def names(self) -> list[str]:
        return [name for name, _ in self.network.named_parameters()]

    @cached_property
    def parameters(self) -> np.ndarray:
        return np.concatenate([p.detach().numpy().ravel() for p in self.network.parameters()])

    @property
    def head_names(self) -> list[str]:
        stem = self.names[-1].rsplit(".", 1)[0]
        return [name for name in self.names if name.rsplit(".", 1)[0] == stem]

    @property
    def head(self) -> tuple[np.ndarray, np.ndarray]:
        """Weight [C, D] and bias [C] of the last linear layer."""
        module: Any = list(self.network.children())[-1]
        weight = module.weight.detach().numpy()
        return weight, np.zeros(len(weight)) if module.bias is None else module.bias.detach().numpy()

    def select(self, names: Sequence[str]) -> Selection:
        """The parameters of these names, in their order."""
        columns, sizes, scales, begin = {}, {}, {}, 0
        decay, of_biases = self.case["weight_decay"], self.case["bias_weight_decay"]
        for name, parameter in self.network.named_parameters():
            sizes[name] = parameter.numel()
            columns[name] = np.arange(begin, begin + sizes[name])
            scales[name] = of_biases / decay if of_biases and parameter.dim() <= 1 else 1.0
            begin += sizes[name]
        chosen = list(names)
        return Selection(chosen, [sizes[n] for n in chosen], np.concatenate([columns[n] for n in chosen]),
                         np.concatenate([np.full(sizes[n], scales[n]) for n in chosen]))

    @property
    def count(self) -> int:
        """N."""
        return self.case["n_data"] or self.case["train"]


@dataclass(frozen=True)
class Selection:
    """The parameters that are uncertain."""

    names: list[str]
    sizes: list[int]
    columns: np.ndarray  # their places among all
    k: np.ndarray  # scale of the prior precision of each

    def place(self, name: str) -> slice:
        i = self.names.index(name)
        begin = sum(self.sizes[:i])
        return slice(begin, begin + self.sizes[i])
