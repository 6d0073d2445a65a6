"""Random small networks with data: a case is a plain dict, made from a seed, printed and given back as JSON.

    {"seed": 7, "likelihood": "categorical", "dtype": "float64", "input": [4], "outputs": 3,
     "layers": [["linear", 5], ["tanh"]], "architecture": None, "bias": True, "train": 60, "validation": 30,
     "n_data": 500, "weight_decay": 0.003, "bias_weight_decay": None, "sigma_noise": None}

A last linear layer follows `layers`. Everything else that is random (weights, data, fits) follows from `seed`.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from pathlib import Path
from typing import Any, Iterator

import numpy as np
import torch
from laplace_client.export import export_torchscript
from torch import nn

Case = dict[str, Any]

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "gelu": nn.GELU, "silu": nn.SiLU}
MOST_PARAMETERS = 320  # a dense reference inverts matrices of this size


class Residual(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x)


class GlobalMean(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean([2, 3])


def random_case(seed: int) -> Case:
    """The case of a seed; the same on every machine."""
    random = np.random.default_rng([seed, 1])
    while True:
        case = _draw(random, seed)
        try:
            parameters = sum(p.numel() for p in build(case).parameters())
        except ValueError:
            continue  # shapes that do not fit together
        if parameters <= MOST_PARAMETERS:
            return case


def _draw(random: np.random.Generator, seed: int) -> Case:
    likelihood = str(random.choice(["categorical", "categorical", "bernoulli", "gaussian"]))
    kind = str(random.choice(["mlp", "mlp", "named mlp", "cnn", "cnn", "lenet"]))
    activation = str(random.choice(list(ACTIVATIONS)))
    architecture = None
    if kind in ("mlp", "named mlp"):
        shape = [int(random.integers(1, 7))]
        layers: list[list[Any]] = []
        for _ in range(int(random.integers(0, 4))):
            layers.append(["linear", int(random.integers(2, 11))])
            # Of two numbers it leaves the sign and no derivative.
            if kind == "mlp" and layers[-1][1] > 3 and random.random() < 0.4:
                layers.append(["layer_norm"])
            layers.append([activation])
        if kind == "named mlp":
            architecture = {"name": "mlp", "activation": activation}
    elif kind == "lenet":
        pool = str(random.choice(["max", "avg"]))
        shape = [int(random.integers(1, 3)), 8, 8]
        layers = [["conv", int(random.integers(2, 4)), 3, 1, 0, 1], [activation], ["pool", pool], ["flatten"]]
        if random.random() < 0.5:
            layers += [["linear", int(random.integers(2, 7))], [activation]]
        architecture = {"name": "lenet", "activation": activation, "pool": pool}
    else:
        shape, layers = _draw_cnn(random, activation)
    decay = float(10 ** random.uniform(-4, -1.5))
    return {
        "seed": seed,
        "likelihood": likelihood,
        "dtype": str(random.choice(["float32", "float64"])),
        "input": shape,
        "outputs": int(random.integers(2 if likelihood == "categorical" else 1, 13)),
        "layers": layers,
        "architecture": architecture,
        "bias": bool(architecture is not None or random.random() < 0.8),
        "train": int(random.integers(40, 90)),
        "validation": int(random.integers(15, 40)),
        "n_data": int(random.choice([0, 1000])),
        "weight_decay": decay,
        "bias_weight_decay": decay * float(random.choice([0.1, 3])) if random.random() < 0.3 else None,
        "sigma_noise": float(10 ** random.uniform(-1, 0.5)) if likelihood == "gaussian" else None,
    }


def _draw_cnn(random: np.random.Generator, activation: str) -> tuple[list[int], list[list[Any]]]:
    channels, size = int(random.integers(1, 4)), int(random.integers(5, 9))
    shape, layers = [channels, size, size], []
    for _ in range(int(random.integers(1, 4))):
        groups = int(random.choice([1, 1, 2, channels]))
        out = groups * int(random.integers(1, 4))
        kernel, stride, padding = (int(random.choice(list(c))) for c in ((1, 2, 3), (1, 1, 2), (0, 1)))
        if random.random() < 0.3:
            layers.append(["residual", int(random.choice([1, 3])), groups])  # channels and size stay
        else:
            layers.append(["conv", out, kernel, stride, padding, groups])
            channels = out
        if random.random() < 0.4:
            layers.append(["batch_norm"])
        layers.append([activation])
        if random.random() < 0.3:
            layers.append(["pool", str(random.choice(["max", "avg"]))])
    layers.append(["mean"] if random.random() < 0.6 else ["flatten"])
    return shape, layers


def build(case: Case) -> nn.Module:
    """The network in double precision, evaluation mode. ValueError if its layers do not fit together."""
    torch.manual_seed(case["seed"])
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    shape = list(case["input"])
    lenet = (case["architecture"] or {}).get("name") == "lenet"
    count = {"conv": 0, "fc": 0}

    def name(prefix: str) -> str:
        # lenet's tensors are called conv1, fc1, ...; those of others by their place, as in a Sequential
        if not lenet or prefix not in count:
            return f"{prefix}_{len(modules)}" if lenet else str(len(modules))
        count[prefix] += 1
        return f"{prefix}{count[prefix]}"

    for kind, *numbers in [*case["layers"], ["linear", case["outputs"]]]:
        if kind in ("conv", "residual", "pool", "batch_norm", "mean") and len(shape) != 3:
            raise ValueError(f"{kind} after {shape}")
        if kind == "linear":
            if len(shape) != 1:
                raise ValueError(f"linear after {shape}")
            modules[name("fc")] = nn.Linear(shape[0], numbers[0], bias=case["bias"])
            shape = [numbers[0]]
        elif kind == "conv":
            out, kernel, stride, padding, groups = numbers
            modules[name("conv")] = nn.Conv2d(
                shape[0], out, kernel, stride, padding, groups=groups, bias=case["bias"])
            side = (shape[1] + 2 * padding - kernel) // stride + 1
            shape = [out, side, side]
        elif kind == "residual":
            kernel, groups = numbers
            body = nn.Conv2d(shape[0], shape[0], kernel, 1, kernel // 2, groups=groups, bias=case["bias"])
            modules[name("residual")] = Residual(nn.Sequential(body, nn.Tanh()))
        elif kind == "pool":
            modules[name("pool")] = nn.MaxPool2d(2, 2) if numbers[0] == "max" else nn.AvgPool2d(2, 2)
            shape = [shape[0], shape[1] // 2, shape[2] // 2]
        elif kind == "batch_norm":
            modules[name("norm")] = nn.BatchNorm2d(shape[0])
        elif kind == "layer_norm":
            modules[name("norm")] = nn.LayerNorm(shape[0])
        elif kind == "mean":
            modules[name("mean")] = GlobalMean()
            shape = shape[:1]
        elif kind == "flatten":
            modules[name("flatten")] = nn.Flatten()
            shape = [int(np.prod(shape))]
        else:
            modules[name("activation")] = ACTIVATIONS[kind]()
        if min(shape) < 1:
            raise ValueError(f"nothing is left after {kind}")
    network = nn.Sequential(modules).double().eval()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.5)
                module.running_var.uniform_(0.3, 2)
        head = list(network.children())[-1]
        head.weight.mul_(2.5)  # outputs that differ from example to example
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():  # the same numbers in both precisions
                tensor.copy_(tensor.float().double())
    return network


def data(case: Case, network: nn.Module, count: int, stream: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of the case's type, all of them numbers of single precision, and targets drawn from the network itself."""
    random = np.random.default_rng([case["seed"], 2, stream])
    x = random.standard_normal((count, *case["input"])).astype(np.float32)
    with torch.no_grad():
        f = network(torch.from_numpy(x).double()).numpy()
    if case["likelihood"] == "categorical":
        y = (f + random.gumbel(size=f.shape)).argmax(1)
    elif case["likelihood"] == "bernoulli":
        y = (random.random(f.shape) < 1 / (1 + np.exp(-f))).astype(np.float32)
    else:
        y = (f + (case["sigma_noise"] or 0.5) * random.standard_normal(f.shape)).astype(np.float32)
    return x.astype(case["dtype"]), y


def write_model(case: Case, network: nn.Module, registry: Path, name: str) -> None:
    """As TorchScript by the client's export, or, where the architecture has a name, as weights for one seed of two."""
    folder = registry / "models" / name / "1"
    module = network.float() if case["dtype"] == "float32" else network
    manifest = {key: case[key] for key in ("likelihood", "weight_decay", "bias_weight_decay", "sigma_noise", "n_data")
                if case[key]}
    if case["architecture"] is None or case["seed"] % 2:
        example = torch.from_numpy(data(case, network.double(), 6, 9)[0])
        module = network.float() if case["dtype"] == "float32" else network
        export_torchscript(module, example, folder, **manifest)
    else:
        folder.mkdir(parents=True)
        torch.save(module.state_dict(), folder / "model.pth")
        text = {"architecture": case["architecture"], "n_outputs": case["outputs"],
                "input": {"shape": case["input"], "dtype": case["dtype"]}, **manifest}
        (folder / "model.json").write_text(json.dumps(text))
    network.double()


def smaller(case: Case) -> Iterator[Case]:
    """Cases that are a little simpler, the most telling first. Those that cannot be built are left out."""
    candidates: list[Case] = []
    for i in range(len(case["layers"])):
        candidates.append({**case, "layers": case["layers"][:i] + case["layers"][i + 1:], "architecture": None})
    for key, least in (("outputs", 2 if case["likelihood"] == "categorical" else 1), ("train", 12), ("validation", 12)):
        if case[key] > least:
            candidates.append({**case, key: max(least, case[key] // 2)})
    for i, layer in enumerate(case["layers"]):
        if layer[0] == "linear" and layer[1] > 1:
            layers = [list(other) for other in case["layers"]]
            layers[i][1] = max(1, layer[1] // 2)
            candidates.append({**case, "layers": layers})
    if case["bias_weight_decay"]:
        candidates.append({**case, "bias_weight_decay": None})
    for candidate in candidates:
        try:
            build(candidate)
        except (ValueError, RuntimeError):
            continue
        yield candidate
