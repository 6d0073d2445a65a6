#!/usr/bin/env python3
"""Trains ResNet-20 (option-A shortcuts) on CIFAR-10 for a few hundred steps and stops: an early checkpoint for
`paper_curvature --early`, which has something to gain from a Newton step.

    /usr/bin/python3 tests/bench/paper/train_early.py DATA OUT [--steps 200]

DATA: the folder of tests/bench/fetch_cifar10.py. OUT gets model.pt (TorchScript, evaluation mode) and model.json. SGD,
128 examples, momentum 0.9, rate 0.1, weight decay 1e-4, no augmentation; batch norm's statistics are those of training.
Needs python3-torch.
"""
import argparse
import json
import pathlib
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MANIFEST = {
    "likelihood": "categorical",
    "input": {"shape": [3, 32, 32], "uint8_scale": 1 / 255, "uint8_mean": MEAN, "uint8_std": STD},
    "n_outputs": 10,
    "n_data": 50000,
    "weight_decay": 1e-4,
}


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.stride = 1 if inputs == outputs else 2
        self.pad = (outputs - inputs) // 2
        self.conv1 = nn.Conv2d(inputs, outputs, 3, self.stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.stride == 2:
            x = F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, self.pad, self.pad])
        return F.relu(y + x)


def resnet20() -> nn.Module:
    widths = [16, 16, 16, 16, 32, 32, 32, 64, 64, 64]
    blocks = [Block(a, b) for a, b in zip(widths, widths[1:])]
    net = nn.Sequential(
        nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), *blocks,
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10),
    )  # fmt: skip
    for module in net.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(module.weight)
    return net


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    images = np.load(args.data / "train_images.npy", mmap_mode="r")
    labels = torch.from_numpy(np.load(args.data / "train_labels.npy").astype(np.int64))
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    net = resnet20()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    random = np.random.default_rng(args.seed)
    begin = time.time()
    for step in range(1, args.steps + 1):
        rows = np.sort(random.choice(len(images), 128, replace=False))
        x = (torch.from_numpy(images[rows].astype(np.float32)) / 255 - mean) / std
        loss = F.cross_entropy(net(x), labels[rows])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % 20 == 0:
            print(f"step {step}: loss {loss.item():.3f}, {time.time() - begin:.0f} s", flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    net.eval()
    torch.jit.trace(net, torch.zeros(2, 3, 32, 32)).save(str(args.out / "model.pt"))
    (args.out / "model.json").write_text(json.dumps(MANIFEST, indent=2) + "\n")


if __name__ == "__main__":
    main()
