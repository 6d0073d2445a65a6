#!/usr/bin/env python3
"""Trains the demo network on Fashion-MNIST and writes model.pt (TorchScript) and model.json beside this file.

    /usr/bin/python3 tests/data/fashion_cnn/train.py [--seed 0] [--epochs 30]

Data: Debian's package dataset-fashion-mnist. The network is trained on the first 50,000 training images; the other
10,000 are never seen by it and serve as validation and calibration data. The loss is the mean cross-entropy plus
weight_decay / 2 * ||theta||^2 over all parameters (plain SGD's weight_decay), so that the Gaussian prior that belongs
to these weights has precision n_data * weight_decay. Needs python3-torch (only to train: nothing else uses Python).
"""
import argparse
import gzip
import json
import pathlib

import numpy as np
import torch
from torch import nn

DATA = pathlib.Path("/usr/share/datasets/fashion-mnist")
HERE = pathlib.Path(__file__).resolve().parent
N_DATA = 50_000
WEIGHT_DECAY = 5e-4
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]


def read_idx(path):
    raw = gzip.open(path).read()
    ndim = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(ndim)]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * ndim).reshape(shape)


def load(split, folder):
    x = torch.from_numpy(read_idx(folder / f"{split}-images-idx3-ubyte.gz").copy()).float().div_(255).unsqueeze(1)
    y = torch.from_numpy(read_idx(folder / f"{split}-labels-idx1-ubyte.gz").copy()).long()
    return x, y


class FashionCnn(nn.Module):
    """Three 3x3 convolutions (16, 32, 32), each with ReLU and 2x2 max pooling, then 100 hidden units: 43,958 parameters."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        )
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(288, 100), nn.ReLU(inplace=True), nn.Linear(100, 10))

    def forward(self, x):
        return self.classifier(self.features(x))


def evaluate(net, x, y):
    net.eval()
    with torch.no_grad():
        logits = torch.cat([net(b) for b in x.split(1000)])
    return (logits.argmax(1) == y).float().mean().item(), nn.functional.cross_entropy(logits, y).item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--data", type=pathlib.Path, default=DATA, help="folder with the four idx.gz files")
    args = parser.parse_args()
    torch.manual_seed(args.seed)

    x, y = load("train", args.data)
    x_test, y_test = load("t10k", args.data)
    x_val, y_val, x, y = x[N_DATA:], y[N_DATA:], x[:N_DATA], y[:N_DATA]

    net = FashionCnn()
    batch = 128
    steps = args.epochs * ((N_DATA + batch - 1) // batch)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=0.1, total_steps=steps, pct_start=0.15)
    for epoch in range(args.epochs):
        net.train()
        for rows in torch.randperm(N_DATA).split(batch):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
            optimiser.step()
            schedule.step()
        accuracy, nll = evaluate(net, x_val, y_val)
        print(f"epoch {epoch + 1:2d}: validation accuracy {accuracy:.4f}, NLL {nll:.4f}", flush=True)

    train_accuracy, train_nll = evaluate(net, x, y)
    accuracy, nll = evaluate(net, x_test, y_test)
    print(f"train accuracy {train_accuracy:.4f}, NLL {train_nll:.4f}; test accuracy {accuracy:.4f}, NLL {nll:.4f}")
    torch.jit.script(net.eval()).save(str(HERE / "model.pt"))
    manifest = {
        "likelihood": "categorical",
        "input": {"shape": [1, 28, 28], "dtype": "float32", "uint8_scale": 1 / 255},
        "n_outputs": 10,
        "class_names": CLASSES,
        "n_data": N_DATA,
        "weight_decay": WEIGHT_DECAY,
        "description": f"Fashion-MNIST CNN, seed {args.seed}, {args.epochs} epochs, test accuracy {accuracy:.4f}",
    }
    (HERE / "model.json").write_text(json.dumps(manifest, indent=2) + "\n")


if __name__ == "__main__":
    main()
