"""CIFAR-shaped data for training, split into 40,000 / 10,000 / 10,000 as in the paper.

Training rows are 0 to 39,999 of the training images and validation rows the rest, in the official order, which is random, so
that `laplace fit --train-rows 0:40000` means the same images.

cifar10       tests/bench/fetch_cifar10.py
cifar100      files of the same names and form with CIFAR-100; no package registry that we know has it
cifar100-like CIFAR-10 with 100 classes made of its ten: each is cut into ten by k-means over its training images, shrunk to
              8 x 8 and centred; a validation or test image goes to the nearest of its true class's ten. What is to be told
              apart is then finer (backgrounds, poses), with 400 images a class as in CIFAR-100. It is not CIFAR-100, and
              error rates do not compare.
"""
import numpy as np

N_TRAIN = 40000
PARTS = 10  # of a class of CIFAR-10
ROUNDS = 12


def _thumbnails(images):
    """[n, 3, 32, 32] -> [n, 192], without the image's own mean."""
    small = images.reshape(len(images), 3, 8, 4, 8, 4).mean((3, 5), dtype=np.float32)
    flat = small.reshape(len(images), -1)
    return flat - flat.mean(1, keepdims=True)


def _nearest(points, centres):
    return np.argmin((centres**2).sum(1) - 2 * points @ centres.T, axis=1)


def finer_labels(train, labels, others, seed=0):
    """Labels 0 to 99 for `train` and for each (images, labels) of `others`."""
    random = np.random.default_rng(seed)
    points = _thumbnails(train)
    rest = [(_thumbnails(images), their) for images, their in others]
    fine = np.empty_like(labels)
    fine_rest = [np.empty_like(their) for _, their in others]
    for c in range(10):
        mine = points[labels == c]
        centres = mine[random.choice(len(mine), PARTS, replace=False)]
        for _ in range(ROUNDS):
            part = _nearest(mine, centres)
            centres = np.stack([mine[part == k].mean(0) if np.any(part == k) else mine[random.integers(len(mine))] for k in range(PARTS)])
        fine[labels == c] = PARTS * c + _nearest(mine, centres)
        for (where, their), target in zip(rest, fine_rest):
            target[their == c] = PARTS * c + _nearest(where[their == c], centres)
    return fine, fine_rest


def load(dataset, folder):
    """{"train": (x, y), "validation": ..., "test": ...}: uint8 [n, 3, 32, 32] and int64 [n]; and the number of classes."""
    try:
        files = {name: np.load(folder / f"{name}.npy") for name in ("train_images", "train_labels", "test_images", "test_labels")}
    except OSError as error:
        raise SystemExit(f"{error}: get CIFAR-10 with tests/bench/fetch_cifar10.py {folder}")
    x, y = files["train_images"], files["train_labels"].astype(np.int64)
    test = (files["test_images"], files["test_labels"].astype(np.int64))
    classes = 10 if dataset == "cifar10" else 100
    if dataset != "cifar100-like" and y.max() != classes - 1:
        raise SystemExit(f"{folder}/train_labels.npy: expected classes 0 to {classes - 1} for {dataset}, got up to {y.max()}")
    parts = {"train": (x[:N_TRAIN], y[:N_TRAIN]), "validation": (x[N_TRAIN:], y[N_TRAIN:]), "test": test}
    if dataset == "cifar100-like":
        fine, others = finer_labels(*parts["train"], [parts["validation"], parts["test"]])
        for name, labels in zip(parts, [fine, *others]):
            parts[name] = (parts[name][0], labels)
    return parts, classes
