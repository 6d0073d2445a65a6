"""Callers of a server, by the Python client as it is: what they got, and how often they had to ask again.

    traffic.py --server HOST:PORT --rows FILE.npy --report FILE [--once | --callers N]

Calls Predict and Score in turn on the same few batches; --once: every one once, in order, else until SIGTERM, with a
stream of rows beside them. The report, FILE.json, counts; FILE.npz holds the lowest and the highest number that each
element of each answer had, by posterior.
"""

from __future__ import annotations

import argparse
import json
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Iterator

import numpy as np
from laplace_client import Client, ClientOptions, LaplaceError, RetryPolicy
from numpy.typing import NDArray

MODEL = "fashion_cnn"
BATCHES = 6
# A caller waits so long between its calls, and a stream between its batches: load, but no overload.
PAUSE_SECONDS = 0.05


@dataclass(frozen=True)
class CountingPolicy(RetryPolicy):
    """The client's own policy; notes every repetition."""

    repeated: list[str] = field(default_factory=list)

    def wait(self, error: LaplaceError, failures: int) -> float | None:
        pause = super().wait(error, failures)
        if pause is not None:
            self.repeated.append(str(error))
        return pause


@dataclass
class Range:
    count: int
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Record:
    """What happened. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ranges: dict[str, Range] = {}
        self.calls: Counter[str] = Counter()
        self.slowest = 0.0
        self.failures: list[str] = []

    def answered(self, call: str, kind: str, batch: int, answer: object, seconds: float) -> None:
        numbers = [np.asarray(getattr(answer, name)) for name in ("mean", "variance", "epistemic") if kind == "predict"]
        for score in answer.ood.values():  # type: ignore[attr-defined]
            numbers += [score.values, score.is_ood]
        flat = np.concatenate([np.asarray(n, np.float64).ravel() for n in numbers])
        key = f"{answer.posterior_id}/{kind}/{batch}"  # type: ignore[attr-defined]
        with self._lock:
            self.calls[call] += 1
            self.slowest = max(self.slowest, seconds)
            known = self._ranges.setdefault(key, Range(0, flat, flat))
            known.count += 1
            known.low = np.minimum(known.low, flat)
            known.high = np.maximum(known.high, flat)

    def failed(self, call: str, error: Exception) -> None:
        with self._lock:
            self.failures.append(f"{call}: {error}")

    def write(self, path: str, repeated: dict[str, list[str]]) -> None:
        answers = Counter[str]()
        for key, r in self._ranges.items():
            answers[key.split("/")[0]] += r.count
        with open(path + ".json", "w", encoding="utf-8") as file:
            json.dump(
                {
                    "calls": self.calls,
                    "failures": self.failures,
                    "repeated": {who: Counter(errors) for who, errors in repeated.items()},
                    "slowest": self.slowest,
                    "posteriors": answers,
                },
                file,
                indent=1,
            )
        arrays = {f"{key}/low": r.low for key, r in self._ranges.items()}
        arrays.update({f"{key}/high": r.high for key, r in self._ranges.items()})
        np.savez(path + ".npz", **arrays)


def make_batches(rows: NDArray[np.generic]) -> list[NDArray[np.generic]]:
    """Of 1 to 4 rows each, none like another."""
    sizes = [1 + i % 4 for i in range(BATCHES)]
    ends = np.cumsum(sizes)
    return [rows[end - size : end] for size, end in zip(sizes, ends)]


class Caller:
    def __init__(self, server: str, rows: NDArray[np.generic]) -> None:
        self.record = Record()
        self.stopped = threading.Event()
        self.unary = CountingPolicy()
        self.stream = CountingPolicy()
        self._batches = make_batches(rows)
        self._client = Client(server, ClientOptions(retry=self.unary))
        self._stream_client = Client(server, ClientOptions(retry=self.stream))

    def call(self, number: int) -> None:
        batch, kind = number // 2 % BATCHES, ("predict", "score")[number % 2]
        ask = self._client.predict if kind == "predict" else self._client.score
        begin = time.monotonic()
        try:
            answer = ask(MODEL, self._batches[batch])
        except LaplaceError as error:
            self.record.failed(kind, error)
        else:
            self.record.answered(kind, kind, batch, answer, time.monotonic() - begin)

    def call_on(self, first: int) -> None:
        number = first
        while not self.stopped.is_set():
            self.call(number)
            number += 1
            self.stopped.wait(PAUSE_SECONDS)

    def stream_on(self) -> None:
        def batches() -> Iterator[NDArray[np.generic]]:
            number = 0
            while not self.stopped.is_set():
                yield self._batches[number % BATCHES]
                number += 1
                self.stopped.wait(PAUSE_SECONDS)

        begin = time.monotonic()
        try:
            for number, answer in enumerate(self._stream_client.predict_stream(MODEL, batches())):
                now = time.monotonic()
                self.record.answered("stream", "predict", number % BATCHES, answer, now - begin)
                begin = now
        except LaplaceError as error:
            self.record.failed("stream", error)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--server", required=True)
    parser.add_argument("--rows", required=True)
    parser.add_argument("--report", required=True)
    parser.add_argument("--once", action="store_true")
    parser.add_argument("--callers", type=int, default=4)
    arguments = parser.parse_args()

    caller = Caller(arguments.server, np.load(arguments.rows))
    signal.signal(signal.SIGTERM, lambda *_: caller.stopped.set())
    if arguments.once:
        for number in range(2 * BATCHES):
            caller.call(number)
    else:
        threads = [threading.Thread(target=caller.call_on, args=(i,)) for i in range(arguments.callers)]
        threads.append(threading.Thread(target=caller.stream_on))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    caller.record.write(
        arguments.report, {"unary": caller.unary.repeated, "stream": caller.stream.repeated}
    )


if __name__ == "__main__":
    main()
