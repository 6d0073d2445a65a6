"""Callers that change a registry in every way at once, and a ledger of what the server acknowledged.

What counts is when a call returned: whatever was acknowledged must be there after a kill, whatever was
only asked for may be there or not.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from dataclasses import dataclass, field

import grpc
from laplace_client import Client
from laplace_client.errors import LaplaceError
from server import MODEL, Failure, rows

TWIN = "twin"  # a second model, loaded and unloaded all the time
MOST_POSTERIORS = 8
# Of the caller's own mistakes (two callers meet at one posterior), of a full server, of a server that is gone.
EXPECTED = {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.RESOURCE_EXHAUSTED,
            grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.ABORTED}


@dataclass
class Ledger:
    """Of all cycles. Changed by one caller each, but for `counts` and `problems`."""

    train: str = ""  # ids of data sets
    validation: str = ""
    datasets: dict[str, tuple[int, int]] = field(default_factory=dict)  # acknowledged: id to count and seed of rows
    operations: dict[str, str] = field(default_factory=dict)  # acknowledged: id to the posterior, once it succeeded
    posteriors: set[str] = field(default_factory=set)  # seen complete
    deleted: set[str] = field(default_factory=set)  # acknowledged
    deleting: set[str] = field(default_factory=set)  # asked for, without an answer
    active: str = ""  # acknowledged last
    activating: set[str] = field(default_factory=set)  # asked for since, without an answer
    bits: dict[str, bytes] = field(default_factory=dict)  # prediction by posterior
    counts: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    next_seed: int = 1000


class Workload:
    """Callers of a running server, from `start` until it is killed and `join` was called."""

    def __init__(self, client: Client, ledger: Ledger, seed: int) -> None:
        self._client = client
        self._ledger = ledger
        self._gone = threading.Event()
        callers = (self._upload, self._fit, self._activate, self._delete, self._reload)
        self._threads = [
            threading.Thread(target=self._repeat, args=(caller, random.Random(f"{seed} {caller.__name__}")))
            for caller in callers
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        self._gone.set()
        for thread in self._threads:
            thread.join(60)
            if thread.is_alive():
                raise Failure("a caller hangs although the server is gone")

    def _repeat(self, caller, chance: random.Random) -> None:
        while not self._gone.is_set():
            try:
                caller(chance)
            except LaplaceError as error:
                if error.code == grpc.StatusCode.UNAVAILABLE:
                    self._gone.wait(0.01)
                elif error.code not in EXPECTED:
                    self._ledger.problems.append(f"{caller.__name__}: {error.code}: {error}")
                    return
            except Exception as error:  # a thread must not die silently
                self._ledger.problems.append(f"{caller.__name__}: {error!r}")
                return

    def _upload(self, chance: random.Random) -> None:
        ledger = self._ledger
        ledger.next_seed += 1
        sent = (chance.randrange(1, 400), ledger.next_seed)
        dataset = self._client.ensure_dataset(*rows(*sent))
        ledger.datasets[dataset.id] = sent
        ledger.counts["uploads"] += 1

    def _fit(self, chance: random.Random) -> None:
        ledger = self._ledger
        operation = self._client.start_fit(
            MODEL, ledger.train, ledger.validation, keep_inactive=True, seed=chance.randrange(1 << 30),
            rank=chance.randrange(1, 9), direction_batch_size=100, curvature_batch_size=100)
        ledger.operations[operation.id] = ""
        ledger.counts["fits started"] += 1
        for state in self._client.watch_operation(operation.id):
            if state.state == "succeeded":
                ledger.operations[operation.id] = state.posterior_id
                ledger.posteriors.add(state.posterior_id)
                ledger.counts["fits finished"] += 1
            elif state.state == "failed":
                ledger.problems.append(f"a fit failed: {state.error_message}")

    def _some_posterior(self, chance: random.Random) -> str:
        self._gone.wait(0.005)
        known = sorted(self._ledger.posteriors)
        return chance.choice(known) if known else ""

    def _activate(self, chance: random.Random) -> None:
        ledger = self._ledger
        chosen = self._some_posterior(chance)
        ledger.activating.add(chosen)
        try:
            self._client.activate_posterior(MODEL, chosen)
        except LaplaceError as error:
            # Refused, unless the answer is missing.
            if error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                ledger.activating.discard(chosen)
            raise
        ledger.active = chosen
        ledger.activating.clear()
        ledger.counts["activations"] += 1

    def _delete(self, chance: random.Random) -> None:
        ledger = self._ledger
        if len(ledger.posteriors) <= MOST_POSTERIORS:
            self._gone.wait(0.02)
            return
        chosen = self._some_posterior(chance)
        ledger.deleting.add(chosen)
        try:
            self._client.delete_posterior(MODEL, chosen)
        except LaplaceError as error:
            if error.code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION):
                ledger.deleting.discard(chosen)
            raise
        ledger.deleting.discard(chosen)
        ledger.deleted.add(chosen)
        ledger.posteriors.discard(chosen)
        ledger.counts["deletions"] += 1

    def _reload(self, chance: random.Random) -> None:
        self._client.load_model(TWIN)
        self._gone.wait(chance.uniform(0, 0.05))
        self._client.unload_model(TWIN)
        self._ledger.counts["reloads"] += 1
