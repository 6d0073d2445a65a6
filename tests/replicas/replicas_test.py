"""Two read-only servers over one registry behind HAProxy, with docker/haproxy/haproxy.cfg, in network namespaces.

    replicas_test.py BUILD_FOLDER                 (make test-replicas; root, HAProxy, iproute2; three to five minutes)

Under load from Python clients one server is killed, stopped, unplugged or frozen, a new posterior is activated, and
both are restarted in turn. No call may fail, every answer must be one posterior's, and both servers' the same. Ends
with 0 only if all of that holds, and prints the table of what happened. Logs stay in run/replicas.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Iterator

import numpy as np

from cluster import ADDRESSES, GRPC_PORT, Cluster, Failure, enter, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
STATE = REPOSITORY / "run/replicas"
PYTHON = "/usr/bin/python3"
MODEL = "fashion_cnn"
FASHION = Path("/usr/share/datasets/fashion-mnist")
TRAIN = f"{FASHION}/train-images-idx3-ubyte.gz,{FASHION}/train-labels-idx1-ubyte.gz"
TEST_IMAGES = FASHION / "t10k-images-idx3-ubyte.gz"
SERVERS = ("server1", "server2")

# Answers of one posterior differ by rounding between batches that were computed together.
TOLERANCE = 2e-5
# A server that went silent is found within 3.2 s (haproxy.cfg says why), and what waited for it is computed elsewhere. The
# rest is for a machine that does other things too.
SLOWEST_SECONDS = 6.0
# Calls per second of `laplace bench`, which never asks again.
BENCH_RATE = 20


def say(text: str) -> None:
    print(text, flush=True)


def expect(holds: bool, what: str) -> None:
    if not holds:
        raise Failure(what)


@dataclass
class Outcome:
    """What callers saw in one scenario."""

    name: str
    report: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    bench: dict[str, int] = field(default_factory=dict)
    proxy_retries: int = 0

    @property
    def unary(self) -> int:
        return self.report["calls"].get("predict", 0) + self.report["calls"].get("score", 0)

    @property
    def batches(self) -> int:
        return self.report["calls"].get("stream", 0)

    def repeated(self, who: str) -> int:
        return sum(self.report["repeated"][who].values())

    @property
    def bench_failed(self) -> int:
        return sum(n for code, n in self.bench.items() if code != "OK")


class Test:
    def __init__(self, build: Path) -> None:
        self.cluster = Cluster(STATE, build, REPOSITORY / "docker/haproxy/haproxy.cfg")
        self._laplace = build / "client/cli/laplace"
        self._rows = STATE / "rows.npy"
        self._references: dict[str, Any] = {}
        self.outcomes: list[Outcome] = []

    # Programs in the clients' namespace

    def laplace(self, server: str, *arguments: str) -> str:
        command = self.cluster.command("client", [self._laplace, *arguments, "--server", server])
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def _traffic(self, server: str, report: Path, *options: str) -> list[str | Path]:
        script = REPOSITORY / "tests/replicas/traffic.py"
        return [PYTHON, script, "--server", server, "--rows", self._rows, "--report", report, *options]

    def direct_answers(self, server: str) -> dict[str, Any]:
        """Of every batch, asked of one server, alone and in order."""
        report = STATE / f"direct_{server}"
        address = f"{ADDRESSES[server]}:{GRPC_PORT}"
        subprocess.run(
            self.cluster.command("client", self._traffic(address, report, "--once")), check=True
        )
        with open(f"{report}.json", encoding="utf-8") as file:
            failures = json.load(file)["failures"]
        expect(not failures, f"{server}: {failures}")
        with np.load(f"{report}.npz") as arrays:
            return dict(arrays)

    @contextmanager
    def load(self, name: str, bench_seconds: int) -> Iterator[Outcome]:
        """Callers, a stream and `laplace bench` through the proxy while the block runs."""
        outcome = Outcome(name)
        report = STATE / f"traffic_{len(self.outcomes)}"
        self.cluster.start("traffic", "client", self._traffic(self.cluster.proxy, report))
        bench = subprocess.Popen(
            self.cluster.command(
                "client",
                [self._laplace, "bench", MODEL, "--server", self.cluster.proxy, "--rate", str(BENCH_RATE),
                 "--duration", str(bench_seconds), "--warm-up", "0.5", "--output", "json"],
            ),
            stdout=subprocess.PIPE,
        )  # fmt: skip
        wait_until("callers' calls come through", 20, lambda: self._streams_on() is not None)
        retries = self.cluster.proxy_metric("haproxy_server_retry_warnings_total")
        yield outcome
        output, _ = bench.communicate(timeout=bench_seconds + 90)
        self.cluster.signal("traffic", signal.SIGTERM)
        code = self.cluster.wait_ended("traffic", 90)
        expect(code == 0, f"callers ended with {code}; see {self.cluster.log('traffic')}")
        expect(bench.returncode == 0, f"laplace bench ended with {bench.returncode}")
        with open(f"{report}.json", encoding="utf-8") as file:
            outcome.report = json.load(file)
        with np.load(f"{report}.npz") as arrays:
            outcome.answers = dict(arrays)
        outcome.proxy_retries = round(self.cluster.proxy_metric("haproxy_server_retry_warnings_total") - retries)
        outcome.bench = json.loads(output)["runs"][0]["codes"]
        self.outcomes.append(outcome)
        self._tell(outcome)
        self._check(outcome)

    def _tell(self, outcome: Outcome) -> None:
        report = outcome.report
        say(
            f"   {outcome.unary} calls and {outcome.batches} batches of a stream, {len(report['failures'])} failed; "
            f"repeated by HAProxy: {outcome.proxy_retries}, by clients: {outcome.repeated('unary')} calls, {outcome.repeated('stream')} streams; "
            f"slowest {report['slowest']:.2f} s; bench, without repeating: {outcome.bench}"
        )
        for who, errors in report["repeated"].items():
            for error, count in errors.items():
                say(f"   repeated {who}, {count} times: {error}")

    def _check(self, outcome: Outcome) -> None:
        failures = outcome.report["failures"]
        expect(not failures, f"{len(failures)} calls failed, such as {failures[:3]}")
        expect(outcome.unary >= 50 and outcome.batches >= 10, "the callers made too few calls to show anything")
        worthwhile = {"OK", "UNAVAILABLE"}
        expect(
            set(outcome.bench) <= worthwhile,
            f"a failure that clients do not repeat: {outcome.bench}",
        )
        self.check_answers(outcome)

    def check_answers(self, outcome: Outcome) -> None:
        """Every answer is what the posterior that it names answers, so no answer is of two."""
        for key, numbers in outcome.answers.items():
            posterior, kind, batch, _ = key.split("/")
            reference = self._references.get(f"{posterior}/{kind}/{batch}")
            if reference is None:
                continue  # of a posterior that is new; checked again when its own are known
            expect(
                np.allclose(numbers, reference, rtol=TOLERANCE, atol=TOLERANCE),
                f"{outcome.name}: an answer to {kind} {batch} differs from those of {posterior}, which it names",
            )

    # The servers

    def _streams(self, server: str) -> float:
        labels = {"grpc_method": "PredictStream", "grpc_service": "laplace.v1.PredictionService"}
        started = self.cluster.metric(server, "grpc_server_started_total", **labels)
        return started - self.cluster.metric(server, "grpc_server_handled_total", **labels)

    def _streams_on(self) -> str | None:
        """The server that has the callers' stream."""
        return next((s for s in SERVERS if self._streams(s) > 0), None)

    def victim(self) -> str:
        server = self._streams_on()
        if server is None:
            raise Failure("no server has the callers' stream")
        return server

    def answered(self, server: str) -> float:
        return self.cluster.metric(
            server, "grpc_server_handled_total",
            grpc_service="laplace.v1.PredictionService", grpc_type="unary", grpc_code="OK",
        )  # fmt: skip

    def wait_takes_traffic(self, server: str) -> None:
        before = self.answered(server)
        wait_until(f"{server} answers calls again", 30, lambda: self.answered(server) >= before + 20)

    def start_server(self, server: str) -> None:
        self.cluster.start_server(server)
        self.cluster.wait_ready(server)
        self.cluster.wait_proxy_says(server, "UP")

    def fit(self, *options: str) -> str:
        """By the writer; the id of the posterior, which is active then."""
        self.laplace(
            f"{ADDRESSES['writer']}:{GRPC_PORT}", "fit", MODEL, "--train", TRAIN, "--train-rows", "0:2000",
            "--validation", TRAIN, "--validation-rows", "50000:50500", "--b1", "128", "--b2", "256",
            *options,
        )  # fmt: skip
        return (self.cluster.registry / f"models/{MODEL}/1/ACTIVE").read_text().strip()

    # Scenarios

    def set_up(self) -> None:
        say("== two read-only servers, a writer, HAProxy, clients: five network namespaces")
        shutil.rmtree(STATE, ignore_errors=True)
        version = self.cluster.registry / f"models/{MODEL}/1"
        version.mkdir(parents=True)
        for file in ("model.pt", "model.json"):
            shutil.copy(REPOSITORY / "tests/data/fashion_cnn" / file, version)
        np.save(self._rows, read_images(TEST_IMAGES, 32))
        self.cluster.connect()
        self.cluster.start_writer()
        posterior = self.fit("--rank", "8")
        say(f"   posterior {posterior}")
        for server in SERVERS:
            self.cluster.start_server(server)
        for server in SERVERS:
            self.cluster.wait_ready(server)
            expect(self.cluster.mounted_read_only(server), f"{server} could write to the registry")
        self.cluster.start_proxy()
        for server in SERVERS:
            self.cluster.wait_proxy_says(server, "UP")

    def same_answers(self) -> str:
        """Both servers', bit for bit; the posterior's id."""
        first, second = (self.direct_answers(server) for server in SERVERS)
        posteriors = {key.split("/")[0] for key in [*first, *second]}
        expect(len(posteriors) == 1, f"the servers answer with different posteriors: {sorted(posteriors)}")
        expect(first.keys() == second.keys(), "the servers answer different things")
        for key, numbers in first.items():
            expect(np.array_equal(numbers, second[key]), f"the servers differ in {key}")
            if key.endswith("/low"):
                self._references[key.removesuffix("/low")] = numbers
        posterior = posteriors.pop()
        say(f"   {len(first) // 2} direct answers of each server are equal bit for bit ({posterior})")
        return posterior

    def round_robin(self) -> None:
        say("== (a) round robin, the same answers")
        self.same_answers()
        before = [self.answered(s) for s in SERVERS]
        with self.load("round robin", 6) as outcome:
            pass
        shares = [self.answered(s) - b for s, b in zip(SERVERS, before)]
        say(f"   answered by {SERVERS[0]}: {shares[0]:.0f}, by {SERVERS[1]}: {shares[1]:.0f}")
        expect(abs(shares[0] - shares[1]) <= 0.1 * sum(shares), f"not about equally many: {shares}")
        expect(outcome.bench_failed + outcome.repeated("unary") + outcome.repeated("stream") == 0,
               "calls failed or were repeated although nothing happened")  # fmt: skip

    def killed(self) -> None:
        say("== (b), (f) kill -9 of the server that has the stream")
        with self.load("killed with -9", 10) as outcome:
            server = self.victim()
            self.cluster.signal(server, signal.SIGKILL)
            self.cluster.wait_ended(server, 5)
            seconds = self.cluster.wait_proxy_says(server, "DOWN")
            say(f"   {server} is DOWN after {seconds:.1f} s")
            self.start_server(server)
            self.wait_takes_traffic(server)
        expect(outcome.repeated("stream") > 0, "the stream was on the server that was killed, yet never broke")

    def stopped(self) -> None:
        say("== (c) SIGTERM: drain")
        with self.load("SIGTERM, drain", 10) as outcome:
            self.stop_in_peace(self.victim())
        expect(outcome.repeated("unary") == 0 and outcome.bench_failed == 0, "a drain cost calls")

    def stop_in_peace(self, server: str) -> None:
        self.cluster.signal(server, signal.SIGTERM)
        seconds = self.cluster.wait_proxy_says(server, "NOLB")
        code = self.cluster.wait_ended(server, 20)
        say(f"   {server} gets no new calls {seconds:.1f} s after SIGTERM, and has ended with {code}")
        expect(code == 0, f"{server} did not end in peace; see {self.cluster.log(server)}")
        self.cluster.wait_proxy_says(server, "DOWN")
        self.start_server(server)
        self.wait_takes_traffic(server)

    def unplugged(self) -> None:
        say("== (d) the cable of one server is pulled")
        self._silent("unplugged", self.cluster.unplug, self.cluster.plug_in)

    def frozen(self) -> None:
        say("== (d) one server is frozen (SIGSTOP)")
        self._silent(
            "frozen",
            lambda server: self.cluster.signal(server, signal.SIGSTOP),
            lambda server: self.cluster.signal(server, signal.SIGCONT),
        )

    def _silent(self, name: str, begin: Callable[[str], None], end: Callable[[str], None]) -> None:
        with self.load(name, 10) as outcome:
            server = self.victim()
            begin(server)
            seconds = self.cluster.wait_proxy_says(server, "DOWN")
            say(f"   {server} is DOWN after {seconds:.1f} s")
            # Not only once the silent server is back.
            other = SERVERS[1 - SERVERS.index(server)]
            wait_until(f"the stream goes on at {other}", 5, lambda: self._streams(other) > 0)
            end(server)
            self.cluster.wait_proxy_says(server, "UP")
            self.wait_takes_traffic(server)
        slowest = outcome.report["slowest"]
        expect(slowest <= SLOWEST_SECONDS, f"a call took {slowest:.1f} s, longer than {SLOWEST_SECONDS:g}")
        expect(slowest > 0.5, "no call was waiting for the server that went silent")

    def updated(self) -> None:
        say("== (e) a new posterior")
        with self.load("new posterior", 15) as outcome:
            new = self.fit("--rank", "12", "--seed", "1")
            begin = time.monotonic()
            for server in SERVERS:
                wait_until(f"{server} answers with {new}", 30, lambda: self._active(server) == new)
            say(f"   both servers answer with {new} {time.monotonic() - begin:.1f} s after the fit")
            for server in SERVERS:
                self.wait_takes_traffic(server)
        posteriors = outcome.report["posteriors"]
        say(f"   answers by posterior: {posteriors}")
        expect(len(posteriors) == 2 and min(posteriors.values()) > 20, "expected answers of two posteriors")
        old = dict(self._references)
        expect(self.same_answers() == new, f"expected {new} to answer")
        for key, numbers in old.items():
            differs = np.abs(numbers - self._references[new + key[key.index("/") :]]).max()
            expect(differs > 50 * TOLERANCE, f"the posteriors are too alike to tell apart: {differs}")
        self.check_answers(outcome)
        repeated = outcome.repeated("unary") + outcome.repeated("stream")
        expect(outcome.bench_failed + repeated == 0, "the update cost calls")

    def restarted(self) -> None:
        say("== (e) both servers restarted in turn")
        with self.load("both restarted in turn", 20) as outcome:
            for server in SERVERS:
                self.stop_in_peace(server)
        expect(outcome.repeated("unary") == 0 and outcome.bench_failed == 0, "the restarts cost calls")

    def command_line_stream(self) -> None:
        say("== (f) laplace score reads its standard input while its server is killed")
        rows = [",".join(map(str, row.ravel())) for row in np.load(self._rows)]
        command = self.cluster.command(
            "client",
            [self._laplace, "score", MODEL, "--input", "-", "--csv-type", "uint8", "--batch-size", "2",
             "--ood-score", "energy", "--output", "-", "--server", self.cluster.proxy],
        )  # fmt: skip
        fed, enough = 0, threading.Event()
        with open(self.cluster.log("score"), "wb") as log:
            score = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True)

        def feed() -> None:
            nonlocal fed
            while not enough.wait(0.02):
                print(rows[fed % len(rows)], file=score.stdin, flush=True)
                fed += 1
            score.stdin.close()

        output: list[str] = []
        threads = [
            threading.Thread(target=feed),
            threading.Thread(target=lambda: output.extend(score.stdout)),
        ]
        for thread in threads:
            thread.start()
        wait_until("the stream is open", 20, lambda: self._streams_on() is not None)
        wait_until("the first answers come", 20, lambda: len(output) > 20)
        server = self.victim()
        self.cluster.signal(server, signal.SIGKILL)
        self.cluster.wait_ended(server, 5)
        answered = len(output)
        wait_until("answers come again", 30, lambda: len(output) > answered + 20)
        enough.set()
        for thread in threads:
            thread.join()
        code = score.wait(60)
        expect(code == 0, f"laplace score ended with {code}; see {self.cluster.log('score')}")
        scores = [line.split(",") for line in output[1:]]
        expect([int(s[0]) for s in scores] == list(range(fed)), f"of {fed} rows {len(scores)} were answered, or not in order")
        energies = np.array([float(s[1]) for s in scores])
        for row in range(len(rows)):
            expect(np.ptp(energies[row :: len(rows)]) < TOLERANCE, f"row {row} has several energies")
        say(f"   {fed} rows, each answered once and in order; {server} was killed at row {answered}")
        self.start_server(server)

    def _active(self, server: str) -> str:
        address = f"{ADDRESSES[server]}:{GRPC_PORT}"
        model = json.loads(self.laplace(address, "models", "show", MODEL, "--output", "json"))
        return str(model["active_posterior_id"])

    def table(self) -> None:
        say("\n| what happened | calls | failed | repeated by HAProxy | by clients | batches of a stream | streams taken up again | slowest, s | "
            "of calls never repeated, failed |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|")  # fmt: skip
        for o in self.outcomes:
            bench = sum(o.bench.values())
            say(f"| {o.name} | {o.unary} | {len(o.report['failures'])} | {o.proxy_retries} | {o.repeated('unary')} | {o.batches} | "
                f"{o.repeated('stream')} | {o.report['slowest']:.2f} | {o.bench_failed} of {bench} |")  # fmt: skip


def read_images(path: Path, count: int) -> Any:
    """The first images of an IDX file, as raw pixels [count, 1, 28, 28]."""
    import gzip

    with gzip.open(path, "rb") as file:
        header = file.read(16)
        expect(header[:4] == b"\0\0\x08\x03", f"{path} is no IDX file of images")
        return np.frombuffer(file.read(count * 784), np.uint8).reshape(count, 1, 28, 28)


def main() -> int:
    if len(sys.argv) != 2 or not os.path.isdir(sys.argv[1]):
        print(f"usage: {sys.argv[0]} BUILD_FOLDER", file=sys.stderr)
        return 2
    try:
        enter()
        test = Test(Path(sys.argv[1]).resolve())
        begin = time.monotonic()
        test.set_up()
        for scenario in (
            test.round_robin, test.killed, test.command_line_stream, test.stopped, test.unplugged, test.frozen,
            test.updated, test.restarted,
        ):  # fmt: skip
            scenario()
    except Failure as failure:
        print(f"replicas test: {failure}\nLogs are in {STATE}", file=sys.stderr)
        return 1
    test.table()
    say(f"\nall of it holds ({time.monotonic() - begin:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
