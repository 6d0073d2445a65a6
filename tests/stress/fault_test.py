#!/usr/bin/env python3
"""Makes one file call after another of a real laplaced fail, and looks at what becomes of it.

    tests/stress/run.sh BINARY fault_test.py LAYER [--only NAME...] [--sample N] [--seed N] [--keep FOLDER]

For every operation (upload, fit, update, calibration, activation, deletion, loading, reading) the file calls
that it makes are counted. Then it is repeated: with one of them failing; with all from one on failing, as on a
full, read-only, forbidden or broken disk; with writes that write half; with the server dying there. Each time:
a call that fails says what the disk said, with a sensible code and without the server's paths; predictions go on,
to the bit; nothing is half there; the same call works when the fault is gone. After a death, and after all of it, a
new server finds everything that was acknowledged. So does one whose start had failed, too.

LAYER is fault_layer.c as a shared library. --only takes some of the operations (default: all, more than half an hour);
--sample bounds the calls tried of each, and the kinds of trouble (default: all).
"""

from __future__ import annotations

import argparse
import errno
import json
import shutil
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Callable

from fault_case import CLEANING, TWIN, Case
from fault_operations import OPERATIONS, Operation
from faults import CHANGING, DIE, DIED, ERRORS, FOREVER, HANG, KINDS, SHORT
from laplace_client.errors import LaplaceError
from server import MODEL, Failure, prediction_bits, require

# From one call on: what a disk in trouble refuses.
TROUBLES = {
    "full": {kind: errno.ENOSPC for kind in ("create", "write", "fsync", "make folder")},
    "quota": {kind: errno.EDQUOT for kind in ("create", "write", "make folder")},
    "read-only": {kind: errno.EROFS for kind in ("create", "rename", "make folder", "remove")},
    "forbidden": {kind: errno.EACCES for kind in ("create", "rename", "make folder", "remove", "open")},
    "no descriptors": {kind: errno.EMFILE for kind in ("create", "open")},
    "broken": {kind: errno.EIO for kind in KINDS},
    "half writes": {"write": SHORT},
}
NAMES = [operation.__name__ for operation in OPERATIONS] + ["Start", "Poll", "Hang"]
DRAIN_SECONDS = 1.0
AFTER_DRAIN = 5.0  # kAfterDrain in server/app/main/main.cc


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + 60
    while not holds():
        require(time.monotonic() < end, f"not within a minute: {what}")
        time.sleep(0.01)


def add_version(case: Case, version: int) -> None:
    """Of the second model, as a whole."""
    staged = case.state / "staged"
    shutil.copytree(case.registry / "models" / TWIN / "1", staged)
    staged.rename(case.registry / "models" / TWIN / str(version))


def ready_versions(case: Case) -> list[tuple[str, int]]:
    return [(model.name, model.version) for model in case.client.list_models() if model.state == "ready"]


class Tries:
    def __init__(self, case: Case, sample: int) -> None:
        self.case = case
        self.sample = sample
        self.counts: Counter[str] = Counter()

    def chosen(self, calls: int, share: float = 1.0) -> list[int]:
        every = list(range(1, calls + 1))
        if self.sample == 0:
            return every
        return sorted(self.case.chance.sample(every, min(calls, max(1, round(self.sample * share)))))

    def count_calls(self, operation: Operation, kinds: tuple[str, ...]) -> int:
        operation.prepare()
        self.case.faults.count(kinds)
        operation.run()
        calls = self.case.faults.calls
        self.case.faults.disarm()
        self.case.check()
        self.case.trim()
        require(calls > 0 or kinds == CHANGING, f"the layer sees no file call of {type(operation).__name__}")
        return calls

    def with_fault(self, what: str, operation: Operation, errors: dict[str, int], first: int,
                   last: int | None = None) -> None:
        case, faults = self.case, self.case.faults
        operation.prepare()
        before, active = set(case.posteriors), case.active
        faults.arm(errors, first, last)
        refused: LaplaceError | None = None
        try:
            operation.run()
        except LaplaceError as error:
            refused = error
        answered, bits = prediction_bits(case.client)
        require(case.bits.get(answered, bits) == bits, f"{what}: {answered} predicts other numbers than before")
        hits, kinds, call = faults.hits, faults.kinds_hit, faults.last
        faults.disarm()
        try:
            self.counts["tries"] += 1
            self.counts["calls that failed"] += hits
            if refused is not None:
                self.counts["refused"] += 1
                require(SHORT not in errors.values(), f"half a write is no error: {refused}")
                require(refused.retry_delay is None, f"the server cannot know when to come back: {refused}")
                case.refused_well(what, refused, {number for kind, number in errors.items() if kind in kinds})
                if operation.makes and "was made and saved" in str(refused):
                    self.adopt_posterior(before)
            if refused is not None and hits > 1 and "rename" in kinds:
                # What had got its name already could not lose it again: as after a death.
                self.reconcile(operation, before, active)
                case.activate(case.active)
                operation.prepare()
            case.check(may_leave=bool(kinds & CLEANING))
            if refused is not None:
                operation.run()
                case.check()
            case.trim()
        except (Failure, LaplaceError) as problem:
            raise Failure(f"{what} ({hits} failed, the last: {call}; answer: {refused}): {problem}") from problem

    def adopt_posterior(self, before: set[str]) -> None:
        listed = {posterior.id for posterior in self.case.client.list_posteriors(MODEL)}
        require(len(listed - before) <= 1, f"posteriors {listed - before} of one operation")
        self.case.posteriors |= listed - before

    def reconcile(self, operation: Operation, before: set[str], active: str) -> None:
        """Takes over what an operation that gave no answer, or could not undo, has done: all of it or nothing."""
        case = self.case
        if operation.deleting:
            listed = {posterior.id for posterior in case.client.list_posteriors(MODEL)}
            case.posteriors -= {operation.deleting} - listed
        if operation.makes:
            self.adopt_posterior(before)
        if operation.dataset and (case.registry / "datasets" / operation.dataset).exists():
            case.datasets[operation.dataset] = operation.sent
        found = case.client.get_model(MODEL).active_posterior_id
        require(found in {active, case.active, operation.activating, *(case.posteriors - before)},
                f"{found} is active, {active} was")
        case.active = found

    def with_death(self, operation: Operation, kinds: tuple[str, ...], number: int) -> None:
        case, faults = self.case, self.case.faults
        operation.prepare()
        self.wait_until_recorded()
        before, active = set(case.posteriors), case.active
        faults.arm({kind: DIE for kind in kinds}, number)
        what = f"{type(operation).__name__}, death at call {number}"
        try:
            operation.run()
        except LaplaceError:
            require(case.server.wait() == DIED, f"{what}: the server did not die, it ended")
            self.counts["deaths"] += 1
        what += f" ({faults.last})"
        try:
            case.restart()
            self.reconcile(operation, before, active)
            case.check()
            operation.prepare()
            operation.run()
            case.check()
            case.trim()
        except (Failure, LaplaceError) as problem:
            raise Failure(f"{what}: {problem}") from problem

    def wait_until_recorded(self) -> None:
        """The server saves ends of operations later that the disk refused; only then a kill may come."""
        end = time.monotonic() + 30
        for operation in self.case.succeeded:
            file = self.case.registry / "operations" / f"{operation}.json"
            while json.loads(file.read_text())["state"] != "succeeded":
                require(time.monotonic() < end, f"the end of {operation} is not recorded although the disk works")
                time.sleep(0.02)

    def one_operation(self, operation: Operation) -> None:
        case, name, begin = self.case, type(operation).__name__, time.monotonic()
        calls, changing = self.count_calls(operation, KINDS), self.count_calls(operation, CHANGING)
        for number in self.chosen(calls):
            errors = {kind: case.chance.choice(numbers) for kind, numbers in ERRORS.items()}
            self.with_fault(f"{name}, call {number} of {calls}", operation, errors, number)
        troubles = sorted(TROUBLES)
        if 0 < self.sample < len(troubles):
            troubles = case.chance.sample(troubles, self.sample)
        for trouble in troubles:
            for number in self.chosen(calls, share=0.25):
                what = f"{name}, disk {trouble} from call {number} on"
                self.with_fault(what, operation, TROUBLES[trouble], number, FOREVER)
        if changing > 0:
            for number in self.chosen(changing, share=0.25):
                self.with_death(operation, CHANGING, number)
        print(f"  {name}: {calls} calls, {changing} of them change something; {time.monotonic() - begin:.0f} s",
              flush=True)

    def starts(self) -> None:
        """A server whose start fails ends with 1 and a reason, or serves all the same; the next finds everything."""
        case, begin = self.case, time.monotonic()
        case.client.close()
        case.server.stop()
        case.faults.count()
        case.start()
        calls = case.faults.calls
        case.client.close()
        case.server.stop()
        for number in self.chosen(calls, share=0.5):
            errors = {kind: case.chance.choice(numbers) for kind, numbers in ERRORS.items()}
            case.faults.arm(errors, number)
            try:
                case.start()
            except Failure:
                self.counts["refused starts"] += 1
                require(case.server.wait() == 1, f"start, call {number} ({case.faults.last}): the server ended badly")
            else:
                case.client.close()
                case.server.kill()
            call = case.faults.last
            case.faults.disarm()
            case.start()
            try:
                case.check()
            except (Failure, LaplaceError) as problem:
                raise Failure(f"after a start with a fault at call {number} ({call}): {problem}") from problem
            case.client.close()
            case.server.kill()
        case.start()
        print(f"  starts: {calls} calls; {time.monotonic() - begin:.0f} s", flush=True)

    def polls(self) -> None:
        """While the registry cannot be looked at nothing that is served goes, or goes back to an older version."""
        case, faults, begin = self.case, self.case.faults, time.monotonic()
        case.client.close()
        case.server.stop()
        add_version(case, 2)
        case.start(poll_seconds=0.02, load=f"{MODEL},{TWIN}")
        served = [(MODEL, 1), (TWIN, 2)]
        require(ready_versions(case) == served, f"{ready_versions(case)} are served, expected {served}")
        faults.count()
        until(lambda: faults.calls >= 40, "the registry is looked at")
        for number in self.chosen(20):
            for error in (errno.EACCES, errno.EIO):
                faults.arm({kind: error for kind in ("open", "read", "look")}, number)
                until(lambda: faults.calls >= 40, "the registry is looked at")
                faults.disarm()
                require(ready_versions(case) == served,
                        f"after a fault at call {number} ({faults.last}) {ready_versions(case)} are served")
        faults.arm({kind: errno.EIO for kind in KINDS}, 1, FOREVER)
        until(lambda: faults.hits >= 20, "the registry is looked at")
        add_version(case, 3)
        require(prediction_bits(case.client) == (case.active, case.bits[case.active]), "it predicts other numbers")
        faults.disarm()
        until(lambda: ready_versions(case) == [(MODEL, 1), (TWIN, 3)], "a version is taken up that came meanwhile")
        log = case.server.output()
        require(log.count("unloaded model") == 1, f"other than the version that was replaced was unloaded:\n{log}")
        case.check()
        print(f"  polls of the registry; {time.monotonic() - begin:.0f} s", flush=True)

    def hangs(self) -> None:
        """While the disk does not answer, what is loaded does, probes and metrics too, and SIGTERM ends the server in time."""
        case, faults, begin = self.case, self.case.faults, time.monotonic()
        case.client.close()
        case.server.stop()
        case.start(poll_seconds=0.02, **{"http-listen": "127.0.0.1:0", "drain-seconds": DRAIN_SECONDS})
        address = case.server.http_address()

        def get(path: str) -> str:
            try:
                with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
                    return answer.read().decode()
            except OSError as error:
                raise Failure(f"{path} while the disk does not answer: {error}") from error

        faults.arm({kind: HANG for kind in ("open", "read", "look")}, 1, FOREVER)
        until(lambda: faults.hits >= 1, "the registry is looked at")
        for _ in range(5):
            get("/v2/health/live"), get("/v2/health/ready")
            require(f'laplaced_model_ready{{model="{MODEL}/1"}} 1' in get("/metrics"), "the model is not said to be ready")
            require(prediction_bits(case.client) == (case.active, case.bits[case.active]), "it predicts other numbers")
        case.client.close()
        stop = time.monotonic()
        case.server.stop()
        took = time.monotonic() - stop
        require(took < DRAIN_SECONDS + AFTER_DRAIN + 5, f"SIGTERM took {took:.1f} s")
        faults.disarm()
        case.start()
        case.check()
        print(f"  a disk that does not answer, SIGTERM after {took:.1f} s; {time.monotonic() - begin:.0f} s", flush=True)

    def these(self, names: list[str]) -> None:
        case = self.case
        for operation in OPERATIONS:
            if operation.__name__ in names:
                self.one_operation(operation(case))
        self.wait_until_recorded()
        case.restart()
        case.check_all()
        case.trim()
        if "Start" in names:
            self.starts()
            case.check_all()
            case.trim()
        if "Poll" in names:
            self.polls()
        if "Hang" in names:
            self.hangs()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("layer", type=Path)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="default: by the clock; printed")
    parser.add_argument("--keep", type=Path, help="folder for registry and log, which stay (default: a temporary one)")
    arguments = parser.parse_args()
    options = f"--only {' '.join(arguments.only)} --sample {arguments.sample} --seed {arguments.seed}"
    print(f"fault test: {options}", flush=True)
    state = arguments.keep or Path(tempfile.mkdtemp(prefix="laplaced-fault-"))
    state.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        with Case(arguments.binary.resolve(), arguments.layer.resolve(), state.resolve(), arguments.seed) as case:
            tries = Tries(case, arguments.sample)
            tries.these(arguments.only)
            case.close()
    except (Failure, LaplaceError) as failure:
        print(f"FAILED (--seed {arguments.seed}; registry and log in {state}): {failure}", file=sys.stderr)
        return 1
    if arguments.keep is None:
        shutil.rmtree(state)
    print("counted: " + ", ".join(f"{count} {what}" for what, count in sorted(tries.counts.items())))
    print(f"nothing lost, nothing half there, no bit changed; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
