#!/usr/bin/env python3
"""Clients that hold on to a real laplaced: they connect and say nothing, begin and never end, ask and never read; and ones that
vanish as soon as they have asked.

    tests/stress/run.sh BINARY abuse_test.py [--connections 300] [--seed N] [--long]

While they do, another client, from another address, is served as before (beside requests that never end some of its calls
may fail, because gRPC ends whatever comes when its quota is used up), and the server's memory stays within its bounds; when
they have gone, descriptors and memory come back. --long adds 700 MB of answers that nobody reads, and vanishes six times as long.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable

import raw_http2 as h2
from flooder import Flooder
from laplace_client import _api, _requests
from laplace_client.errors import OverloadedError, UnavailableError
from resources import resources
from server import MODEL, Failure, Server, make_registry, prediction_bits, require, rows
from vanish import every_method, vanish

ABUSER = "127.0.0.2"
PREDICT = "/laplace.v1.PredictionService/Predict"
STREAM = "/laplace.v1.PredictionService/PredictStream"
LONGEST_CALL = 20.0  # seconds, of a client that is served, on a busy machine
SETTLE_SECONDS = 40.0
MB = 1 << 20


class Target:
    """A server with a client that only wants to be served."""

    def __init__(self, binary: Path, state: Path, **flags: object) -> None:
        state.mkdir()
        self.server = Server(binary, make_registry(state / "registry"), state, **flags)
        self.client = self.server.client()
        train = self.client.ensure_dataset(*rows(300, seed=1)).id
        self.client.fit(MODEL, train, rank=4, direction_batch_size=100, curvature_batch_size=100)
        self.bits = prediction_bits(self.client)
        self.calls(20)
        self.before = resources(self.server.pid)

    @property
    def address(self) -> str:
        return self.server.address()

    def grown(self) -> float:
        """MB more than before."""
        return resources(self.server.pid).rss_mb - self.before.rss_mb

    def calls(self, count: int) -> str:
        took = []
        for _ in range(count):
            begin = time.monotonic()
            require(prediction_bits(self.client) == self.bits, "another client gets another answer")
            took.append(time.monotonic() - begin)
        took.sort()
        require(took[-1] < LONGEST_CALL, f"another client waited {took[-1]:.1f} s for an answer")
        return f"others wait {1000 * took[count // 2]:.0f} ms in the middle, {1000 * took[-1]:.0f} at most"

    def calls_under_quota(self, count: int) -> str:
        """Of calls that gRPC may end: every answer that comes is right, and none takes long."""
        answered, longest = 0, 0.0
        for _ in range(count):
            begin = time.monotonic()
            try:
                require(prediction_bits(self.client) == self.bits, "another client gets another answer")
                answered += 1
            except (UnavailableError, OverloadedError):
                pass
            longest = max(longest, time.monotonic() - begin)
        require(longest < LONGEST_CALL, f"another client waited {longest:.1f} s")
        return f"others get {answered} of {count} answers, after {1000 * longest:.0f} ms at most"

    def cpu_seconds(self) -> float:
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def released(self, memory_mb: float) -> str:
        """Waits until descriptors, and memory but for so much, are back."""
        end = time.monotonic() + SETTLE_SECONDS
        while True:
            now = resources(self.server.pid)
            if now.fds <= self.before.fds and now.rss_mb <= self.before.rss_mb + memory_mb:
                return f"afterwards {now}"
            require(time.monotonic() < end, f"{self.before} before, and {now} after the abusers have gone")
            time.sleep(0.2)

    def end(self) -> None:
        self.client.close()
        self.server.stop()


def leave(abuser: socket.socket) -> None:
    try:
        abuser.shutdown(socket.SHUT_RDWR)  # close alone waits for a thread that reads
    except OSError:
        pass  # it has ended already
    abuser.close()


def wait_until(holds: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not holds():
        require(time.monotonic() < end, f"after {seconds:g} s: {what}")
        time.sleep(0.05)


def half_open(target: Target, connections: int) -> None:
    field = h2.header("x", "y" * 100)
    greeting = h2.PREFACE + h2.settings({})
    beginnings = {
        "nothing": b"", "half a preface": h2.PREFACE[:11], "preface only": h2.PREFACE, "no call": greeting,
        "half a frame": greeting + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(PREDICT))[:20],
        "headers without end": greeting + h2.frame(h2.HEADERS, 0, 1, h2.call_headers(PREDICT))
        + h2.frame(h2.CONTINUATION, 0, 1, 40 * field) * 20,
        "no message": greeting + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(PREDICT)),
        "no start": greeting + h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.call_headers(STREAM))}
    for what, beginning in beginnings.items():
        abusers = [h2.connect(target.address, ABUSER) for _ in range(connections // len(beginnings))]
        for abuser in abusers:
            try:
                abuser.sendall(beginning)
            except OSError:  # it was thrown out while it still spoke
                pass
        used, begin = target.cpu_seconds(), time.monotonic()
        time.sleep(0.5)  # a measurement: how much they cost when they do nothing
        used, took = target.cpu_seconds() - used, time.monotonic() - begin
        print(f"  {len(abusers)} x {what}: {target.grown():+.1f} MB, {used / took:.2f} cores; {target.calls(20)}", flush=True)
        require(used < 0.5 * took, f"{what}: idle connections keep {used / took:.2f} cores busy")
        require(target.grown() < 20 + 0.25 * connections, f"{what}: {target.grown():.0f} MB for {len(abusers)} connections")
        for abuser in abusers:
            leave(abuser)
    print(f"  {target.released(20 + 0.25 * connections)}")


def slow_readers(target: Target) -> None:
    """Large answers that nobody reads, for longer than a minute."""
    request = _requests.predict(MODEL, rows(256, 1)[0], {"ood_scores": ["msp"], "return_joint_covariance": True})
    answer = target.client._call(_api.PREDICT, request).ByteSize()
    calls, bound = 150, 256 + 150
    require(2 * calls * answer / MB > 1.5 * bound, "the test asks for too little")  # once as a message, once on the wire
    abuser = h2.connect(target.address, ABUSER)
    reader = Flooder(abuser, {h2.INITIAL_WINDOW_SIZE: 0})
    for number in range(calls):
        reader.send(h2.unary_call(1 + 2 * number, PREDICT, request.SerializeToString()))
    # With the answers that the limit leaves over, once there are no more to come.
    wait_until(lambda: 2 * (calls - reader.ended) * answer <= 256 * MB, "too many answers wait for who does not read", 240)
    wait_until(lambda: target.grown() < bound, "answers that nobody reads hold more than they may")
    print(f"  {calls} answers of {answer / MB:.1f} MB that nobody reads: {reader.ended} calls ended, {target.grown():+.0f} MB; "
          f"{target.calls(20)}", flush=True)
    wait_until(lambda: reader.ended == calls, "calls wait for a client that does not read", 120)
    print("  all of them were ended")
    leave(abuser)
    print(f"  {target.released(60)}")


def slow_streams(target: Target) -> None:
    """Streams of many batches on a connection whose window stays shut: no more than their first answers are computed."""
    request = _api.message("laplace.v1.PredictStreamRequest")
    start = _api.message("laplace.v1.PredictStreamStart")(predict=_requests.predict(MODEL, None, {"ood_scores": None}))
    inputs = _requests.predict(MODEL, rows(16, 1)[0], {"ood_scores": None}).inputs
    messages = h2.message(request(start=start).SerializeToString()) + 8 * h2.message(request(inputs=inputs).SerializeToString())
    streams, abuser = 100, h2.connect(target.address, ABUSER)
    reader = Flooder(abuser, {h2.INITIAL_WINDOW_SIZE: 0})
    cpu = target.cpu_seconds()
    for number in range(streams):
        reader.call(1 + 2 * number, STREAM)
        reader.data(1 + 2 * number, messages)
    idle = [0.0]

    def quiet() -> bool:
        used = target.cpu_seconds()
        idle.append(used)
        return len(idle) > 10 and used - idle[-10] < 0.05

    wait_until(quiet, "streams that nobody reads keep the server busy")
    print(f"  {streams} streams that nobody reads: {target.grown():+.1f} MB, {target.cpu_seconds() - cpu:.1f} s of compute, "
          f"then none; {target.calls(20)}", flush=True)
    require(target.grown() < 60, f"streams that nobody reads hold {target.grown():.0f} MB")
    leave(abuser)
    print(f"  {target.released(60)}")


def half_sent(target: Target, message_bytes: int) -> None:
    """Requests that lack their last byte."""
    bound = 16 * message_bytes / MB + 48
    abusers = [h2.connect(target.address, ABUSER) for _ in range(4)]
    floods = [Flooder(abuser, {}) for abuser in abusers]
    piece = h2.message(bytes(message_bytes - 100))[:-1]

    def flood(flooder: Flooder) -> None:
        for number in range(40):
            flooder.call(1 + 2 * number, PREDICT)
            if not flooder.data(1 + 2 * number, piece):
                return

    threads = [threading.Thread(target=flood, args=(each,)) for each in floods]
    for thread in threads:
        thread.start()
    most = 0.0
    while any(thread.is_alive() for thread in threads):
        most = max(most, target.grown())
        time.sleep(0.05)
    sent, ended = sum(each.sent for each in floods) / MB, sum(each.ended for each in floods)
    require(sent > 1.5 * bound, f"the test sent too little: {sent:.0f} MB")
    print(f"  {sent:.0f} MB of requests without their ends: {most:.0f} MB at most, {ended} calls ended; {target.calls_under_quota(20)}", flush=True)
    require(most < bound, f"requests that never end hold {most:.0f} MB")
    for abuser in abusers:
        leave(abuser)
    print(f"  {target.released(48)}; {target.calls(20)}")


def vanishing(target: Target, seconds: float, seed: int) -> None:
    """Calls that are cancelled at once, of every method, refused ones among them."""
    client = target.client
    known = {"model": MODEL, "name": MODEL, "id": client.list_operations()[0].id,
             "posterior_id": client.list_posteriors(MODEL)[0].id}
    calls = vanish(target.address, known, seconds, seed)
    require(target.server.running(), "the server ended while callers vanished")
    print(f"  {calls} calls of {len(every_method())} methods, --seed {seed}: {target.grown():+.1f} MB; {target.calls(20)}", flush=True)
    print(f"  {target.released(60)}")


def run(arguments: argparse.Namespace, state: Path) -> None:
    binary = arguments.binary.resolve()
    target = Target(binary, state / "1")
    try:
        print("callers that vanish:", flush=True)
        vanishing(target, 120.0 if arguments.long else 20.0, arguments.seed)
        print("half-open connections:", flush=True)
        half_open(target, arguments.connections)
        print("slow readers:", flush=True)
        slow_streams(target)
        if arguments.long:
            slow_readers(target)
        target.end()
    finally:
        target.server.kill()
    target = Target(binary, state / "2", **{"max-message-bytes": MB})
    try:
        print("half requests:", flush=True)
        half_sent(target, MB)
        target.end()
    finally:
        target.server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--connections", type=int, default=300)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="of the calls that vanish; default: by the clock")
    arguments = parser.parse_args()
    state = Path(tempfile.mkdtemp(prefix="laplaced-abuse-"))
    try:
        run(arguments, state)
    except Failure as failure:
        print(f"FAILED (registries and logs in {state}): {failure}", file=sys.stderr)
        return 1
    shutil.rmtree(state)
    return 0


if __name__ == "__main__":
    sys.exit(main())
