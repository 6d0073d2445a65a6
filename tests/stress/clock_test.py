#!/usr/bin/env python3
"""Sets the wall clock of a real laplaced by days and years, forth and back, while it works.

    tests/stress/run.sh BINARY clock_test.py LAYER

LAYER is clock_layer.c as a shared library: it shifts the wall clock of one process, and nothing else's. After
every jump, and while the clock jumps: predictions are answered in time, to the bit; deadlines hold; fits end and carry
times of the clock that can be parsed; new versions are taken up from the registry; health answers. Operations and
posteriors stay in the order in which they were acknowledged, also after a restart with a clock that was set back.
SIGTERM ends the server in time.
"""

from __future__ import annotations

import json
import mmap
import shutil
import struct
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import grpc
from laplace_client.errors import LaplaceError
from server import CHECKPOINT, MODEL, Failure, Server, make_registry, prediction_bits, require, rows

TWIN = "twin"
FIT = {"rank": 4, "direction_batch_size": 60, "curvature_batch_size": 60}
DAY = 24 * 3600
JUMPS = (DAY, -DAY, 3650 * DAY, -400 * DAY, 0)  # seconds from the real time
PATIENCE = 30.0  # seconds for what takes one at most on an idle machine


class Clock:
    """The wall clock of the server."""

    def __init__(self, library: Path, control: Path) -> None:
        control.write_bytes(bytes(mmap.PAGESIZE))
        self.environment = {"LD_PRELOAD": str(library), "LAPLACED_CLOCK_CONTROL": str(control)}
        with open(control, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        self.offset = 0

    def set(self, offset: int) -> None:
        self.offset = offset
        struct.pack_into("=q", self._map, 0, offset * 10**9)

    def now(self) -> datetime:
        return datetime.now(timezone.utc) + timedelta(seconds=self.offset)


def parse(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def until(holds, what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        require(time.monotonic() < end, f"not after {PATIENCE:g} s: {what}")
        time.sleep(0.02)


class Watched:
    def __init__(self, binary: Path, library: Path, state: Path) -> None:
        self.binary, self.state = binary, state
        self.registry = make_registry(state / "registry", (MODEL, TWIN))
        self.clock = Clock(library, state / "clock")
        self.operations: list[str] = []  # acknowledged, oldest first
        self.posteriors: list[str] = []  # likewise
        self.versions = 1  # of the twin
        self.start()
        self.train = self.client.ensure_dataset(*rows(150, seed=1)).id
        self.fit(activate=True)
        self.bits = prediction_bits(self.client)

    def start(self) -> None:
        self.server = Server(self.binary, self.registry, self.state, environment=self.clock.environment,
                             load=f"{MODEL},{TWIN}", **{"registry-poll-seconds": 0.1})
        self.client = self.server.client()

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.kill()

    def fit(self, activate: bool = False, on_progress=None) -> None:
        before = self.clock.now()
        started = self.client.start_fit(MODEL, self.train, keep_inactive=not activate, **FIT)
        self.operations.append(started.id)
        end = started
        for end in self.client.watch_operation(started.id):
            if on_progress is not None:
                on_progress()
        require(end.state == "succeeded", f"a fit ended with {end}")
        self.posteriors.append(end.posterior_id)
        if on_progress is None:
            latest = self.clock.now() + timedelta(seconds=1)
            for at in (end.start_time, end.end_time):
                require(before - timedelta(seconds=1) <= parse(at) <= latest,
                        f"a fit from {before} to {latest} says {at}")

    def check_order(self) -> None:
        listed = [operation.id for operation in reversed(self.client.list_operations())]
        require(listed == self.operations, f"operations were acknowledged as {self.operations}, and are {listed}")
        known = [posterior.id for posterior in reversed(self.client.list_posteriors(MODEL))]
        require(known == self.posteriors, f"posteriors were made as {self.posteriors}, and are {known}")

    def check_predictions(self, callers: int = 1, calls: int = 1) -> None:
        problems: list[str] = []

        def ask() -> None:
            for _ in range(calls):
                begin = time.monotonic()
                try:
                    same = prediction_bits(self.client) == self.bits
                except LaplaceError as error:
                    problems.append(str(error))
                    return
                if not same:
                    problems.append("a prediction is another one than before")
                if time.monotonic() - begin > PATIENCE:
                    problems.append(f"a prediction took {time.monotonic() - begin:.1f} s")

        threads = [threading.Thread(target=ask) for _ in range(callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(3 * PATIENCE)
            require(not thread.is_alive(), "a prediction hangs")
        require(not problems, "; ".join(problems[:3]))

    def check_deadline(self) -> None:
        """A call that cannot be answered in time ends when its time is over."""
        from laplace_client import Client, ClientOptions
        from laplace_client.options import RetryPolicy, Timeouts
        hasty = ClientOptions(retry=RetryPolicy(max_attempts=1), timeouts=Timeouts(predict=0.001))
        with Client(self.server.address(), hasty) as client:
            begin = time.monotonic()
            try:
                client.predict(MODEL, rows(512, seed=3)[0])
            except LaplaceError as error:
                require(error.code == grpc.StatusCode.DEADLINE_EXCEEDED, f"a call of 1 ms ended with {error}")
            require(time.monotonic() - begin < PATIENCE, "a call of 1 ms took long")

    def check_reload(self) -> None:
        self.versions += 1
        staged = self.state / "staged"
        shutil.copytree(CHECKPOINT, staged, ignore=shutil.ignore_patterns("posteriors", "ACTIVE"))
        staged.rename(self.registry / "models" / TWIN / str(self.versions))
        until(lambda: any(model.version == self.versions and model.state == "ready"
                          for model in self.client.list_models() if model.name == TWIN),
              f"version {self.versions} of a model is taken up")

    def follows(self) -> bool:
        """Whether the server knows the time: Abseil counts cycles, and looks at the clock every other second."""
        self.client.load_model(MODEL)  # is logged, and does nothing to a model that is loaded
        last = json.loads(self.server.output().splitlines()[-1])
        return abs(parse(last["time"]) - self.clock.now()) < timedelta(minutes=1)

    def check(self) -> None:
        require(self.client.health(), "health says NOT_SERVING")
        self.check_predictions(callers=4, calls=3)
        self.check_deadline()
        self.client.ensure_dataset(*rows(20, seed=100 + len(self.operations)))
        until(self.follows, "the server has noticed that the clock was set")
        self.fit()
        self.check_order()
        self.check_reload()

    def jump_at_work(self) -> None:
        """Back and forth at every progress of a fit, and at every moment of predictions."""
        jumps = [DAY, -DAY, -3 * DAY, 2 * DAY, 0]
        state = {"jump": 0}

        def jump() -> None:
            self.clock.set(jumps[state["jump"] % len(jumps)])
            state["jump"] += 1

        self.fit(on_progress=jump)
        require(state["jump"] > 0, "the fit showed no progress")
        done = threading.Event()
        jumper = threading.Thread(target=lambda: [jump() for _ in iter(lambda: done.wait(0.003), True)])
        jumper.start()
        try:
            self.check_predictions(callers=4, calls=10)
        finally:
            done.set()
            jumper.join()
        self.check_order()

    def stop(self) -> None:
        self.client.close()
        begin = time.monotonic()
        self.server.stop()
        require(time.monotonic() - begin < PATIENCE, f"SIGTERM took {time.monotonic() - begin:.1f} s")
        for line in self.server.output().splitlines():
            if line.startswith("{"):
                parse(json.loads(line)["time"])


def run(binary: Path, library: Path, state: Path) -> None:
    with Watched(binary, library, state) as watched:
        jump_about(watched)


def jump_about(watched: Watched) -> None:
    for jump in JUMPS:
        watched.clock.set(jump)
        watched.check()
        print(f"  {jump / DAY:+g} days: as before", flush=True)
    watched.jump_at_work()
    print("  jumps while it works: as before", flush=True)
    # The last fits were made in the future; the clock is right again, and the server a new one.
    watched.clock.set(30 * DAY)
    until(watched.follows, "the server has noticed that the clock was set")
    watched.fit()
    watched.stop()
    watched.clock.set(0)
    watched.start()
    watched.check_order()
    require(prediction_bits(watched.client) == watched.bits, "after a restart it predicts other numbers")
    watched.fit()
    watched.check_order()
    watched.clock.set(-DAY)
    watched.stop()
    watched.start()
    watched.check_order()
    watched.stop()
    print("  restarts with a clock that was set back: nothing lost, all in order", flush=True)


def main() -> int:
    state = Path(tempfile.mkdtemp(prefix="laplaced-clock-"))
    begin = time.monotonic()
    try:
        run(Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve(), state)
    except (Failure, LaplaceError) as failure:
        print(f"FAILED (registry and log in {state}): {failure}", file=sys.stderr)
        return 1
    shutil.rmtree(state)
    print(f"the clock changed nothing but times; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
