"""The reference: everything written out as dense matrices in double precision, from autograd's Jacobians alone.

N examples, C outputs, P parameters in the network's order. Curvatures are means over examples.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Sequence

import numpy as np
import torch
from torch import nn

EPSILON = {"float32": 2.0**-23, "float64": 2.0**-52}


def softmax(f: np.ndarray) -> np.ndarray:
    e = np.exp(f - f.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def logsumexp(f: np.ndarray, axis: int = -1) -> np.ndarray:
    top = f.max(axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(f - top).sum(axis))


def sigmoid(f: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -f))


@dataclass(frozen=True)
class Likelihood:
    kind: str
    sigma: float = 1.0  # gaussian only

    def loss(self, f: np.ndarray, y: np.ndarray) -> np.ndarray:
        """[N], nats, with all constants."""
        if self.kind == "categorical":
            return logsumexp(f) - np.take_along_axis(f, y[:, None], 1)[:, 0]
        if self.kind == "bernoulli":
            return (np.logaddexp(0, f) - y * f).sum(1)
        return ((f - y) ** 2 / (2 * self.sigma**2) + 0.5 * np.log(2 * np.pi * self.sigma**2)).sum(1)

    def gradient(self, f: np.ndarray, y: np.ndarray) -> np.ndarray:
        """d loss / d f, [N, C]."""
        if self.kind == "categorical":
            return softmax(f) - np.eye(f.shape[1])[y]
        if self.kind == "bernoulli":
            return sigmoid(f) - y
        return (f - y) / self.sigma**2

    def hessian(self, f: np.ndarray) -> np.ndarray:
        """d2 loss / d f2, [N, C, C]."""
        eye = np.eye(f.shape[1])
        if self.kind == "categorical":
            p = softmax(f)
            return p[:, :, None] * eye - p[:, :, None] * p[:, None, :]
        if self.kind == "bernoulli":
            return (sigmoid(f) * sigmoid(-f))[:, :, None] * eye
        return np.broadcast_to(eye / self.sigma**2, (*f.shape, f.shape[1]))

    def torch_loss(self, f: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Mean loss, to be differentiated twice."""
        if self.kind == "categorical":
            return nn.functional.cross_entropy(f, y)
        if self.kind == "bernoulli":
            return nn.functional.binary_cross_entropy_with_logits(f, y, reduction="none").sum(1).mean()
        return ((f - y) ** 2).sum(1).mean() / (2 * self.sigma**2)


@dataclass(frozen=True)
class Linearisation:
    """Outputs f [N, C], Jacobians j [N, C, P] and the inputs of the last linear layer, phi [N, D]."""

    f: np.ndarray
    j: np.ndarray
    phi: np.ndarray

    def restricted(self, columns: np.ndarray) -> Linearisation:
        return Linearisation(self.f, self.j[:, :, columns], self.phi)


def linearise(network: nn.Module, x: np.ndarray) -> Linearisation:
    """In the network's own precision; the result is double."""
    parameters = list(network.parameters())
    head = list(network.children())[-1]
    seen: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    outputs, jacobians = [], []
    for row in torch.from_numpy(x).to(parameters[0].dtype):
        f = network(row[None])[0]
        outputs.append(f.detach())
        rows = [torch.cat([g.reshape(-1) for g in torch.autograd.grad(value, parameters, retain_graph=True)])
                for value in f]
        jacobians.append(torch.stack(rows))
    hook.remove()
    return Linearisation(*(torch.stack(part).double().numpy() for part in (outputs, jacobians)),
                         torch.cat(seen).double().numpy())


@dataclass(frozen=True)
class Rounding:
    """What single precision does to a network's outputs, features and Jacobians, by PyTorch's own arithmetic; for a
    network in double precision the same less the 29 bits between them.

    outputs, features: absolute; jacobian: relative, in the norm of an example's Jacobian.
    """

    outputs: float
    features: float
    jacobian: float


def rounding(exact: Linearisation, network: nn.Module, x: np.ndarray, dtype: str) -> Rounding:
    single = linearise(network.float(), x)
    network.double()
    share = EPSILON[dtype] / EPSILON["float32"]

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return share * float(max(np.abs(a - b).max(), EPSILON["float32"] * np.abs(b).max()))

    norms = np.sqrt((exact.j**2).sum((1, 2)))
    difference = np.sqrt(((single.j - exact.j) ** 2).sum((1, 2)))
    return Rounding(error(single.f, exact.f), error(single.phi, exact.phi),
                    share * float(max((difference / np.maximum(norms, 1e-300)).max(), EPSILON["float32"])))


def curvature(at: Linearisation, m: np.ndarray, rows: Sequence[int] | np.ndarray) -> np.ndarray:
    """Mean over `rows` of J_n' M_n J_n, [P, P]; m [N, C, C]."""
    j = at.j[rows]
    return np.einsum("ncp,ncd,ndq->pq", j, m[rows], j, optimize=True) / len(rows)


def along(at: Linearisation, m: np.ndarray, rows: np.ndarray, u: np.ndarray) -> np.ndarray:
    """u_i' J_n' M_n J_n u_i, [n, K]."""
    t = at.j[rows] @ u
    return np.einsum("nck,ncd,ndk->nk", t, m[rows], t, optimize=True)


def diagonals(at: Linearisation, m: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """diag J_n' M_n J_n, [n, P]."""
    j = at.j[rows]
    return np.einsum("ncp,ncd,ndp->np", j, m[rows], j, optimize=True)


def hessian_products(network: nn.Module, names: Sequence[str], likelihood: Likelihood, x: np.ndarray, y: np.ndarray,
                     vectors: np.ndarray) -> np.ndarray:
    """The Hessian of the mean loss in the parameters `names` times vectors [P, K]."""
    named = dict(network.named_parameters())
    parameters = [named[name] for name in names]
    targets = torch.from_numpy(y)
    targets = targets if likelihood.kind == "categorical" else targets.double()
    loss = likelihood.torch_loss(network(torch.from_numpy(x).double()), targets)
    gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters, create_graph=True)])
    columns = []
    for column in torch.from_numpy(vectors.T.copy()):
        parts = torch.autograd.grad(gradient @ column, parameters, retain_graph=True, allow_unused=True)
        columns.append(torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1)
                                  for g, p in zip(parts, parameters)]))
    return torch.stack(columns, 1).numpy()


@dataclass(frozen=True)
class KroneckerFactors:
    """Of the weight of a linear or convolutional layer: curvature is taken to be kron(s, a)."""

    s: np.ndarray  # [out, out], mean over examples of 1/T sum over positions of g' M g
    a: np.ndarray  # [in, in], mean over examples of the sum over positions of a a'


def kronecker_factors(network: nn.Module, x: np.ndarray, m: np.ndarray, rows: np.ndarray) -> dict[str, KroneckerFactors]:
    """By the name of the weight. Layers with groups have none."""
    layers = {name: module for name, module in network.named_modules()
              if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)}
    inputs: dict[str, torch.Tensor] = {}
    outputs: dict[str, torch.Tensor] = {}

    def watch(name: str):
        def hook(module: nn.Module, given: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
            inputs[name], outputs[name] = given[0].detach(), result
        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in layers.items()]
    sums: dict[str, list[np.ndarray]] = {}
    for n in rows:
        f = network(torch.from_numpy(x[n:n + 1]).double())[0]
        tensors = [outputs[name] for name in layers]
        gradients = [torch.autograd.grad(value, tensors, retain_graph=True) for value in f]
        for i, (name, module) in enumerate(layers.items()):
            g = torch.stack([of_output[i][0] for of_output in gradients])  # [C, out, ...]
            g = g.reshape(len(f), g.shape[1], -1).numpy()  # [C, out, T]
            a = inputs[name]
            if isinstance(module, nn.Conv2d):
                a = nn.functional.unfold(a, module.kernel_size, module.dilation, module.padding, module.stride)
                a = a[0].numpy()
            else:
                a = a.numpy().T
            s = np.einsum("cot,cd,dpt->op", g, m[n], g, optimize=True) / g.shape[2]
            have = sums.setdefault(f"{name}.weight", [np.zeros_like(s), np.zeros((len(a), len(a)))])
            have[0] += s
            have[1] += a @ a.T
    for hook in hooks:
        hook.remove()
    return {name: KroneckerFactors(s / len(rows), a / len(rows)) for name, (s, a) in sums.items()}
