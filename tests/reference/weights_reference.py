#!/usr/bin/env python3
"""Files of weights as PyTorch itself writes them: makes tests/data/weights, which tests/formats/weights_file_test.cc reads.

    /usr/bin/python3 tests/reference/weights_reference.py       (needs PyTorch and NumPy; the files here were made with 1.13)
"""

import argparse
import collections
import pathlib
import zipfile

import numpy as np
import torch
from torch import nn

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "data" / "weights"


def state():
    """What a small network has: weights, a bias, statistics, a counter."""
    return collections.OrderedDict([
        ("conv.weight", torch.arange(12.0).reshape(2, 3, 2, 1) / 4 - 1),
        ("bn.running_mean", torch.tensor([0.5, -2.0])),
        ("bn.num_batches_tracked", torch.tensor(7)),
        ("fc.weight", torch.tensor([[1.5, -0.25], [3.0, 65504.0]])),
    ])


def save(name, value, **options):
    torch.save(value, FOLDER / name, **options)


def main():
    FOLDER.mkdir(exist_ok=True)
    legacy = {"_use_new_zipfile_serialization": False}
    save("zip.pth", state())
    save("legacy.pth", state(), **legacy)
    save("protocol4.pth", state(), pickle_protocol=4)
    with zipfile.ZipFile(FOLDER / "zip.pth") as stored, \
            zipfile.ZipFile(FOLDER / "deflated.pth", "w", zipfile.ZIP_DEFLATED) as deflated:
        for name in stored.namelist():
            deflated.writestr(zipfile.ZipInfo(name), stored.read(name), zipfile.ZIP_DEFLATED)

    # A checkpoint of training: what stands beside the weights is passed over.
    weights = collections.OrderedDict((f"module.{name}", tensor) for name, tensor in state().items())
    weights._metadata = collections.OrderedDict([("", {"version": 1})])
    network = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9)
    network(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [30, 60])
    checkpoint = {"epoch": 3, "best_prec1": np.float64(91.5), "args": argparse.Namespace(lr=0.1, arch="net", size=torch.Size([2])),
                  "state_dict": weights, "optimizer": optimizer.state_dict(), "scheduler": schedule.state_dict(), "note": None}
    save("checkpoint.pth", checkpoint)
    save("checkpoint_legacy.pth", checkpoint, **legacy)
    save("two_models.pth", {"state_dict": state(), "model": state()})

    # One element type each, and how tensors can lie in a storage.
    numbers = [-2, 0, 1, 100]
    types = {str(t).split(".")[1]: torch.tensor(numbers).to(t) for t in
             (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
              torch.uint8, torch.bool)}
    save("types.pth", types)
    base = torch.arange(24.0).reshape(4, 6)
    views = {"base": base, "transposed": base.t(), "strided": base[1:, ::2], "row": nn.Parameter(base[2]), "tied": base,
             "empty": torch.zeros(0, 3), "scalar": torch.tensor(2.5), "permuted": base.view(4, 3, 2).permute(2, 0, 1)}
    save("views.pth", views)
    save("views_legacy.pth", views, **legacy)

    # Refused.
    save("expanded.pth", {"w": torch.zeros(1).expand(1000)})
    save("module.pth", nn.Linear(2, 2))
    torch.jit.script(nn.Linear(2, 2).eval()).save(str(FOLDER / "script.pt"))
    print(f"{FOLDER}: {sum(path.stat().st_size for path in FOLDER.iterdir())} bytes")


if __name__ == "__main__":
    main()
