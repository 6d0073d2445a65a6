#!/usr/bin/env python3
"""A real laplaced behind a bad network (chaos_proxy.py): no call hangs, no answer is wrong, retries are bounded.

    tests/stress/run.sh BINARY chaos_test.py [--calls 60] [--cli FILE] [--seed N] [--patience 5]

For every kind of fault, and all mixed, callers of every client and protocol make calls through a proxy each. Every
call has to end in its time, with an answer or an error of the client's own; every answer has to be, to the bit, that
without a proxy; the server may not see more attempts than the clients' policies allow. Afterwards it answers as
before, and holds no more descriptors and threads, and hardly more memory.

Plain text has no checksum of its own: TCP's is all there is, and what changes bits behind it (a broken proxy, memory
without ECC) may change an answer. So over plain text a flipped bit may do that, and the test counts how often it
does; an answer on a connection that no bit was flipped on has to be right there too. Over TLS every answer has to be.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # or it tells of every broken connection; before it is imported

from chaos_callers import CALLERS, Caller, Outcome, Task, World, close, run_apart, run_here
from chaos_proxy import FAULTS
from laplace_client import Client
from resources import Resources, resources
from server import MODEL, Failure, Server, make_registry, prediction_bits, require, rows

MEMORY_MB = 40  # more than before, of caches and free lists
POOL = 8  # threads that libraries start for the first callers and keep
SETTLE_SECONDS = 30.0
PREDICTING = ("Predict", "Score", "PredictStream", "ModelInfer")


def make_certificate(folder: Path) -> dict[str, Path]:
    """A certificate for localhost that vouches for itself; empty, with a message, without the program openssl."""
    if shutil.which("openssl") is None:
        print("TLS: skipped, there is no program openssl")
        return {}
    files = {"tls-cert": folder / "tls.pem", "tls-key": folder / "tls.key"}
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", files["tls-key"],
                    "-out", files["tls-cert"]], check=True, capture_output=True)
    return files


def attempts_seen(http_address: str) -> int:
    """Predictions of all kinds that clients have begun."""
    with urllib.request.urlopen(f"http://{http_address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    counts = re.findall(r'^grpc_server_started_total\{[^}]*grpc_method="(\w+)"[^}]*\} ([0-9.e+]+)', text, re.M)
    require(bool(counts), "no grpc_server_started_total among the metrics")
    return int(sum(float(count) for method, count in counts if method in PREDICTING))


class Trial:
    """One server, one way to reach it."""

    def __init__(self, arguments: argparse.Namespace, state: Path, tls: dict[str, Path]) -> None:
        self.arguments = arguments
        state.mkdir()
        # Rows are computed one by one, so that what else the server does cannot change a bit.
        flags = {"http-listen": "127.0.0.1:0", "max-batch-rows": 1, **tls}
        self.server = Server(arguments.binary.resolve(), make_registry(state / "registry"), state, **flags)
        self.way = "TLS" if tls else "plain"
        self.world = World(self.server.address(), arguments.cli, state, arguments.patience, arguments.margin,
                           str(tls["tls-cert"]) if tls else "")
        patient = World(self.server.address(), arguments.cli, state, 60, 60, self.world.ca_cert)
        self.client = Client(self.server.address(), patient.options())
        train = self.client.ensure_dataset(*rows(300, seed=1)).id
        validation = self.client.ensure_dataset(*rows(100, seed=2)).id
        self.client.fit(MODEL, train, validation, rank=4, direction_batch_size=100, curvature_batch_size=100)
        self.callers = [kind for kind in CALLERS if arguments.cli or not kind.name.startswith("laplace ")]
        self.expected = {}
        for kind in self.callers:
            caller = kind(patient)
            client = caller.connect(self.server.address())
            self.expected[kind.name] = caller.call(client)
            require(caller.call(client) == self.expected[kind.name], f"{kind.name} does not repeat itself")
            close(client)
        self.before = prediction_bits(self.client)
        self.held = resources(self.server.pid)

    def one_fault(self, fault: str, calls: int) -> None:
        corrupts = fault in ("corrupt", "mixed")
        attempts = attempts_seen(self.server.http_address())
        outcomes: dict[str, Outcome] = {}

        clean = not corrupts or self.way == "TLS"

        def work(number: int, kind: type[Caller]) -> None:
            task = Task(kind, self.world, fault, self.arguments.seed * 100 + number, calls, self.expected[kind.name], clean)
            outcomes[kind.name] = run_here(task) if clean else run_apart(task)

        threads = [threading.Thread(target=work, args=each) for each in enumerate(self.callers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(calls * 120)  # each call has far less, and says so itself
            require(not thread.is_alive(), f"{fault}: a call hangs")
        require(len(outcomes) == len(self.callers), f"{fault}: a caller ended without a result")
        self.judge(fault, corrupts, outcomes, attempts_seen(self.server.http_address()) - attempts)
        self.healthy(fault)

    def judge(self, fault: str, corrupts: bool, outcomes: dict[str, Outcome], attempts: int) -> None:
        for name, outcome in outcomes.items():
            crashes = [f"{outcome.crashes} CRASHED"] if outcome.crashes else []
            errors = ", ".join(crashes + [f"{count} {code}" for code, count in sorted(outcome.errors.items())])
            count = sum(n for what, n in outcome.faults.items() if what != "none")
            print(f"{self.way:<6}{fault:<9}{name:<20}{count:>7}{outcome.calls:>6}{outcome.answers:>8}{outcome.wrong:>6}"
                  f"{outcome.connections:>6}{outcome.slowest:>8.2f}  {errors}", flush=True)
        for name, outcome in outcomes.items():
            where = f"{fault}, {self.way}, {name}"
            require(not outcome.problems, f"{where}: " + "; ".join(outcome.problems[:5]))
            require(outcome.wrong == 0 or (corrupts and self.way == "plain"), f"{where}: {outcome.wrong} wrong answers")
            require(outcome.wrong_without_cause == 0,
                    f"{where}: {outcome.wrong_without_cause} wrong answers on connections without a flipped bit")
            if fault in ("none", "delay", "split"):
                require(outcome.answers == outcome.calls, f"{where}: {outcome.calls - outcome.answers} calls failed")
            require(outcome.connections <= 2 * outcome.attempts_allowed,
                    f"{where}: {outcome.connections} connections for {outcome.calls} calls")
        allowed = sum(outcome.attempts_allowed for outcome in outcomes.values())
        require(attempts <= allowed, f"{fault}, {self.way}: the server saw {attempts} attempts, {allowed} are allowed")

    def healthy(self, fault: str) -> None:
        """Answers as before, and holds what it held, after a while."""
        require(prediction_bits(self.client) == self.before, f"{fault}: the server answers otherwise than before")
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            now = resources(self.server.pid)
            if self.returned(now) or time.monotonic() > end:
                break
            time.sleep(0.1)
        require(self.returned(now), f"{fault}: the server held {self.held} before, now {now}")

    def returned(self, now: Resources) -> bool:
        before = self.held
        return (now.fds <= before.fds and now.threads <= before.threads + POOL and now.rss_mb <= before.rss_mb + MEMORY_MB)

    def end(self) -> None:
        print(f"{self.way}: {self.held} before, {resources(self.server.pid)} after")
        self.client.close()
        self.server.stop()


def run(arguments: argparse.Namespace, state: Path) -> None:
    print(f"{'':<6}{'FAULT':<9}{'CALLER':<20}{'FAULTS':>7}{'CALLS':>6}{'ANSWERS':>8}{'WRONG':>6}{'CONN.':>6}{'SLOWEST':>8}")
    ways = [{}] + [tls for tls in [make_certificate(state)] if tls]
    for number, tls in enumerate(ways):
        trial = Trial(arguments, state / str(number), tls)
        try:
            for fault in arguments.faults if not tls or arguments.all_over_tls else ["corrupt", "mixed"]:
                # What is silent costs its whole time.
                calls = max(2, arguments.calls // 4) if fault in ("stall", "silence", "half") else arguments.calls
                trial.one_fault(fault, calls)
            trial.end()
        finally:
            trial.server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--cli", type=Path, help="the command line laplace (default: that of the server's build, if there)")
    parser.add_argument("--calls", type=int, default=60, help="of each caller, for each fault")
    parser.add_argument("--faults", nargs="+", default=[*FAULTS, "mixed"], choices=[*FAULTS, "mixed"])
    parser.add_argument("--all-over-tls", action="store_true", help="every fault over TLS too, not only corrupt and mixed")
    parser.add_argument("--patience", type=float, default=5.0, help="seconds of a call")
    parser.add_argument("--margin", type=float, default=15.0, help="seconds that it may take longer on a busy machine")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 20), help="default: by chance; printed")
    parser.add_argument("--keep", type=Path, help="folder for registries and logs, which stay (default: a temporary one)")
    arguments = parser.parse_args()
    built = arguments.binary.resolve().parents[2] / "client/cli/laplace"
    arguments.cli = arguments.cli or (built if built.exists() else None)
    if arguments.cli is None:
        print("the command line: left out, it is not built")
    print(f"chaos test: --seed {arguments.seed}", flush=True)
    state = arguments.keep or Path(tempfile.mkdtemp(prefix="laplaced-chaos-"))
    state.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    try:
        run(arguments, state)
    except Failure as failure:
        print(f"FAILED (--seed {arguments.seed}; registries and logs in {state}): {failure}", file=sys.stderr)
        return 1
    if arguments.keep is None:
        shutil.rmtree(state)
    print(f"no call hung, no answer was wrong without a flipped bit; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
