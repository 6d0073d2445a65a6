#!/usr/bin/env python3
"""Kills a real laplaced with SIGKILL at random moments, starts it again, and looks whether anything is lost.

    tests/stress/run.sh BINARY crash_test.py [--cycles 200] [--seed N] [--keep FOLDER]

In every cycle callers upload, fit, activate, delete, load and unload at once, until the kill; now and then the
server is also killed while it starts. After every start: the registry opens; every acknowledged data set,
operation, posterior and activation is there, and what was deleted is not; nothing is half there; and a posterior
predicts what it predicted before, to the bit. A kill loses no write that the kernel has; a power cut is not
tried. Ctrl-C ends the test after the cycle that is under way.
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from laplace_client import Client, _api, _requests
from server import MODEL, Failure, Server, make_registry, may_be_gone, prediction_bits, require, rows
from workload import TWIN, Ledger, Workload

LONGEST_WORK = 1.2  # seconds from the first call to the kill, at most
LONGEST_START = 1.0  # likewise from the start, when the server is killed while it starts
SHARE_OF_STARTS = 0.2
OLD_DATASETS_LOOKED_AT = 10


def check_disk(registry: Path) -> None:
    """Nothing unfinished, and nothing that was found damaged."""
    for path in registry.rglob("*"):
        require(not path.name.startswith(".tmp-"), f"{path} is left over after a start")
        require(".damaged" not in path.name, f"{path}: a record was found damaged")


def check_operations(client: Client, ledger: Ledger) -> None:
    found = {operation.id: operation for operation in client.list_operations()}
    for operation_id, posterior in list(ledger.operations.items()):
        if operation_id not in found:
            require(may_be_gone(operation_id, set(found)), f"operation {operation_id} was acknowledged and is gone")
            del ledger.operations[operation_id]
            continue
        operation = found[operation_id]
        require(operation.state != "running", f"operation {operation_id} runs although its server was killed")
        if posterior:
            require(operation.state == "succeeded" and operation.posterior_id == posterior,
                    f"operation {operation_id} had succeeded with {posterior}, now it is {operation}")
        elif operation.state == "succeeded":
            ledger.operations[operation_id] = operation.posterior_id
    for operation in found.values():
        if operation.state == "succeeded" and operation.posterior_id not in ledger.deleted | ledger.deleting:
            client.get_posterior(MODEL, posterior_id=operation.posterior_id)


def check_posteriors(client: Client, ledger: Ledger) -> None:
    listed = {posterior.id for posterior in client.list_posteriors(MODEL)}
    lost = ledger.posteriors - ledger.deleting - listed
    require(not lost, f"posteriors {lost} were complete and are gone")
    back = ledger.deleted & listed
    require(not back, f"posteriors {back} were deleted and are back")
    for posterior in listed:
        client.get_posterior(MODEL, posterior_id=posterior)
    ledger.deleted |= ledger.deleting - listed
    ledger.deleting.clear()
    ledger.posteriors = listed
    active = client.get_model(MODEL).active_posterior_id
    require(active in {ledger.active, *ledger.activating},
            f"{active} is active; {ledger.active} was activated, then {ledger.activating or 'nothing'} asked for")
    ledger.active = active
    ledger.activating.clear()


def check_dataset(client: Client, registry: Path, dataset_id: str, sent: tuple[int, int]) -> None:
    request = _requests.build("GetDatasetRequest", id=dataset_id)
    known = client._call(_api.GET_DATASET, request).dataset
    require(known.n_rows == sent[0], f"data set {dataset_id} has {known.n_rows} rows, {sent[0]} were sent")
    inputs, targets = rows(*sent)
    folder = registry / "datasets" / dataset_id
    require(np.array_equal(np.load(folder / "inputs.npy"), inputs) and
            np.array_equal(np.load(folder / "targets.npy"), targets),
            f"data set {dataset_id} holds other rows than were sent")


def check_bits(client: Client, ledger: Ledger, posterior: str) -> None:
    """Activates it and predicts."""
    client.activate_posterior(MODEL, posterior)
    ledger.active = posterior
    answered, bits = prediction_bits(client)
    require(answered == posterior, f"{posterior} is active and {answered} answers")
    require(ledger.bits.setdefault(posterior, bits) == bits, f"{posterior} predicts other numbers than before")


def check(client: Client, registry: Path, ledger: Ledger, chance: random.Random, everything: bool) -> None:
    check_disk(registry)
    check_operations(client, ledger)
    check_posteriors(client, ledger)
    ids = list(ledger.datasets)
    recent, old = ids[-40:], ids[:-40]
    if not everything:
        old = chance.sample(old, min(len(old), OLD_DATASETS_LOOKED_AT))
    for dataset_id in recent + old:
        check_dataset(client, registry, dataset_id, ledger.datasets[dataset_id])
    active = ledger.active
    chosen = sorted(ledger.posteriors) if everything else [chance.choice(sorted(ledger.posteriors)), active]
    for posterior in chosen:
        check_bits(client, ledger, posterior)


def set_up(client: Client, ledger: Ledger) -> None:
    ledger.train = client.ensure_dataset(*rows(300, seed=1)).id
    ledger.validation = client.ensure_dataset(*rows(100, seed=2)).id
    ledger.datasets = {ledger.train: (300, 1), ledger.validation: (100, 2)}
    ledger.active = client.fit(MODEL, ledger.train, ledger.validation, rank=8, direction_batch_size=100,
                               curvature_batch_size=100)
    ledger.posteriors.add(ledger.active)


def run(binary: Path, cycles: int, seed: int, state: Path) -> None:
    stop = threading.Event()  # Ctrl-C: after this cycle, so that there is a result
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    chance = random.Random(seed)
    registry = make_registry(state / "registry", (MODEL, TWIN))
    ledger = Ledger()
    starts: list[float] = []

    def start() -> tuple[Server, Client]:
        begin = time.monotonic()
        server = Server(binary, registry, state)
        client = server.client()
        starts.append(time.monotonic() - begin)
        return server, client

    server, client = start()
    set_up(client, ledger)
    for cycle in range(cycles):
        workload = Workload(client, ledger, chance.randrange(1 << 30))
        workload.start()
        time.sleep(chance.uniform(0, LONGEST_WORK))
        server.kill()
        ledger.counts["kills at work"] += 1
        workload.join()
        client.close()
        while chance.random() < SHARE_OF_STARTS:
            starting = Server(binary, registry, state)
            time.sleep(chance.uniform(0, LONGEST_START))
            starting.kill()
            ledger.counts["kills at the start"] += 1
        try:
            require(not ledger.problems, "; ".join(ledger.problems))
            server, client = start()
            last = cycle + 1 == cycles or stop.is_set()
            check(client, registry, ledger, chance, everything=last)
        except Exception as error:
            raise Failure(f"cycle {cycle + 1}: {error}\n{server.output()[-3000:]}") from error
        if (cycle + 1) % 20 == 0 or last:
            print(f"  {cycle + 1} cycles", flush=True)
        if last:
            break
    client.close()
    server.stop()
    print("counted: " + ", ".join(f"{count} {what}" for what, count in sorted(ledger.counts.items())))
    middle = sorted(starts)[len(starts) // 2]
    print(f"starts: {len(starts)}, all well, {middle:.2f} s in the middle, {max(starts):.2f} s at most")
    print(f"at the end: {len(ledger.datasets)} data sets, {len(ledger.operations)} operations, "
          f"{len(ledger.posteriors)} posteriors, {len(ledger.bits)} predicted with")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--cycles", type=int, default=200)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="default: by the clock; printed")
    parser.add_argument("--keep", type=Path, help="folder for registry and log, which stay (default: a temporary one)")
    arguments = parser.parse_args()
    print(f"crash test: {arguments.cycles} cycles, --seed {arguments.seed}", flush=True)
    state = arguments.keep or Path(tempfile.mkdtemp(prefix="laplaced-crash-"))
    state.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        run(arguments.binary.resolve(), arguments.cycles, arguments.seed, state)
    except Failure as failure:
        print(f"FAILED (--seed {arguments.seed}; registry and log in {state}): {failure}", file=sys.stderr)
        return 1
    if arguments.keep is None:
        shutil.rmtree(state)
    print(f"nothing lost, nothing half there, no bit changed; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
