#!/usr/bin/env python3
"""What a faithful run on ImageNet would take: memory and time of a fit, and the same model on networks that were measured.

    /usr/bin/python3 tests/bench/paper/imagenet.py

Prints Markdown. Counts are exact (of multiply-adds, parameters, vectors); what a machine reaches per second is not, and stands
in MACHINES. The model, per example and with F the FLOP of a forward pass (two per multiply-add):

  product       forward pass, its tangent (about one more), and a reverse pass (about two): 4 F
  exact         one reverse pass for each of C classes for the curvature along the directions or V = J Sigma J': 2 C F
  mc-fisher     s reverse passes in place of C
  basis         K + 12 vectors of P doubles, divided among the ranks; then K directions beside it, 8 bytes a number while they
                are made and 4 when they are kept; parameters, tangents, gradients: 4 P floats
  activations   what the reverse pass keeps, 4 bytes for each element of a layer's output, twice with tangents, for the
                examples that a thread takes at once
"""
from dataclasses import dataclass


@dataclass(frozen=True)
class Network:
    name: str
    parameters: float
    classes: int
    forward: float  # FLOP per example
    activations: float  # elements per example, of all outputs of layers
    images: float  # in the training set
    image_bytes: float  # as the server keeps one: uint8 pixels


# Multiply-adds and activations of ResNet-50 and the ViTs at 224 x 224 are published figures; those of the others are counted.
DEMO = Network("demo CNN", 43_958, 10, 2 * 1_497_448, 45_970, 50_000, 784)
RESNET20 = Network("ResNet-20", 269_722, 10, 2 * 40_551_040, 536_000, 50_000, 3072)
LARGE = (
    Network("ResNet-50", 25.6e6, 1000, 2 * 4.1e9, 22e6, 1.28e6, 150e3),
    Network("ViT-S/16", 22.1e6, 1000, 2 * 4.6e9, 20e6, 1.28e6, 150e3),
    Network("ViT-B/16", 86.6e6, 1000, 2 * 17.6e9, 40e6, 1.28e6, 150e3),
)

# FLOP per second: what products reached on ResNet-20 for a core of the machine they were measured on, and guesses.
MEASURED_CORE = 27e9
MACHINES = (("eight nodes of 64 cores, at the rate measured here", 512 * MEASURED_CORE), ("the same at 60 GFLOP/s per core", 512 * 60e9),
            ("eight GPUs at 40 TFLOP/s (not available today: the core runs on CPUs)", 8 * 40e12))  # fmt: skip
RANK, B1, B2 = 50, 4096, 1024
PRODUCTS = (100, 150)  # of a fit: 2 to 3 for each direction at tolerance 1e-3


def product(network, examples):
    return 4 * network.forward * examples


def basis_bytes(network, rank):
    return (rank + 12) * network.parameters * 8


def directions_bytes(network, rank):
    return rank * network.parameters * 8


def activation_bytes(network, examples):
    return 2 * 4 * network.activations * examples


def fit_peak(network, rank, products, examples):
    """Bytes above the loaded model: vectors of the basis that `products` have filled, activations, and 4 P floats."""
    filled = min(products + 1, rank + 12)
    return 8 * network.parameters * filled + activation_bytes(network, examples) + 16 * network.parameters


def duration(seconds):
    if seconds < 1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172800 else f"{seconds / 86400:.1f} days"


def gigabytes(number):
    return f"{number / 1e9:.1f} GB"


def large_table():
    lines = ["| what | " + " | ".join(n.name for n in LARGE) + " |", "|---|" + "---|" * len(LARGE)]
    row = lambda what, value: lines.append(f"| {what} | " + " | ".join(value(n) for n in LARGE) + " |")
    row("parameters; forward pass", lambda n: f"{n.parameters / 1e6:.1f} M; {n.forward / 1e9:.1f} GFLOP")
    row(f"basis of Lanczos, K = {RANK} (divided among ranks)", lambda n: gigabytes(basis_bytes(n, RANK)))
    row("directions while they are made (half of it when kept)", lambda n: gigabytes(directions_bytes(n, RANK)))
    row("parameters, tangents, gradients", lambda n: gigabytes(4 * 4 * n.parameters))
    row("activations of 64 examples, as many as are computed at once", lambda n: gigabytes(activation_bytes(n, 64)))
    row("training images, uint8", lambda n: gigabytes(n.images * n.image_bytes))
    row(f"a product of \\|B1\\| = {B1:,}", lambda n: f"{product(n, B1) / 1e12:.0f} TFLOP")
    for machine, rate in MACHINES:
        row(f"directions on {machine}", lambda n: f"{duration(PRODUCTS[0] * product(n, B1) / rate)} to {duration(PRODUCTS[1] * product(n, B1) / rate)}")
    row(f"exact curvature along them, \\|B2\\| = {B2:,}: 2 C F", lambda n: f"{2 * n.classes * n.forward * B2 / 1e15:.0f} PFLOP")
    for machine, rate in MACHINES:
        row(f"... on {machine}", lambda n: duration(2 * n.classes * n.forward * B2 / rate))
    row("... with mc-fisher, 8 samples, \\|B2\\| = 4,096", lambda n: f"{2 * 8 * n.forward * 4096 / 1e12:.0f} TFLOP")
    row("training loss and features, all images: F", lambda n: f"{n.forward * n.images / 1e15:.0f} PFLOP")
    row("an exact answer for one image: 2 C F", lambda n: f"{2 * n.classes * n.forward / 1e12:.0f} TFLOP")
    return "\n".join(lines)


# Measured: (what, model, measurement, source).
CHECKS = (
    ("ResNet-20: product / forward pass, time", "4", "5.8", "836 ms and 143 ms for 128 examples, `bench_curvature`, two quiet cores"),
    ("ResNet-20: gradient / forward pass, time", "3", "3.4", "488 ms and 143 ms, the same run"),
    ("ResNet-20: a core's rate in products, GFLOP/s", "", f"{product(RESNET20, 512) * 0.163 / 1e9:.0f}",
     "0.163 products/s of 512 examples, one thread (README, ranks)"),
    ("ResNet-20: the same of two cores, each", "", f"{product(RESNET20, 128) / 0.836 / 2 / 1e9:.0f}", "836 ms for 128 examples"),
    ("demo CNN: memory of 45 more directions, MB", f"{45 * 43_958 * 16 / 1e6:.1f}", "33.1",
     "`laplace-fit --b1 16` with K = 5 and 50, peak above the start: basis and directions"),
    ("ResNet-20: memory of 25 more directions, MB", f"{25 * 269_722 * 8 / 1e6:.1f}", "58.1",
     "`laplace-fit --b1 64` with K = 5 and 30: basis alone, since the peak is in the products"),
    ("ResNet-20: memory of a fit, K = 5, 16 examples, MB", f"{fit_peak(RESNET20, 5, 5, 16) / 1e6:.0f}", "98", "`laplace-fit`"),
    ("ResNet-20: the same, 64 examples, MB", f"{fit_peak(RESNET20, 5, 5, 64) / 1e6:.0f}", "321", "`laplace-fit`"),
)  # fmt: skip


def check_table():
    lines = ["| what | model | measured | from |", "|---|---|---|---|"]
    return "\n".join(lines + [f"| {what} | {model} | {measured} | {source} |" for what, model, measured, source in CHECKS])


if __name__ == "__main__":
    print(large_table(), check_table(), sep="\n\n")
