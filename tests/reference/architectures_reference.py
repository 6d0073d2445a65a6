#!/usr/bin/env python3
"""The server's architectures in PyTorch for Python: writes tests/data/architectures.json, which tests/model/architectures_test.cc reads.

Every network is defined here a second time, as nn.Modules with the public names, in fp64 and evaluation mode. No weights are stored: both
sides make them by one rule from the name of a tensor and the place of an element, so the file holds names, shapes and logits only.

    /usr/bin/python3 tests/reference/architectures_reference.py       (needs PyTorch and NumPy)
"""

import json
import math
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

OUTPUT = pathlib.Path(__file__).resolve().parent.parent / "data" / "architectures.json"


def uniform(name, count):
    """`count` numbers in [-1, 1) that depend on the name: FNV-1a of it starts SplitMix64."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = (seed ^ byte) * 0x100000001B3 % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
        z = z ^ z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1


def rule(name, shape):
    """The tensor called `name`: of a size that keeps activations near one."""
    u = uniform(name, math.prod(shape)).reshape(shape)
    if name.endswith("running_var"):
        return 0.75 + 0.5 * u
    if len(shape) >= 2:
        return u * math.sqrt(3 / math.prod(shape[1:]))
    if name.endswith((".weight", ".gamma")):
        return 1 + 0.25 * u
    return 0.1 * u


class Plain(nn.Module):
    """Submodules by name, and a forward pass that uses them."""

    def __init__(self, run, **modules):
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def mlp_numbered():
    widths = [6, 5, 7, 4, 5, 6, 3]
    layers = []
    for a, b in zip(widths, widths[1:]):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def mlp_named():
    net = Plain(lambda m, x: m.exit(torch.tanh(m.body(torch.tanh(m.entry(x.flatten(1)))))),
                body=nn.Linear(4, 4, bias=False), entry=nn.Linear(4, 4), exit=nn.Linear(4, 3))
    return net


def lenet(padding, activation, pool, side):
    def run(m, x):
        x = pool(activation(m.conv1(x)), 2)
        x = pool(activation(m.conv2(x)), 2).flatten(1)
        return m.fc3(activation(m.fc2(activation(m.fc1(x)))))

    return Plain(run, conv1=nn.Conv2d(1, 3, 5, padding=padding), conv2=nn.Conv2d(3, 4, 5), fc1=nn.Linear(4 * side * side, 7),
                 fc2=nn.Linear(7, 5), fc3=nn.Linear(5, 3))


def all_cnn_c(tensorflow):
    def run(m, x):
        for i in range(1, 10):
            conv = getattr(m, f"conv{i}")
            if tensorflow and conv.stride == (2, 2):
                x = F.conv2d(F.pad(x, (0, 1, 0, 1)), conv.weight, conv.bias, stride=2)
            else:
                x = conv(x)
            x = torch.relu(x)
        return x.mean((2, 3))

    convs = [nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, stride=2, padding=1),
             nn.Conv2d(4, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 3, stride=2, padding=1),
             nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 3, 1)]
    return Plain(run, **{f"conv{i + 1}": conv for i, conv in enumerate(convs)})


class CifarBlock(nn.Module):
    def __init__(self, before, after, stride, option):
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.zeros = (after - before) // 2 if option == "A" else None
        self.stride = stride
        if option == "B" and (stride != 1 or before != after):
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "shortcut"):
            x = self.shortcut(x)
        elif self.zeros is not None:
            n, _, h, w = y.shape
            z = x.new_zeros(n, self.zeros, h, w)
            x = torch.cat([z, x[:, :, :: self.stride, :: self.stride], z], 1)
        return torch.relu(x + y)


def cifar_resnet(depth, option, widths=(2, 4, 8)):
    modules = {"conv1": nn.Conv2d(3, widths[0], 3, 1, 1, bias=False), "bn1": nn.BatchNorm2d(widths[0])}
    before = widths[0]
    for stage, width in enumerate(widths, 1):
        blocks = []
        for i in range((depth - 2) // 6):
            blocks.append(CifarBlock(before, width, 2 if stage > 1 and i == 0 else 1, option))
            before = width
        modules[f"layer{stage}"] = nn.Sequential(*blocks)
    modules["linear"] = nn.Linear(before, 3)

    def run(m, x):
        x = torch.relu(m.bn1(m.conv1(x)))
        x = m.layer3(m.layer2(m.layer1(x)))
        return m.linear(F.avg_pool2d(x, x.shape[-1]).flatten(1))

    return Plain(run, **modules)


class WideBlock(nn.Module):
    def __init__(self, before, after, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.conv1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.conv2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        if before != after:
            self.convShortcut = nn.Conv2d(before, after, 1, stride, bias=False)

    def forward(self, x):
        h = torch.relu(self.bn1(x))
        y = self.conv2(torch.relu(self.bn2(self.conv1(h))))
        return y + (self.convShortcut(h) if hasattr(self, "convShortcut") else x)


def wide_resnet(depth):
    modules = {"conv1": nn.Conv2d(3, 2, 3, 1, 1, bias=False)}
    before = 2
    for stage, width in enumerate((3, 4, 6), 1):
        blocks = []
        for i in range((depth - 4) // 6):
            blocks.append(WideBlock(before, width, 2 if stage > 1 and i == 0 else 1))
            before = width
        modules[f"block{stage}"] = Plain(lambda m, x: m.layer(x), layer=nn.Sequential(*blocks))
    modules["bn1"] = nn.BatchNorm2d(before)
    modules["fc"] = nn.Linear(before, 3)

    def run(m, x):
        x = m.block3(m.block2(m.block1(m.conv1(x))))
        return m.fc(F.adaptive_avg_pool2d(torch.relu(m.bn1(x)), 1).flatten(1))

    return Plain(run, **modules)


class ImagenetBlock(nn.Module):
    def __init__(self, before, width, stride, bottleneck):
        super().__init__()
        after = width * 4 if bottleneck else width
        kernels = [(before, width, 1, 1), (width, width, 3, stride), (width, after, 1, 1)] if bottleneck else \
            [(before, width, 3, stride), (width, width, 3, 1)]
        for i, (a, b, kernel, s) in enumerate(kernels, 1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, kernel, s, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.count = len(kernels)
        self.after = after
        self.downsample = None
        if stride != 1 or before != after:
            self.downsample = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            if i < self.count:
                y = torch.relu(y)
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


def imagenet_resnet(blocks, bottleneck, widths):
    modules = {"conv1": nn.Conv2d(3, 5, 7, 2, 3, bias=False), "bn1": nn.BatchNorm2d(5)}
    before = 5
    for stage, (count, width) in enumerate(zip(blocks, widths), 1):
        layers = []
        for i in range(count):
            layers.append(ImagenetBlock(before, width, 2 if stage > 1 and i == 0 else 1, bottleneck))
            before = layers[-1].after
        modules[f"layer{stage}"] = nn.Sequential(*layers)
    modules["fc"] = nn.Linear(before, 3)

    def run(m, x):
        x = F.max_pool2d(torch.relu(m.bn1(m.conv1(x))), 3, 2, 1)
        x = m.layer4(m.layer3(m.layer2(m.layer1(x))))
        return m.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))

    return Plain(run, **modules)


class VitBlock(nn.Module):
    def __init__(self, width, heads, hidden, scale):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Plain(None, qkv=nn.Linear(width, 3 * width), proj=nn.Linear(width, width))
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = Plain(lambda m, x: m.fc2(F.gelu(m.fc1(x))), fc1=nn.Linear(width, hidden), fc2=nn.Linear(hidden, width))
        if scale:
            for name in ("ls1", "ls2"):
                module = nn.Module()
                module.gamma = nn.Parameter(torch.ones(width))
                self.add_module(name, module)
        self.heads = heads

    def attend(self, x):
        """Head by head, as the definition has it."""
        query, key, value = self.attn.qkv(x).chunk(3, -1)
        parts = []
        for q, k, v in zip(*(t.chunk(self.heads, -1) for t in (query, key, value))):
            weights = torch.softmax(torch.einsum("nid,njd->nij", q, k) / math.sqrt(q.shape[-1]), -1)
            parts.append(torch.einsum("nij,njd->nid", weights, v))
        return self.attn.proj(torch.cat(parts, -1))

    def forward(self, x):
        y = self.attend(self.norm1(x))
        x = x + (y * self.ls1.gamma if hasattr(self, "ls1") else y)
        y = self.mlp(self.norm2(x))
        return x + (y * self.ls2.gamma if hasattr(self, "ls2") else y)


class Vit(nn.Module):
    def __init__(self, width, heads, depth, hidden, patch, side, classes, *, cls, registers, scale, positions_for_extra, average, pre=False):
        super().__init__()
        tokens = (side // patch) ** 2
        self.patch_embed = Plain(None, proj=nn.Conv2d(3, width, patch, patch))
        self.extra = []
        if cls:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
            self.extra.append("cls_token")
        if registers:
            self.reg_token = nn.Parameter(torch.zeros(1, registers, width))
            self.extra.append("reg_token")
        n_extra = int(cls) + registers
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens + (n_extra if positions_for_extra else 0), width))
        self.positions_for_extra = positions_for_extra
        if pre:
            self.norm_pre = nn.LayerNorm(width, eps=1e-6)
        self.blocks = nn.Sequential(*[VitBlock(width, heads, hidden, scale) for _ in range(depth)])
        self.add_module("fc_norm" if average else "norm", nn.LayerNorm(width, eps=1e-6))
        self.average, self.n_extra, self.pre = average, n_extra, pre
        self.head = nn.Linear(width, classes)

    def forward(self, x):
        n = x.shape[0]
        x = self.patch_embed.proj(x).flatten(2).transpose(1, 2)
        extra = [getattr(self, name).expand(n, -1, -1) for name in self.extra]
        if self.positions_for_extra:
            x = torch.cat([*extra, x], 1) + self.pos_embed
        else:
            x = torch.cat([*extra, x + self.pos_embed], 1)
        if self.pre:
            x = self.norm_pre(x)
        x = self.blocks(x)
        if self.average:
            return self.head(self.fc_norm(x[:, self.n_extra:].mean(1)))
        return self.head(self.norm(x)[:, 0])


def vit_little(depth=14):
    return Vit(20, 5, depth, 28, 4, 8, 3, cls=False, registers=4, scale=True, positions_for_extra=False, average=True)


CASES = [
    ("mlp", [2, 3], mlp_numbered),
    ({"name": "mlp", "activation": "tanh", "layers": ["entry", "body", "exit"]}, [2, 2], mlp_named),
    ({"name": "lenet", "padding": 2}, [1, 12, 12], lambda: lenet(2, torch.relu, F.max_pool2d, 1)),
    ({"name": "lenet", "activation": "sigmoid", "pool": "avg"}, [1, 20, 20], lambda: lenet(0, torch.sigmoid, F.avg_pool2d, 2)),
    ("all_cnn_c", [3, 16, 16], lambda: all_cnn_c(False)),
    ({"name": "all_cnn_c", "padding": "tensorflow"}, [3, 16, 16], lambda: all_cnn_c(True)),
    ("resnet20", [3, 8, 8], lambda: cifar_resnet(20, "A")),
    ({"name": "resnet20", "shortcut": "B"}, [3, 8, 8], lambda: cifar_resnet(20, "B")),
    ("resnet32", [3, 8, 8], lambda: cifar_resnet(32, "A", (2, 4, 10))),
    ("resnet44", [3, 8, 8], lambda: cifar_resnet(44, "B")),
    ("resnet56", [3, 8, 8], lambda: cifar_resnet(56, "A")),
    ("wide_resnet_16_4", [3, 8, 8], lambda: wide_resnet(16)),
    ("wide_resnet_40_4", [3, 8, 8], lambda: wide_resnet(40)),
    ("resnet18", [3, 32, 32], lambda: imagenet_resnet((2, 2, 2, 2), False, (5, 7, 8, 9))),
    ("resnet50", [3, 32, 32], lambda: imagenet_resnet((3, 4, 6, 3), True, (2, 2, 3, 3))),
    ({"name": "vit_little", "heads": 5}, [3, 8, 8], vit_little),
    ({"name": "vit", "heads": 2}, [3, 8, 8], lambda: Vit(8, 2, 2, 12, 4, 8, 3, cls=True, registers=0, scale=False,
                                                          positions_for_extra=True, average=False)),
    ({"name": "vit", "heads": 3}, [3, 8, 12], lambda: Vit(6, 3, 1, 9, 4, 8, 3, cls=True, registers=2, scale=False,
                                                          positions_for_extra=True, average=True, pre=True)),
]


def run_case(architecture, input_shape, make):
    torch.manual_seed(0)
    net = make().double().eval()
    if input_shape == [3, 8, 12]:  # a grid of 2 x 3 patches
        net.pos_embed = nn.Parameter(torch.zeros(1, 6 + 3, 6, dtype=torch.float64))
    state = net.state_dict()
    for name, tensor in state.items():
        if tensor.is_floating_point():
            tensor.copy_(torch.from_numpy(rule(name, list(tensor.shape))))
    x = torch.from_numpy(uniform("input", 2 * math.prod(input_shape)).reshape([2, *input_shape]))
    with torch.no_grad():
        logits = net(x)
    assert logits.shape == (2, 3) and logits.isfinite().all() and (logits[0] - logits[1]).abs().max() > 1e-5, architecture
    return {"architecture": architecture, "input_shape": input_shape, "logits": logits.tolist(),
            "tensors": {name: list(tensor.shape) for name, tensor in state.items()}}


def main():
    cases = [run_case(*case) for case in CASES]
    text = "[\n" + ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases) + "\n]\n"
    OUTPUT.write_text(text)
    print(f"{OUTPUT}: {len(cases)} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
