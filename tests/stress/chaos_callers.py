"""Callers of every client and protocol, each through a bad network of its own, and what became of their calls."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Iterator

import grpc
import numpy as np
import oip
from chaos_proxy import MEAN_GAP, ChaosProxy
from laplace_client import AsyncClient, Client, ClientOptions
from laplace_client.errors import LaplaceError
from laplace_client.options import RetryPolicy, Timeouts, Tls
from server import MODEL, rows

ATTEMPTS = 3  # of a call, the first included
BATCHES = 4  # of a stream
CALLS_PER_CLIENT = 3  # then the next one connects anew: a silent connection is found after 50 s only
_LOOP = asyncio.new_event_loop()  # one for all calls: gRPC's threads may still speak to it after a call
UNREACHED = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@dataclass
class Outcome:
    """Of the calls of one caller."""

    calls: int = 0
    answers: int = 0
    wrong: int = 0  # answers other than those without a proxy
    wrong_without_cause: int = 0  # of them, although no bit of their connection was flipped
    crashes: int = 0  # of the caller's process
    errors: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    slowest: float = 0.0
    attempts_allowed: int = 0
    connections: int = 0
    faults: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class World:
    """What callers need. `patience`: seconds of a call; `margin`: that it may take longer on a busy machine."""

    address: str
    cli: Path | None
    folder: Path
    patience: float
    margin: float
    ca_cert: str = ""  # of a server that speaks TLS

    def options(self) -> ClientOptions:
        return ClientOptions(
            tls=Tls(ca_cert=self.ca_cert, server_name="localhost") if self.ca_cert else None,
            retry=RetryPolicy(max_attempts=ATTEMPTS, initial_backoff=0.02, max_backoff=0.2),
            timeouts=Timeouts(call=self.patience, predict=self.patience))

    def channel(self, address: str) -> grpc.Channel:
        if not self.ca_cert:
            return grpc.insecure_channel(address)
        credentials = grpc.ssl_channel_credentials(Path(self.ca_cert).read_bytes())
        return grpc.secure_channel(address, credentials, [("grpc.ssl_target_name_override", "localhost")])


def batches() -> list[np.ndarray]:
    return [rows(3, seed)[0] for seed in range(BATCHES)]


def prediction(answer: Any) -> bytes:
    parts = [answer.mean, answer.variance, answer.epistemic, answer.aleatoric] + [score.values for score in answer.ood.values()]
    return answer.posterior_id.encode() + b"".join(np.asarray(part).tobytes() for part in parts)


def scores(answer: Any) -> bytes:
    return answer.posterior_id.encode() + b"".join(np.asarray(score.values).tobytes() for score in answer.ood.values())


class Caller:
    """One kind of call. `connect(address)` makes a client; `call(client)` returns every bit of an answer; `attempts` may
    reach the server; `seconds` is how long it may take."""

    name = ""
    attempts = ATTEMPTS

    def __init__(self, world: World) -> None:
        self.world = world

    def seconds(self) -> float:
        return self.world.patience

    def connect(self, address: str) -> Any:
        return Client(address, self.world.options())

    def call(self, client: Any) -> bytes:
        raise NotImplementedError


class Predict(Caller):
    name = "Python predict"

    def call(self, client: Client) -> bytes:
        return prediction(client.predict(MODEL, rows(5, 11)[0]))


class Stream(Caller):
    """Each answer may take as long as a call; attempts count anew after each."""

    name = "Python stream"
    attempts = ATTEMPTS * (BATCHES + 1)

    def seconds(self) -> float:
        return self.world.patience * (BATCHES + 1)

    def call(self, client: Client) -> bytes:
        return b"".join(map(prediction, client.predict_stream(MODEL, batches())))


class AsyncStream(Stream):
    name = "Python asyncio"

    def connect(self, address: str) -> Any:
        return address

    def call(self, address: str) -> bytes:
        async def all_of_it() -> bytes:
            async with AsyncClient(address, self.world.options()) as client:
                return b"".join([scores(answer) async for answer in client.score_stream(MODEL, batches())])

        return _LOOP.run_until_complete(all_of_it())


class Infer(Caller):
    """Nothing is tried again."""

    name = "inference protocol"
    attempts = 1

    def connect(self, address: str) -> Any:
        return self.world.channel(address)

    def call(self, channel: grpc.Channel) -> bytes:
        return b"".join(name.encode() + values for name, values in oip.infer(channel, MODEL, rows(5, 12)[0], self.world.patience))


class Cli(Caller):
    """The command line, and with it the C++ client, whose own retries are four."""

    attempts = 4

    def seconds(self) -> float:
        return self.world.patience + 1  # to start

    def connect(self, address: str) -> Any:
        return address

    def run(self, address: str, *arguments: str) -> bytes:
        tls = ["--ca-cert", self.world.ca_cert, "--tls-server-name", "localhost"] if self.world.ca_cert else []
        command = [str(self.world.cli), *arguments, "--server", address, "--timeout", str(self.world.patience), *tls]
        done = subprocess.run(command, capture_output=True, timeout=120)
        if done.returncode != 0:
            raise CliError(done.returncode, done.stderr.decode(errors="replace")[-2000:])
        return done.stdout

    @property
    def inputs(self) -> str:
        path = self.world.folder / "inputs.npy"
        if not path.exists():
            np.save(path, np.concatenate(batches()))
        return str(path)


class CliError(Exception):
    pass


class CliPredict(Cli):
    name = "laplace predict"

    def call(self, address: str) -> bytes:
        answer = json.loads(self.run(address, "predict", MODEL, "--input", self.inputs, "--output", "json"))

        def timeless(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: timeless(part) for key, part in value.items() if key != "timing"}
            return [timeless(part) for part in value] if isinstance(value, list) else value

        return json.dumps(timeless(answer)).encode()


class CliScore(Cli):
    """A stream; it goes on for ten attempts in a row without an answer."""

    name = "laplace score"
    attempts = 10 * (BATCHES + 1)

    def seconds(self) -> float:
        return 10 * self.world.patience * (BATCHES + 1)

    def call(self, address: str) -> bytes:
        return self.run(address, "score", MODEL, "--input", self.inputs, "--batch-size", "3", "--output", "-")


CALLERS: tuple[type[Caller], ...] = (Predict, Stream, AsyncStream, Infer, CliPredict, CliScore)


def code_of(error: Exception) -> str:
    if isinstance(error, LaplaceError):
        return error.code.name
    if isinstance(error, grpc.RpcError):
        return error.code().name
    if isinstance(error, CliError) and error.args[0] == 1 and error.args[1].strip():
        return "exit 1"
    return ""


def repeat(caller: Caller, proxy: ChaosProxy, calls: int, expected: bytes, clean: bool) -> Iterator[Outcome]:
    """Makes calls one after another; the outcome so far, after each. `clean`: only an unreachable server may be reported,
    because nobody is told anything that was changed on the way."""
    outcome = Outcome()
    client = None
    for number in range(calls):
        if client is None or number % CALLS_PER_CLIENT == 0:
            close(client)
            client = caller.connect(proxy.address)
        flips, tainted = proxy.counts["corrupt"], proxy.corrupted_now()
        begin = time.monotonic()
        outcome.calls += 1
        outcome.attempts_allowed += caller.attempts
        try:
            bits = caller.call(client)
        except Exception as error:
            code = code_of(error)
            if isinstance(error, CliError) and error.args[0] < 0 and not clean:
                outcome.crashes += 1
                continue
            outcome.errors[code or type(error).__name__] += 1
            if not code:
                outcome.problems.append(f"{caller.name}: an error that is none of the client's: {error!r}")
            elif clean and isinstance(error, LaplaceError) and error.code not in UNREACHED:
                outcome.problems.append(f"{caller.name}: {error!r} of a network that changes nothing")
        else:
            outcome.answers += 1
            if bits != expected:
                outcome.wrong += 1
                outcome.wrong_without_cause += not tainted and proxy.counts["corrupt"] == flips
        took = time.monotonic() - begin
        outcome.slowest = max(outcome.slowest, took)
        if took > caller.seconds() + caller.world.margin:
            outcome.problems.append(f"{caller.name}: a call took {took:.1f} s, it had {caller.seconds():.1f} s")
        outcome.connections = proxy.connections
        outcome.faults = proxy.counts
        yield outcome
    close(client)


@dataclass(frozen=True)
class Task:
    """What a caller is to do. `calls` one after another, through a proxy with this fault and seed."""

    kind: type[Caller]
    world: World
    fault: str
    seed: int
    calls: int
    expected: bytes
    clean: bool

    def run(self) -> Iterator[Outcome]:
        gap = MEAN_GAP * (3 if self.world.ca_cert else 1)  # a handshake alone is some thousand bytes
        with ChaosProxy(self.world.address, self.fault, self.seed, mean_gap=gap) as proxy:
            yield from repeat(self.kind(self.world), proxy, self.calls, self.expected, self.clean)


def run_here(task: Task) -> Outcome:
    return list(task.run())[-1]


def _send(task: Task, pipe: Any) -> None:
    for outcome in task.run():
        pipe.send(outcome)
    pipe.send(None)


def run_apart(task: Task) -> Outcome:
    """In a process of its own, and again in another for the calls that are left if that crashes: what is told over plain
    text can end a process in gRPC 1.51 itself."""
    total = Outcome()
    context = multiprocessing.get_context("spawn")
    while total.calls < task.calls:
        ours, theirs = context.Pipe(duplex=False)
        left = replace(task, calls=task.calls - total.calls, seed=task.seed + 1000 * total.crashes)
        process = context.Process(target=_send, args=(left, theirs))
        process.start()
        theirs.close()
        last, ended = Outcome(), False
        try:
            while (received := ours.recv()) is not None:
                last = received
            ended = True
        except EOFError:
            pass
        process.join()
        add(total, last)
        if not ended:
            total.crashes += 1
            total.calls += 1  # the one that it was at
            total.attempts_allowed += task.kind.attempts
            if process.exitcode is None or process.exitcode >= 0:
                total.problems.append(f"{task.kind.name}: its process ended with {process.exitcode}")
    return total


def add(total: Outcome, more: Outcome) -> None:
    for name in ("calls", "answers", "wrong", "wrong_without_cause", "crashes", "attempts_allowed", "connections"):
        setattr(total, name, getattr(total, name) + getattr(more, name))
    total.errors.update(more.errors)
    total.faults.update(more.faults)
    total.problems.extend(more.problems)
    total.slowest = max(total.slowest, more.slowest)


def close(client: Any) -> None:
    if hasattr(client, "close"):
        client.close()
