"""A server whose file calls can be made to fail, what it has acknowledged, and whether that is still there."""

from __future__ import annotations

import random
import time
from pathlib import Path

import grpc
import numpy as np
from faults import Faults, text_of
from laplace_client import Client, _requests
from laplace_client.errors import LaplaceError
from server import MODEL, Server, make_registry, may_be_gone, prediction_bits, require, rows

TWIN = "twin"  # a second model, loaded and unloaded
FIT = {"rank": 4, "direction_batch_size": 60, "curvature_batch_size": 60}
# Never UNKNOWN, INTERNAL or PERMISSION_DENIED, which are about other things than a disk.
CODES = {grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE}
# Without these an unfinished file cannot be found or removed; the next start removes it.
CLEANING = {"remove", "open", "read", "look", "close"}


class Case:
    """Registry, server, client and ledger. `close` ends it."""

    def __init__(self, binary: Path, library: Path, state: Path, seed: int) -> None:
        self.binary, self.state = binary, state
        self.chance = random.Random(seed)
        self.registry = make_registry(state / "registry", (MODEL, TWIN))
        self.faults = Faults(library, self.registry, state / "faults")
        self.active = ""
        self.bits: dict[str, bytes] = {}  # by posterior
        self.posteriors: set[str] = set()
        self.datasets: dict[str, tuple[int, int]] = {}  # id to count and seed of rows
        self.succeeded: dict[str, str] = {}  # operation to posterior, in the order of the starts
        self.leftovers: set[Path] = set()
        self._seed = 1000
        self.start()
        self.train = self.upload(150, 1)
        self.more = self.upload(80, 2)
        self.first = self.take_up(self.client.fit(MODEL, self.train, self.more, **FIT))
        self.second = self.take_up(self.client.fit(MODEL, self.train, self.more, seed=5, **FIT))
        self.check()

    def start(self, poll_seconds: float = 0, load: str = MODEL, **flags: object) -> None:
        self.server = Server(self.binary, self.registry, self.state, environment=self.faults.environment,
                             load=load, **{"registry-poll-seconds": poll_seconds}, **flags)
        self.client: Client = self.server.client()

    def close(self) -> None:
        self.client.close()
        self.server.stop()

    def __enter__(self) -> Case:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()

    def restart(self) -> None:
        """After whatever has happened to the server."""
        self.faults.disarm()
        self.client.close()
        self.server.kill()
        self.start()
        self.leftovers.clear()

    def next_seed(self) -> int:
        self._seed += 1
        return self._seed

    def upload(self, count: int, seed: int) -> str:
        dataset = self.client.ensure_dataset(*rows(count, seed)).id
        self.datasets[dataset] = (count, seed)
        return dataset

    def id_of(self, count: int, seed: int) -> str:
        return _requests.upload(*rows(count, seed)).id

    def take_up(self, posterior: str, active: bool = True) -> str:
        """Of an operation that was acknowledged as a success."""
        self.posteriors.add(posterior)
        newest = self.client.list_operations()[0]
        require(newest.posterior_id == posterior, f"{posterior} was made, but the newest operation is {newest}")
        self.succeeded[newest.id] = posterior
        if active:
            self.active = posterior
        return posterior

    def activate(self, posterior: str) -> None:
        self.client.activate_posterior(MODEL, posterior)
        self.active = posterior

    def trim(self) -> None:
        """Back to the two posteriors, the first of them active."""
        if self.active != self.first:
            self.activate(self.first)
        for posterior in sorted(self.posteriors - {self.first, self.second}):
            self.client.delete_posterior(MODEL, posterior)
            self.posteriors.discard(posterior)

    def refused_well(self, what: str, error: LaplaceError, injected: set[int]) -> None:
        text = str(error)
        require(error.code in CODES, f"{what}: expected one of {CODES}, got {text}")
        require(any(text_of(number) in text.lower() for number in injected),
                f"{what}: the message does not say what the disk said: {text}")
        require(str(self.registry) not in text, f"{what}: the message shows where the registry lies: {text}")

    def unfinished(self) -> set[Path]:
        return set(self.registry.rglob(".tmp-*")) - self.leftovers

    def check(self, may_leave: bool = False) -> None:
        """Everything that was acknowledged is there and answers as before; nothing else is, or half."""
        answered, bits = prediction_bits(self.client)
        require(answered == self.active, f"{self.active} is active and {answered} answers")
        require(self.bits.setdefault(answered, bits) == bits, f"{answered} predicts other numbers than before")
        require(self.client.get_model(MODEL).active_posterior_id == self.active, "another posterior is active")
        on_disk = (self.registry / "models" / MODEL / "1/ACTIVE").read_text().strip()
        require(on_disk == self.active, f"{self.active} is active, and after a restart it would be {on_disk}")
        listed = {posterior.id for posterior in self.client.list_posteriors(MODEL)}
        require(listed == self.posteriors, f"posteriors {listed}, expected {self.posteriors}")
        for posterior in listed:
            self.client.get_posterior(MODEL, posterior_id=posterior)
        operations = self.client.list_operations()
        listed = {operation.id for operation in operations}
        self.succeeded = {known: posterior for known, posterior in self.succeeded.items()
                          if known in listed or not may_be_gone(known, listed)}
        found = [operation.id for operation in reversed(operations)
                 if operation.state == "succeeded" and self.succeeded.get(operation.id) == operation.posterior_id]
        require(found == list(self.succeeded),
                f"operations are gone: {sorted(self.succeeded.keys() - set(found))}, or not in order: {found[-5:]}")
        stored = {path.name for path in (self.registry / "datasets").iterdir() if path.name.startswith("sha256-")}
        require(stored == set(self.datasets), f"data sets {stored}, expected {set(self.datasets)}")
        damaged = list(self.registry.rglob("*.damaged*"))
        require(not damaged, f"found damaged: {damaged}")
        # The end of an operation that the disk refused is written again just about now.
        end = time.monotonic() + 5
        while (left := self.unfinished()) and not may_leave and time.monotonic() < end:
            time.sleep(0.05)
        require(may_leave or not left, f"unfinished files stay: {left}")
        self.leftovers |= left

    def check_all(self) -> None:
        """Also to the last byte of the data sets."""
        self.check()
        for dataset, (count, seed) in self.datasets.items():
            inputs, targets = rows(count, seed)
            folder = self.registry / "datasets" / dataset
            require(np.array_equal(np.load(folder / "inputs.npy"), inputs) and
                    np.array_equal(np.load(folder / "targets.npy"), targets), f"{dataset} holds other rows")
        for posterior in (self.second, self.first):
            self.activate(posterior)
            self.check()
