#!/usr/bin/env python3
"""Posteriors under corruption: accuracy, NLL, ECE and detection at severities 0 (clean) to 5.

    /usr/bin/python3 tests/bench/paper/under_corruption.py --out results/fashion_cnn
    /usr/bin/python3 tests/bench/paper/under_corruption.py --network resnet20 --model FOLDER --cifar FOLDER --out results/resnet20

Starts a laplaced of its own and fits, over it, every posterior of METHODS, each seed with its own batches, test images and
random numbers of corruptions. Every posterior answers at two prior precisions: n_beta, N x weight decay, and tuned, the best
NLL on --validation images. Of each image that is corrupted the clean one is measured too.

Writes into --out, and goes on where it was stopped (a finished seed and method is not done again):
  corruption_settings.csv   key,value
  corruption.csv            seed,structure,variant,strategy,prior,severity,images,accuracy,nll,ece
  corruption_auroc.csv      seed,structure,variant,strategy,prior,severity,score,auroc    clean against that severity
  corruption_kinds.csv      seed,structure,variant,strategy,prior,corruption,images,accuracy,nll    over all severities
  corruption_fits.csv       seed,structure,variant,strategy,fit_seconds,prior_tuned,trace,residual_share,milliseconds_per_image
"""
import argparse
import csv
import pathlib
import signal
import sys
import time
from dataclasses import dataclass

import numpy as np

import experiment_data
import metrics
from corruptions import NAMES, SEVERITIES
from revision import commit
from running_server import ROOT, RunningServer

sys.path.insert(0, str(ROOT / "client" / "python"))
from laplace_client import Client, ClientOptions  # noqa: E402
from laplace_client.options import Timeouts  # noqa: E402


@dataclass(frozen=True)
class Method:
    """structure: low_rank, kfac or last_layer. variant: the residual, or the eigenvalues of K-FAC (K: factors, E: exact).
    strategy: biased (|B1| examples do both), equal_budget (|B1| + |B2| do both), debiased (B1 chooses, B2 measures)."""

    structure: str
    variant: str
    strategy: str

    def matches(self, pattern):
        """pattern: structure, structure/variant or structure/variant/strategy."""
        words = pattern.split("/")
        return [self.structure, self.variant, self.strategy][: len(words)] == words

    def fit_options(self, b1, b2, rank):
        if self.structure == "last_layer":
            return {"structure": "last_layer"}
        options = {
            "structure": self.structure,
            "debiasing": "two_batch" if self.strategy == "debiased" else "none",
            "direction_batch_size": b1 + b2 if self.strategy == "equal_budget" else b1,
            "curvature_batch_size": b2 if self.strategy == "debiased" else None,
        }
        if self.structure == "low_rank":
            return {**options, "rank": rank, "residual": self.variant}
        return {**options, "kfac_eigenvalues": self.variant}


STRATEGIES = ("biased", "equal_budget", "debiased")
METHODS = (
    [Method("low_rank", residual, s) for residual in ("layerwise", "none") for s in STRATEGIES]
    + [Method("kfac", eigenvalues, s) for eigenvalues in ("factors", "exact") for s in STRATEGIES]
    + [Method("last_layer", "", "")]
)
PLAIN = [Method("map", "", ""), Method("temperature", "", "")]


class Tables:
    """Rows of a method's results; written when it is complete, so that a file holds whole methods only."""

    COLUMNS = {
        "": "seed,structure,variant,strategy,prior,severity,images,accuracy,nll,ece",
        "_auroc": "seed,structure,variant,strategy,prior,severity,score,auroc",
        "_kinds": "seed,structure,variant,strategy,prior,corruption,images,accuracy,nll",
        "_fits": "seed,structure,variant,strategy,fit_seconds,prior_tuned,trace,residual_share,milliseconds_per_image",
    }

    def __init__(self, folder, settings):
        folder.mkdir(parents=True, exist_ok=True)
        self._path = lambda suffix: folder / f"corruption{suffix}.csv"
        self._rows = {suffix: [] for suffix in self.COLUMNS}
        lines = ["key,value"] + [f"{key},{value}" for key, value in settings.items()]
        kept = self._path("_settings")
        if not kept.exists():
            kept.write_text("\n".join(lines + [f"commit,{commit()}"]) + "\n")
        elif kept.read_text().splitlines()[:-1] != lines:
            raise SystemExit(f"{kept}: results of other settings stand here; name another --out, or remove them")
        self.done = set()
        for suffix, columns in self.COLUMNS.items():
            if not self._path(suffix).exists():
                self._path(suffix).write_text(columns + "\n")
        with open(self._path("_fits"), newline="") as file:  # written last of all
            self.done = {(int(r["seed"]), Method(r["structure"], r["variant"], r["strategy"])) for r in csv.DictReader(file)}

    def add(self, suffix, seed, method, *values):
        number = lambda v: f"{v:.6g}" if isinstance(v, float) else v
        self._rows[suffix].append([seed, method.structure, method.variant, method.strategy, *map(number, values)])

    def write(self, seed, method):
        key = [str(seed), method.structure, method.variant, method.strategy]
        for suffix, rows in self._rows.items():
            with open(self._path(suffix), newline="") as file:  # without what an interrupted write may have left
                kept = [row for row in csv.reader(file) if row[:4] != key]
            with open(self._path(suffix), "w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(kept + [r for r in rows])
            rows.clear()
        self.done.add((seed, method))


@dataclass(frozen=True)
class Cells:
    """Test images of a seed: severity and corruption of each (0 and -1 for the clean ones)."""

    x: np.ndarray
    y: np.ndarray
    severity: np.ndarray
    kind: np.ndarray


def make_cells(network, seed, options):
    """--images test images for every corruption, other ones for each; the same at each severity, and clean."""
    order = np.random.default_rng([seed, 1]).permutation(len(network.test.y))
    x, y, severity, kind = [], [], [], []
    for k, name in enumerate(options.corruptions):
        rows = order[np.arange(k * options.images, (k + 1) * options.images) % len(order)]
        clean = network.test.rows(np.sort(rows))
        for s in (0, *options.severities):
            x.append(clean.x if s == 0 else network.corrupt(clean.x, name, s, seed))
            y.append(clean.y)
            severity.append(np.full(len(clean.y), s))
            kind.append(np.full(len(clean.y), k if s else -1))
    return Cells(*map(np.concatenate, (x, y, severity, kind)))


def measure(tables, seed, method, prior, cells, probabilities, scores, corruptions):
    for s in np.unique(cells.severity):
        chosen = cells.severity == s
        p, y = probabilities[chosen], cells.y[chosen]
        tables.add("", seed, method, prior, s, len(y), metrics.accuracy(p, y), metrics.nll(p, y), metrics.ece(p, y))
        if s > 0:
            for name, values in scores.items():
                tables.add("_auroc", seed, method, prior, s, name, metrics.auroc(values[cells.severity == 0], values[chosen]))
    for k, name in enumerate(corruptions):
        chosen = cells.kind == k
        p, y = probabilities[chosen], cells.y[chosen]
        tables.add("_kinds", seed, method, prior, name, len(y), metrics.accuracy(p, y), metrics.nll(p, y))


def ask(client, name, x, prior_precision=None, rows=64):
    """Answers for all rows of x: (mean, map_mean, logits, variance summed over classes, epistemic), and seconds of compute."""
    answers = [client.predict(name, x[i : i + rows], prior_precision=prior_precision, ood_scores=["msp"], variance_mode="exact")
               for i in range(0, len(x), rows)]  # fmt: skip
    join = lambda get: np.concatenate([get(a) for a in answers]).astype(float)
    return (
        join(lambda a: a.mean), join(lambda a: a.map_mean), join(lambda a: a.functional_mean),
        join(lambda a: a.variance.sum(-1)), join(lambda a: a.epistemic),
    ), sum(a.compute_seconds for a in answers)  # fmt: skip


def plain_answers(tables, seed, cells, logits, validation_logits, validation_labels, corruptions):
    temperature = metrics.best_temperature(validation_logits, validation_labels)
    for method, t in zip(PLAIN, (1.0, temperature)):
        p = metrics.softmax(logits / t)
        scores = {"entropy": metrics.entropy(p), "msp": -p.max(-1), "energy": t * metrics.energy(logits / t)}
        measure(tables, seed, method, "", cells, p, scores, corruptions)
        tables.add("_fits", seed, method, 0.0, t, 0.0, 0.0, 0.0)  # the temperature, in the prior's place
        tables.write(seed, method)


def posterior_answers(tables, seed, method, client, network, cells, data, options):
    train, validation = data
    begin = time.monotonic()
    client.fit(network.name, train, validation, seed=seed, prior_method="validation",
               **method.fit_options(options.b1, options.b2, options.rank))  # fmt: skip
    seconds = time.monotonic() - begin
    posterior = client.get_posterior(network.name)
    per_image = 0.0
    for prior, precision in (("n_beta", posterior.ood_prior_precision), ("tuned", posterior.prior_precision)):
        (mean, _, _, variance, epistemic), compute = ask(client, network.name, cells.x, precision)
        per_image = 1000 * compute / len(cells.y)
        scores = {"entropy": metrics.entropy(mean), "msp": -mean.max(-1), "mutual_information": epistemic, "variance": variance}
        measure(tables, seed, method, prior, cells, mean, scores, options.corruptions)
    tables.add("_fits", seed, method, seconds, posterior.prior_precision, posterior.trace, posterior.residual_share, per_image)
    tables.write(seed, method)


def run_seed(tables, seed, client, network, options):
    methods = [m for m in METHODS if not any(m.matches(pattern) for pattern in options.skip)]
    if all((seed, m) in tables.done for m in PLAIN + methods):
        return
    say(f"seed {seed}: corrupting images")
    cells = make_cells(network, seed, options)
    random = np.random.default_rng([seed, 2])
    train = network.train.rows(np.sort(random.permutation(len(network.train.y))[: options.train_rows]))
    validation = network.validation.rows(np.sort(random.permutation(len(network.validation.y))[: options.validation]))
    data = tuple(client.ensure_dataset(split.x, split.y).id for split in (train, validation))
    for method in methods:
        if (seed, method) in tables.done:
            continue
        begin = time.monotonic()
        posterior_answers(tables, seed, method, client, network, cells, data, options)
        say(f"seed {seed}: {method.structure} {method.variant} {method.strategy}: {time.monotonic() - begin:.0f} s")
    if not all((seed, m) in tables.done for m in PLAIN):  # any posterior answers with the plain network too
        (_, _, logits, _, _), _ = ask(client, network.name, cells.x)
        (_, _, validation_logits, _, _), _ = ask(client, network.name, validation.x)
        plain_answers(tables, seed, cells, logits, validation_logits, validation.y, options.corruptions)


def say(text):
    print(text, file=sys.stderr, flush=True)


def parse():
    words = lambda text: tuple(text.split(","))
    parser = argparse.ArgumentParser(description="Posteriors under corruption; see the head of this file.")
    parser.add_argument("--network", choices=("fashion_cnn", "resnet20", "all_cnn_c"), default="fashion_cnn")
    parser.add_argument("--model", type=pathlib.Path, help="of resnet20 and all_cnn_c: folder with model.pt and model.json")
    parser.add_argument("--cifar", type=pathlib.Path, help="of the same: folder that fetch_cifar10.py wrote")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--server-binary", default=ROOT / "build" / "release" / "server" / "app" / "laplaced")
    parser.add_argument("--seeds", type=int, default=3, help="repetitions, seeds 0, 1, ... (3)")
    parser.add_argument("--images", type=int, default=20, help="test images for each corruption and seed (20)")
    parser.add_argument("--corruptions", type=words, default=NAMES, help="comma-separated (all fifteen)")
    parser.add_argument("--severities", type=words, default=SEVERITIES, help="comma-separated (1,2,3,4,5)")
    parser.add_argument("--skip", type=words, default=(), help="posteriors to leave out, comma-separated, such as kfac or "
                        "low_rank/none/equal_budget")  # fmt: skip
    parser.add_argument("--b1", type=int, default=128, help="examples that choose directions (128)")
    parser.add_argument("--b2", type=int, help="examples that measure curvature (1024; on CIFAR-10 512)")
    parser.add_argument("--rank", type=int, help="directions of a low-rank posterior (30; on CIFAR-10 20)")
    parser.add_argument("--train-rows", type=int, default=10000, help="training images the server is given, drawn by the seed; N stays "
                        "that of model.json (10000)")  # fmt: skip
    parser.add_argument("--validation", type=int, help="images for the temperature and the tuned prior (1000; on CIFAR-10 200)")
    options = parser.parse_args()
    small = options.network == "fashion_cnn"
    options.b2 = options.b2 or (1024 if small else 512)
    options.rank = options.rank or (30 if small else 20)
    options.validation = options.validation or (1000 if small else 200)
    options.severities = tuple(int(s) for s in options.severities)
    for pattern in options.skip:
        if not any(m.matches(pattern) for m in METHODS):
            parser.error(f"--skip: there is no {pattern}; expected structure, structure/variant or structure/variant/strategy")
    for name, values, allowed in (("corruptions", options.corruptions, NAMES), ("severities", options.severities, SEVERITIES)):
        wrong = [v for v in values if v not in allowed]
        if wrong:
            parser.error(f"--{name}: expected some of {', '.join(map(str, allowed))}, got {wrong[0]}")
    if min(options.seeds, options.images, options.b1, options.b2, options.rank, options.validation) < 1:
        parser.error("numbers of seeds, images, examples and directions are at least 1")
    return options


def main():
    options = parse()
    name = options.network
    network = experiment_data.fashion_cnn() if name == "fashion_cnn" else experiment_data.of_cifar10(name, options.model, options.cifar)
    settings = {name: getattr(options, name) for name in ("network", "images", "b1", "b2", "rank", "train_rows", "validation")}
    settings["corruptions"] = " ".join(options.corruptions)
    settings["severities"] = " ".join(map(str, options.severities))
    tables = Tables(options.out, settings)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))  # so that the server is stopped too
    patient = ClientOptions(timeouts=Timeouts(predict=3600.0))
    with RunningServer(options.server_binary, network.name, network.folder) as server:
        with Client(server.address, patient) as client:
            for seed in range(options.seeds):
                run_seed(tables, seed, client, network, options)


if __name__ == "__main__":
    main()
