"""Networks and data of the corruption experiment, each with its checkpoint, splits and shape.

fashion_cnn  tests/data/fashion_cnn on Fashion-MNIST (Debian: dataset-fashion-mnist). Validation rows are the 10,000 training
             images that the network has not seen. For a corruption an image is padded to 32 x 32 and repeated in three
             channels; of the result the second channel is kept, and the padding cut off.
resnet20     a registry folder of your own (model.pt, model.json) on CIFAR-10 as tests/bench/fetch_cifar10.py writes it.
             Validation rows are the last 1,000 test images, because such checkpoints have seen all training images.
all_cnn_c    what train_all_cnn_c.py made of CIFAR-10, which has not seen the last 10,000 training images: validation rows.
"""
import gzip
import pathlib
from dataclasses import dataclass
from typing import Callable

import numpy as np

import cifar_splits
from corruptions import corrupt

ROOT = pathlib.Path(__file__).resolve().parents[3]
FASHION = pathlib.Path("/usr/share/datasets/fashion-mnist")


@dataclass(frozen=True)
class Split:
    x: np.ndarray  # uint8 pixels as the server takes them
    y: np.ndarray  # int64 classes

    def rows(self, chosen):
        return Split(np.ascontiguousarray(self.x[chosen]), self.y[chosen])


@dataclass(frozen=True)
class Network:
    name: str
    folder: pathlib.Path  # with model.pt and model.json
    train: Split
    validation: Split
    test: Split
    corrupt: Callable  # (x, name, severity, seed) -> x


def _idx(path):
    try:
        raw = gzip.open(path).read()
    except OSError as error:
        raise SystemExit(f"{error}: install Debian's package dataset-fashion-mnist")
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(raw[3])]
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * len(shape)).reshape(shape)


def corrupt_grey(x, name, severity, seed):
    """[n, 1, 28, 28] by way of 32 x 32 RGB."""
    padded = np.pad(x[:, 0], ((0, 0), (2, 2), (2, 2)))
    rgb = np.repeat(padded[..., np.newaxis], 3, axis=-1)
    return np.ascontiguousarray(corrupt(rgb, name, severity, seed)[:, 2:30, 2:30, 1])[:, np.newaxis]


def corrupt_rgb(x, name, severity, seed):
    """[n, 3, 32, 32]."""
    return np.ascontiguousarray(corrupt(x.transpose(0, 2, 3, 1), name, severity, seed).transpose(0, 3, 1, 2))


def fashion_cnn():
    read = lambda split: Split(
        _idx(FASHION / f"{split}-images-idx3-ubyte.gz")[:, np.newaxis],
        _idx(FASHION / f"{split}-labels-idx1-ubyte.gz").astype(np.int64),
    )
    train, test = read("train"), read("t10k")
    folder = ROOT / "tests" / "data" / "fashion_cnn"
    seen, unseen = slice(0, 50000), slice(50000, None)
    return Network("fashion_cnn", folder, train.rows(seen), train.rows(unseen), test, corrupt_grey)


def of_cifar10(name, folder, cifar):
    """`folder`: model.pt and model.json; `cifar`: what fetch_cifar10.py wrote. SystemExit says what is missing."""
    if folder is None or cifar is None:
        raise SystemExit(f"{name}: needs --model FOLDER (model.pt, model.json) and --cifar FOLDER (tests/bench/fetch_cifar10.py)")
    for path in (folder / "model.pt", folder / "model.json", cifar / "train_images.npy"):
        if not path.exists():
            raise SystemExit(f"{path}: not there")
    read = lambda split: Split(np.load(cifar / f"{split}_images.npy", mmap_mode="r"), np.load(cifar / f"{split}_labels.npy"))
    train, test = read("train"), read("test")
    if name == "all_cnn_c":
        seen, unseen = slice(0, cifar_splits.N_TRAIN), slice(cifar_splits.N_TRAIN, None)
        return Network(name, folder, train.rows(seen), train.rows(unseen), test, corrupt_rgb)
    return Network(name, folder, train, test.rows(slice(9000, None)), test.rows(slice(0, 9000)), corrupt_rgb)
