#!/usr/bin/env python3
"""Two moons: a small network without and with a Laplace posterior from a running server.

    build/release/server/app/laplaced --registry registry &
    PYTHONPATH=client/python python3 client/demo/two_moons/two_moons.py registry --server 127.0.0.1:8033

Trains a network on 1,200 points (seconds), writes it into the registry as the next version of
two_moons, has the server load it and fit a posterior, asks it about a grid of points, and draws
two_moons.png beside this file: probabilities of the plain network and under the posterior, and the
variance that the posterior gives the logit. Also prints all three at a few points. Needs torch and
matplotlib beside the client; the server must serve the same registry folder.
"""

from __future__ import annotations

import argparse
import pathlib
from dataclasses import dataclass
from typing import Any, Tuple

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap, LogNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import nn

from laplace_client import Client
from laplace_client.export import export_torchscript

NAME = "two_moons"
N_TRAIN = 1200
N_VALIDATION = 400
NOISE = 0.2
WEIGHT_DECAY = 3e-4
# The prior is the one that the network was trained with. The default, the one that is best on the
# validation data, knows nothing of places without data, and would be narrower there. The batches
# that choose directions and measure curvature have to share the few points.
FIT: dict[str, Any] = {
    "prior_method": "weight_decay",
    "direction_batch_size": 400,
    "curvature_batch_size": 800,
}
X_RANGE = (-3.0, 4.0)
Y_RANGE = (-2.5, 3.0)
COLUMNS, ROWS = 211, 166
BATCH = 1024
SHOWN = 4  # every so many points of the training data are drawn
# Blue and vermilion of Okabe and Ito, apart for every kind of colour vision.
CLASS_COLOURS = ("#0072B2", "#D55E00")
INK = "#222222"

Points = Tuple[NDArray[np.float32], NDArray[np.int64]]  # x [N, 2] and classes [N]


@dataclass(frozen=True)
class Picture:
    """P(class 1) of the plain network and under the posterior, and the variance of f1 - f0."""

    plain: NDArray[Any]
    laplace: NDArray[Any]
    variance: NDArray[Any]


def two_moons(n: int, random: np.random.Generator) -> Points:
    """n noisy points [n, 2] on two half circles that reach into each other, and classes [n]."""
    y = np.arange(n) % 2
    angle = random.uniform(0, np.pi, n)
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    lower = np.stack([1 - np.cos(angle), 0.5 - np.sin(angle)], axis=1)
    x = np.where(y[:, None] == 0, upper, lower) + random.normal(0, NOISE, (n, 2))
    return x.astype(np.float32), y.astype(np.int64)


def train(x: NDArray[np.float32], y: NDArray[np.int64]) -> nn.Module:
    """Minimises the mean cross-entropy plus WEIGHT_DECAY / 2 * ||theta||^2, by L-BFGS."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 2)
    )
    inputs, targets = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.LBFGS(model.parameters(), max_iter=500, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        norm = sum((p**2).sum() for p in model.parameters())
        value = nn.functional.cross_entropy(model(inputs), targets) + WEIGHT_DECAY / 2 * norm
        value.backward()
        return value

    optimiser.step(loss)
    return model.eval()


def next_version(registry: pathlib.Path) -> pathlib.Path:
    """The folder of a version that does not exist yet."""
    folder = registry / "models" / NAME
    taken = [int(f.name) for f in folder.glob("*") if f.name.isdigit()]
    return folder / str(max(taken, default=0) + 1)


def fit(client: Client, registry: pathlib.Path) -> tuple[Points, int]:
    """Trains, exports and fits a new version; the training data and its number."""
    random = np.random.default_rng(1)
    training, validation = two_moons(N_TRAIN, random), two_moons(N_VALIDATION, random)
    exported = export_torchscript(
        train(*training), training[0], next_version(registry), likelihood="categorical",
        n_data=N_TRAIN, weight_decay=WEIGHT_DECAY, description="two moons",
    )  # fmt: skip
    version = int(exported.folder.name)
    client.load_model(NAME, version)
    client.fit(NAME, training, validation, version=version, progress=True, **FIT)
    return training, version


def ask(client: Client, version: int, points: NDArray[np.float32]) -> Picture:
    """The server's answers at points [N, 2], each [N]."""
    # The default link, probit, looks at the variance of each logit alone. What shifts both logits
    # alike changes no probability, so the data do not determine it, and its large variance would
    # make answers unsure among the data too. mean_field looks at the variance of their difference.
    batches = [points[i : i + BATCH] for i in range(0, len(points), BATCH)]
    answers = client.predict_stream(
        NAME, batches, version=version, return_covariance=True, link_approx="mean_field"
    )
    plain, laplace, variance = [], [], []
    for answer in answers:
        assert answer.covariance is not None
        cov = answer.covariance
        plain.append(answer.map_mean[:, 1])
        laplace.append(answer.mean[:, 1])
        variance.append(cov[:, 0, 0] + cov[:, 1, 1] - cov[:, 0, 1] - cov[:, 1, 0])
    return Picture(*(np.concatenate(parts) for parts in (plain, laplace, variance)))


def draw(
    x: NDArray[np.float32], y: NDArray[np.int64], grid: tuple[Any, Any], picture: Picture
) -> Figure:
    """Three panels on an opaque light ground, so that a dark page does not swallow the ink."""
    colours = LinearSegmentedColormap.from_list(
        "classes", [CLASS_COLOURS[0], "#F7F7F7", CLASS_COLOURS[1]]
    )
    figure = Figure(figsize=(11, 3.9), facecolor="white", layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, p, title in (
        (panels[0], picture.plain, "Plain network"),
        (panels[1], picture.laplace, "With the Laplace posterior"),
    ):
        mesh = axes.pcolormesh(*grid, p, cmap=colours, vmin=0, vmax=1, shading="nearest")
        axes.contour(
            *grid, p, levels=[0.05, 0.5, 0.95], colors=INK, linewidths=[0.8, 1.8, 0.8],
            linestyles=["--", "-", "--"],
        )  # fmt: skip
        axes.set_title(title)
    figure.colorbar(
        mesh, ax=panels[:2], location="bottom", ticks=[0.05, 0.25, 0.5, 0.75, 0.95], aspect=60,
        label="probability of class 1 (lines at 0.05, 0.5 and 0.95)",
    )  # fmt: skip
    mesh = panels[2].pcolormesh(
        *grid, picture.variance, cmap="cividis", norm=LogNorm(), shading="nearest"
    )
    panels[2].set_title("Epistemic variance")
    figure.colorbar(
        mesh, ax=panels[2], location="bottom", aspect=30, label="variance of the logit, log scale"
    )
    for axes in panels:
        for c, marker in ((0, "o"), (1, "^")):
            axes.scatter(
                *x[y == c][::SHOWN].T, s=13, marker=marker, color=CLASS_COLOURS[c],
                edgecolors="white", linewidths=0.5, label=f"class {c}",
            )  # fmt: skip
        axes.set(xlim=X_RANGE, ylim=Y_RANGE, aspect="equal", xticks=[], yticks=[])
    panels[0].legend(loc="lower left", fontsize=8, framealpha=0.9, markerscale=1.5)
    return figure


def print_table(client: Client, version: int) -> None:
    places = {
        "upper moon": (0.0, 1.0), "between the moons": (0.5, 0.25), "above, left": (-3.0, 3.0),
        "below, left": (-3.0, -2.5), "below, right": (4.0, -2.5), "above, right": (4.0, 3.0),
    }  # fmt: skip
    answers = ask(client, version, np.array(list(places.values()), np.float32))
    print("WHERE              PLAIN  LAPLACE  VARIANCE   (probability of the likelier class)")
    for i, place in enumerate(places):
        plain, laplace = (max(p[i], 1 - p[i]) for p in (answers.plain, answers.laplace))
        print(f"{place:18} {plain:5.3f}  {laplace:7.3f}  {answers.variance[i]:8.3g}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("registry", type=pathlib.Path, help="registry folder of the server")
    parser.add_argument("--server", help="HOST:PORT (default LAPLACE_SERVER, else 127.0.0.1:8033)")
    parser.add_argument(
        "--out", type=pathlib.Path, help="the picture (default: beside this file)",
        default=pathlib.Path(__file__).resolve().with_name("two_moons.png"),
    )  # fmt: skip
    arguments = parser.parse_args()

    grid = (np.linspace(*X_RANGE, COLUMNS), np.linspace(*Y_RANGE, ROWS))
    points = np.stack(np.meshgrid(*grid), axis=-1).reshape(-1, 2).astype(np.float32)
    with Client(arguments.server) as client:
        (x, y), version = fit(client, arguments.registry)
        answers = ask(client, version, points)
        print_table(client, version)
    picture = Picture(*(a.reshape(ROWS, COLUMNS) for a in vars(answers).values()))
    draw(x, y, grid, picture).savefig(arguments.out, dpi=100)
    print(f"{arguments.out}: {arguments.out.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
