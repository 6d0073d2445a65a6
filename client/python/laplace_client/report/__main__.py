"""python -m laplace_client.report: the report of a model on a server."""

from __future__ import annotations

import argparse
import os
import pathlib
import sys
from typing import Callable, Sequence

from ..client import Client
from ..errors import LaplaceError
from ..types import Posterior

EXAMPLE = """example:
  python -m laplace_client.report fashion_cnn --out report.html \\
      --id t10k-images-idx3-ubyte.gz,t10k-labels-idx1-ubyte.gz --ood digits=digits.npy

Data files are .npy, .npz (x or inputs; y, targets or labels) or IDX, which may be gzipped.
Token and TLS come from LAPLACE_TOKEN_FILE, LAPLACE_CA_CERT and so on, as for the command line.
"""


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m laplace_client.report",
        description="Draws a fitted posterior, and how it does on data, as one HTML file.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="name of a loaded model")
    parser.add_argument("--out", required=True, metavar="FILE", help="the page to write")
    parser.add_argument(
        "--server", metavar="HOST:PORT", help="default: LAPLACE_SERVER, else 127.0.0.1:8033"
    )
    parser.add_argument("--version", type=int, default=0, help="default: the highest one loaded")
    parser.add_argument("--posterior", default="", metavar="ID", help="default: the active one")
    parser.add_argument(
        "--id", metavar="INPUTS[,TARGETS]", help="in-distribution data that training has not seen"
    )
    parser.add_argument(
        "--ood",
        action="append",
        default=[],
        metavar="NAME=INPUTS",
        help="out-of-distribution data; may be repeated",
    )
    parser.add_argument(
        "--ood-score", type=lambda names: names.split(","), default=[], metavar="NAME,...",
        help="OOD scores (default: its default, msp, energy, mahalanobis)",
    )  # fmt: skip
    parser.add_argument(
        "--limit", type=int, default=0, metavar="N", help="at most so many rows of each file"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments().parse_args(argv)
    try:
        page = make_report(options)
        write(options.out, page)
    except ImportError as error:
        print(
            f"error: {error}. Install matplotlib: python3-matplotlib on Debian, or "
            "pip install matplotlib",
            file=sys.stderr,
        )
        return 1
    except (LaplaceError, ValueError, OSError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.out}: {len(page.encode()) / 1e6:.2f} MB", file=sys.stderr)
    return 0


def make_report(options: argparse.Namespace) -> str:
    from . import data, page

    if options.limit < 0:
        raise ValueError("--limit: expected at least 0 rows")
    with Client(options.server) as client:
        posterior = client.get_posterior(options.model, options.version, options.posterior)
        model = client.get_model(options.model, posterior.version)
        scores = _scores(options.ood_score, posterior)
        # All files are read before the server works on any.
        sets = (
            []
            if options.id is None
            else [data.read_set("ID", options.id, model, options.limit, True)]
        )
        for argument in options.ood:
            name, files = _named(argument)
            if name in [s.name for s in sets]:
                raise ValueError(f"--ood {argument}: the name {name} is taken")
            sets.append(data.read_set(name, files, model, options.limit))
        answers = [
            data.evaluate(client, posterior, s, scores, _progress(s.name, len(s.inputs)))
            for s in sets
        ]
    inside = None if options.id is None else answers.pop(0)
    return page.report(model, posterior, inside, answers)


def _named(argument: str) -> tuple[str, str]:
    """NAME=FILE, or FILE, which is then called after the file."""
    name, equals, files = argument.partition("=")
    if pathlib.Path(argument).exists() or not equals:
        name, files = pathlib.Path(argument).name.partition(".")[0], argument
    if not name or not files:
        raise ValueError(f"--ood {argument}: expected NAME=INPUTS")
    return name, files


def _scores(asked: Sequence[str], posterior: Posterior) -> list[str]:
    from . import data

    known = data.known_scores(posterior)
    unknown = [score for score in asked if score not in known]
    if unknown:
        raise ValueError(f"--ood-score {unknown[0]}: expected one of {', '.join(known)}")
    return list(dict.fromkeys(asked)) or data.default_scores(posterior)


def _progress(name: str, total: int) -> Callable[[int], None]:
    def show(rows: int) -> None:
        end = "\n" if rows == total else ""
        print(f"\r{name}: {rows:,} of {total:,} rows", end=end, file=sys.stderr, flush=True)

    return show if sys.stderr.isatty() else lambda rows: None


def write(path: str, page: str) -> None:
    """The file appears under its name when it is complete."""
    partial = f"{path}.partial"
    with open(partial, "w", encoding="utf-8") as file:
        file.write(page)
    os.replace(partial, path)


if __name__ == "__main__":
    sys.exit(main())
