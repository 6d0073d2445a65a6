#!/usr/bin/env python3
"""Trains ALL-CNN-C with the paper's hyper-parameters, resumes, and exports what it has.

    /usr/bin/python3 tests/bench/paper/train_all_cnn_c.py --cifar FOLDER --out run/all_cnn_c             # setting B, 350 epochs
    /usr/bin/python3 tests/bench/paper/train_all_cnn_c.py --cifar FOLDER --out run/all_cnn_c --minutes 15 --threads 1

Setting A: SGD, learning rate 0.171234, weight decay 5e-4 (100 classes: --dataset cifar100 or cifar100-like).
Setting B: SGD, learning rate 0.025, momentum 0.9, weight decay 1e-3, learning rate / 10 at 4/7, 5/7 and 6/7 of the epochs (200,
250 and 300 of 350). Both: batches of 256, 350 epochs, 40,000 training images, decay b/2 ||theta||^2 of weights and not of biases.
Inputs are (pixel / 255 - mean) / std of each channel. Images are not augmented unless --augment (shifts by up to 4 pixels,
mirrored or not): whether the paper did is not known to us.

Writes into --out: checkpoint.pt (replaced every --checkpoint-minutes and at the end; a run that is started again goes on from
there, with the same shuffles), metrics.csv, test.csv, all_cnn_c.pth (a state_dict), one all_cnn_c_epoch_N.pth for each N of
--keep, and all_cnn_c/1/{model.pt,model.json}: copy the folder all_cnn_c into REGISTRY/models to serve it. A signal (SIGINT,
SIGTERM) ends it in the same orderly way as --minutes.

On a GPU (--device cuda, the default where there is one) all images stay in its memory and convolutions compute in TF32, which
is PyTorch's default; a checkpoint made there goes on on a CPU and the other way round, with other random numbers for dropout.
"""
import argparse
import csv
import os
import pathlib
import shutil
import signal
import sys
import time

import numpy as np
import torch
from torch import nn

import cifar_splits
from all_cnn_c import AllCnnC

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "client" / "python"))
from laplace_client.export import export_torchscript  # noqa: E402

BATCH = 256
SETTINGS = {
    "A": {"learning_rate": 0.171234, "momentum": 0.0, "weight_decay": 5e-4, "milestones": ()},
    "B": {"learning_rate": 0.025, "momentum": 0.9, "weight_decay": 1e-3, "milestones": (4 / 7, 5 / 7, 6 / 7)},
}
MEAN = np.array([0.4914, 0.4822, 0.4465])  # of CIFAR-10's training pixels
STD = np.array([0.2470, 0.2435, 0.2616])
COLUMNS = ["step", "epoch", "seconds", "learning_rate", "train_loss", "validation_loss", "validation_accuracy"]
TEST_COLUMNS = ["step", "images", "test_loss", "test_accuracy"]


def normalised(x):
    """uint8 [B, 3, 32, 32] -> float32 of the same shape, on the same device."""
    mean, std = (torch.from_numpy(v).float().view(3, 1, 1).to(x.device) for v in (MEAN, STD))
    return (x.float() / 255 - mean) / std


def augmented(x, random):
    """uint8 [B, 3, 32, 32], each shifted by up to 4 pixels (what comes in is black) and mirrored by even chance."""
    shifts, mirror = random.integers(0, 9, (len(x), 2)), random.random(len(x)) < 0.5
    columns = shifts[:, 1:] + np.arange(32)
    columns[mirror] = columns[mirror][:, ::-1]
    rows, columns = (torch.from_numpy(i).to(x.device) for i in (shifts[:, :1] + np.arange(32), columns))
    image = torch.arange(len(x), device=x.device).view(-1, 1, 1)
    out = nn.functional.pad(x, (4, 4, 4, 4))[image, :, rows.unsqueeze(2), columns.unsqueeze(1)]  # [B, 32, 32, 3]
    return out.permute(0, 3, 1, 2)


def learning_rate(setting, epoch, epochs):
    return setting["learning_rate"] / 10 ** sum(epoch >= round(m * epochs) for m in setting["milestones"])


def evaluate(net, x, y):
    """Mean cross-entropy without weight decay, and accuracy."""
    net.eval()
    loss = right = 0.0
    with torch.no_grad():
        for i in range(0, len(y), 500):
            logits, target = net(normalised(x[i : i + 500])), y[i : i + 500]
            loss += nn.functional.cross_entropy(logits, target, reduction="sum").item()
            right += (logits.argmax(1) == target).sum().item()
    net.train()
    return loss / len(y), right / len(y)


class Run:
    """Network, optimiser and how far they are."""

    def __init__(self, options, classes):
        torch.manual_seed(options.seed)
        self.setting = SETTINGS[options.setting]
        self.net = AllCnnC(classes).to(options.device, memory_format=torch.channels_last).train()
        decayed = [p for p in self.net.parameters() if p.dim() > 1]
        biases = [p for p in self.net.parameters() if p.dim() == 1]
        groups = [{"params": decayed, "weight_decay": self.setting["weight_decay"]}, {"params": biases, "weight_decay": 0.0}]
        self.optimiser = torch.optim.SGD(groups, lr=self.setting["learning_rate"], momentum=self.setting["momentum"])
        self.step, self.seconds = 0, 0.0
        # What a checkpoint must agree with.
        self.identity = {k: getattr(options, k) for k in ("setting", "dataset", "seed", "epochs", "augment")}

    def save(self, path):
        state = {"identity": self.identity, "step": self.step, "seconds": self.seconds, "net": self.net.state_dict(),
                 "optimiser": self.optimiser.state_dict(), "random": torch.get_rng_state(),
                 "cuda_random": torch.cuda.get_rng_state_all()}  # fmt: skip
        torch.save(state, path.with_suffix(".new"))
        os.replace(path.with_suffix(".new"), path)

    def load(self, path, device):
        state = torch.load(path, map_location=device)
        if state["identity"] != self.identity:
            raise SystemExit(f"{path}: of another run, {state['identity']}, not {self.identity}; name another --out")
        self.net.load_state_dict(state["net"])
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["random"].cpu())
        if len(state["cuda_random"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all([s.cpu() for s in state["cuda_random"]])
        self.step, self.seconds = state["step"], state["seconds"]


def append(path, columns, row):
    new = not path.exists()
    with open(path, "a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(columns)
        writer.writerow([f"{v:.6g}" if isinstance(v, float) else v for v in row])


def train(run, data, options, stopped):
    """Until the last epoch, or until stopped() says so; True if all epochs are done."""
    x, y = data["train"]
    per_epoch = len(y) // BATCH  # what is left over of a shuffle is left out
    saved = begin = time.monotonic()
    losses = []  # since the last evaluation; read then alone, because reading waits for a GPU
    while run.step < options.epochs * per_epoch:
        epoch, batch = divmod(run.step, per_epoch)
        order = torch.from_numpy(np.random.default_rng([options.seed, epoch]).permutation(len(y))).to(options.device)
        rate = learning_rate(run.setting, epoch, options.epochs)
        for group in run.optimiser.param_groups:
            group["lr"] = rate
        for batch in range(batch, per_epoch):
            rows = order[batch * BATCH : (batch + 1) * BATCH]
            pixels = augmented(x[rows], np.random.default_rng([options.seed, run.step, 1])) if options.augment else x[rows]
            loss = nn.functional.cross_entropy(run.net(normalised(pixels)), y[rows])
            run.optimiser.zero_grad()
            loss.backward()
            run.optimiser.step()
            losses.append(loss.detach())
            run.step += 1
            last = batch == per_epoch - 1
            stop = stopped()
            if last or stop or run.step % options.evaluate_every == 0:
                mean = torch.stack(losses).mean().item()
                if not np.isfinite(mean):
                    raise SystemExit(f"step {run.step}: the loss is {mean}; the last checkpoint is kept")
                run.seconds += time.monotonic() - begin
                part = slice(0, None if last else options.evaluation_images)
                validation = evaluate(run.net, *(v[part] for v in data["validation"]))
                append(options.out / "metrics.csv", COLUMNS, [run.step, run.step / per_epoch, run.seconds, rate, mean, *validation])
                print(f"step {run.step} (epoch {run.step / per_epoch:.2f}): training loss {mean:.4f}, "
                      f"validation loss {validation[0]:.4f}, accuracy {validation[1]:.4f}", flush=True)  # fmt: skip
                losses = []
                if last and epoch + 1 in options.keep:
                    torch.save(weights(run), options.out / f"all_cnn_c_epoch_{epoch + 1}.pth")
                if stop or time.monotonic() - saved > 60 * options.checkpoint_minutes:
                    run.save(options.out / "checkpoint.pt")
                    saved = time.monotonic()
                begin = time.monotonic()
            if stop:
                return False
    run.save(options.out / "checkpoint.pt")
    return True


def weights(run):
    """The state_dict in ordinary memory, as any PyTorch reads it."""
    return {name: value.cpu().contiguous() for name, value in run.net.state_dict().items()}


def export(run, data, options, test):
    torch.save(weights(run), options.out / "all_cnn_c.pth")
    net = run.net.cpu().eval()
    version = options.out / "all_cnn_c" / "1"
    shutil.rmtree(version, ignore_errors=True)
    export_torchscript(
        net, normalised(data["validation"][0][:4].cpu()), version, likelihood="categorical", n_data=len(data["train"][1]),
        weight_decay=run.setting["weight_decay"], uint8_scale=1 / 255, uint8_mean=MEAN.tolist(), uint8_std=STD.tolist(),
        description=f"ALL-CNN-C, setting {options.setting}, {options.dataset}, {run.step} steps of {BATCH}, test accuracy {test[1]:.3f}",
    )  # fmt: skip


def parse():
    parser = argparse.ArgumentParser(description="Trains ALL-CNN-C; see the head of this file.")
    parser.add_argument("--cifar", type=pathlib.Path, required=True, help="folder of .npy files, as fetch_cifar10.py writes")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--setting", choices=SETTINGS, default="B")
    parser.add_argument("--dataset", choices=("cifar10", "cifar100", "cifar100-like"), help="default cifar10 for B, cifar100-like for A")
    parser.add_argument("--epochs", type=int, default=350)
    parser.add_argument("--augment", action="store_true", help="shift and mirror training images")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=lambda v: {int(n) for n in v.split(",")}, default=set(), metavar="N,...",
                        help="epochs whose weights stay, besides the last")  # fmt: skip
    parser.add_argument("--minutes", type=float, help="stop, save and export after so many minutes; start again to go on")
    parser.add_argument("--checkpoint-minutes", type=float, default=10)
    parser.add_argument("--evaluate-every", type=int, default=1000, help="steps; besides the end of every epoch (1000)")
    parser.add_argument("--evaluation-images", type=int, default=10000, help="validation images in between, and test images at "
                        "the end of a run that was stopped (all)")  # fmt: skip
    parser.add_argument("--threads", type=int, help="of PyTorch (its default)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    options = parser.parse_args()
    options.dataset = options.dataset or ("cifar10" if options.setting == "B" else "cifar100-like")
    if options.epochs < 1 or options.evaluate_every < 1:
        parser.error("--epochs and --evaluate-every: expected at least 1")
    return options


def main():
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    torch.backends.cudnn.benchmark = True
    arrays, classes = cifar_splits.load(options.dataset, options.cifar)
    data = {name: [torch.from_numpy(np.ascontiguousarray(v)).to(options.device) for v in part] for name, part in arrays.items()}
    run = Run(options, classes)
    if (options.out / "checkpoint.pt").exists():
        run.load(options.out / "checkpoint.pt", options.device)
        print(f"going on from step {run.step}")
    signalled = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: signalled.append(True))
    end = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")
    whole = train(run, data, options, lambda: bool(signalled) or time.monotonic() > end)
    images = None if whole else options.evaluation_images
    test = evaluate(run.net, *(part[:images] for part in data["test"]))
    append(options.out / "test.csv", TEST_COLUMNS, [run.step, len(data["test"][1][:images]), *test])
    print(f"{'all epochs' if whole else 'stopped'} at step {run.step} after {run.seconds:.0f} s of training: "
          f"test loss {test[0]:.4f}, accuracy {test[1]:.4f}{'' if whole else f' on {images} images'}", flush=True)  # fmt: skip
    export(run, data, options, test)
    print(f"wrote {options.out}/all_cnn_c.pth and {options.out}/all_cnn_c/1")


if __name__ == "__main__":
    main()
