#!/usr/bin/env python3
"""One client and sixteen at once get the same answers for the same rows, whatever batches they come in.

What the server promises (README, Batches): a row's answer does not depend on its neighbours, not by a bit in computations of
one size, by rounding (1e-6) otherwise. So, against one client that sends one row after another:
  --max-batch-rows 1   sixteen clients with batches of every size and order: every bit
  full batches         sixteen clients with the same 64 rows, which are one computation each: every bit
  anything else        1e-6, of 1 or the largest number about that row

Usage: run.sh LAPLACED concurrency_test.py [--seed N]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Callable

import numpy as np
from laplace_client import Client

from networks import random_case
from server import Failure, Server, require
from subject import Subject

CLIENTS = 16
ROWS = 64  # as many as one computation takes by default
ROUNDING = 1e-6
SCORES = {"categorical": ["energy", "laplace_entropy", "mutual_information", "mahalanobis"],
          "bernoulli": ["energy", "laplace_entropy", "mutual_information", "mahalanobis"],
          "gaussian": ["variance", "information_gain", "mahalanobis"]}
FITS: tuple[dict[str, Any], ...] = (
    {"structure": "low_rank", "rank": 6, "direction_batch_size": 15, "curvature_batch_size": 20},
    {"structure": "kfac", "direction_batch_size": 15, "curvature_batch_size": 20})
Rows = list[np.ndarray]  # everything that an answer says of a row, one array a row


def ask(client: Client, subject: Subject, x: np.ndarray) -> Rows:
    scores = SCORES[subject.case["likelihood"]]
    answer = client.predict(subject.name, x, ood_scores=scores, return_covariance=True, variance_mode="exact")
    parts = [answer.mean, answer.map_mean, answer.functional_mean, answer.variance, answer.covariance, answer.epistemic,
             answer.aleatoric, *(answer.ood[name].values for name in scores)]
    return [np.concatenate([np.asarray(part[n], float).ravel() for part in parts]) for n in range(len(x))]


def same_bits(got: np.ndarray, wanted: np.ndarray) -> bool:
    return got.tobytes() == wanted.tobytes()


def same_but_rounding(got: np.ndarray, wanted: np.ndarray) -> bool:
    return bool((np.abs(got - wanted) <= ROUNDING * max(1.0, float(np.abs(wanted).max()))).all())


def compositions(random: np.random.Generator) -> list[np.ndarray]:
    """All rows, shuffled, in batches of 1 to 9."""
    order, batches = random.permutation(ROWS), []
    while len(order):
        size = int(random.integers(1, 10))
        batches.append(order[:size])
        order = order[size:]
    return batches


def crowd(address: str, subject: Subject, x: np.ndarray, wanted: Rows, seed: int, full: bool,
          same: Callable[[np.ndarray, np.ndarray], bool]) -> None:
    """Sixteen clients at once, each with all rows. Failure about the first row that is not the same."""
    start = threading.Barrier(CLIENTS)
    failures: list[str] = []

    def one(number: int) -> None:
        try:
            random = np.random.default_rng([seed, number])
            batches = [np.arange(ROWS)] if full else compositions(random)
            with Client(address) as client:
                start.wait()
                for rows in batches:
                    for n, got in zip(rows, ask(client, subject, x[rows])):
                        if not same(got, wanted[n]):
                            off = float(np.abs(got - wanted[n]).max())
                            failures.append(f"row {n} in a batch of {len(rows)}: off by {off:.3g} at most")
                            return
        except Exception as error:  # of any kind: the test fails with it
            failures.append(repr(error))
            start.abort()

    threads = [threading.Thread(target=one, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    require(not failures, f"{subject.ledger.place}: {failures[0]} ({len(failures)} of {CLIENTS} clients)" if failures else "")


def check(binary: Path, seed: int) -> None:
    with tempfile.TemporaryDirectory(prefix="concurrency-") as folder:
        registry = Path(folder) / "registry"
        subject = Subject.write(random_case(seed), "net", registry)
        x = np.concatenate([subject.train.x, subject.validation.x])[:ROWS]
        while len(x) < ROWS:
            x = np.concatenate([x, 1.5 * x])[:ROWS]
        x = x.astype(subject.case["dtype"])
        for i, fit in enumerate(FITS):
            for most in (1, ROWS):
                server = Server(binary, registry, Path(folder), load="net", **{"max-batch-rows": most})
                try:
                    with server.client() as client:
                        if most == 1:
                            client.fit("net", (subject.train.x, subject.train.y), prior_precision=30.0, **fit)
                        subject.ledger.place = f"seed {seed}, {fit['structure']}, computations of at most {most} rows"
                        alone = [ask(client, subject, x[n:n + 1])[0] for n in range(ROWS)]
                        again = [ask(client, subject, x[n:n + 1])[0] for n in range(ROWS)]
                        require(all(map(same_bits, again, alone)), f"{subject.ledger.place}: asking again changes bits")
                        same = same_bits if most == 1 else same_but_rounding
                        crowd(server.address(), subject, x, alone, seed, False, same)
                        together = ask(client, subject, x)
                        require(all(map(same, together, alone)), f"{subject.ledger.place}: all rows at once")
                        crowd(server.address(), subject, x, together, seed, True, same_bits)
                        print(f"{subject.ledger.place}: {CLIENTS} clients get what one gets, "
                              + ("to the bit" if most == 1 else "to the bit in full batches, else to rounding"), flush=True)
                finally:
                    server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--seed", type=int, default=8, help="of the network")
    options = parser.parse_args()
    try:
        check(options.binary, options.seed)
    except Failure as failure:
        print(f"FAILED: {failure}\nRepeat it: tests/numerics/run.sh {options.binary} concurrency_test.py --seed {options.seed}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
