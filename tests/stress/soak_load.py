"""Mixed load on a server for hours: what callers do, right and wrong, at a bounded pace.

Every caller is a thread with a seed of its own. What it does must end as expected: an answer, or the error that
belongs to it; anything else is a problem, and ends the caller.
"""

from __future__ import annotations

import random
import threading
import urllib.request
from collections import Counter
from dataclasses import dataclass, field
from typing import Callable

import grpc
import numpy as np
import oip
from laplace_client import Client, _api, _requests
from laplace_client.errors import LaplaceError
from server import MODEL, NO_RETRY, rows
from workload import TWIN

IMAGES = "fashion_cnn"
POSTERIORS_KEPT = 4  # of MODEL; the oldest that is not active goes
UPLOADS = 40  # different data sets, sent again and again
FULL = grpc.StatusCode.RESOURCE_EXHAUSTED  # always a right answer to much load


@dataclass
class Tally:
    """By caller: calls, and outcomes that are not plain answers."""

    calls: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, caller: str, refused: str = "") -> None:
        with self.lock:
            self.calls[caller] += 1
            if refused:
                self.refused[f"{caller}: {refused}"] += 1


def pixels(count: int, chance: random.Random) -> np.ndarray:
    return np.random.default_rng(chance.randrange(1 << 30)).integers(0, 256, (count, 1, 28, 28), dtype=np.uint8)


class SoakLoad:
    """Runs from `start` to `stop` against the server at `address`, whose metrics are at `http_address`."""

    def __init__(self, address: str, http_address: str, train: str, image_train: str, seed: int, fit_seconds: float) -> None:
        self.tally = Tally()
        self._address = address
        self._http_address = http_address
        self._train = train
        self._image_train = image_train
        self._fit_seconds = fit_seconds
        self._client = Client(address, NO_RETRY)
        self._channel = grpc.insecure_channel(address)
        self._end = threading.Event()
        # Caller and the longest pause between its calls, in seconds.
        callers: list[tuple[Callable[[random.Random], None], float]] = [
            (self._predict, 0.2), (self._predict_images, 0.6), (self._score, 0.3), (self._stream, 0.8),
            (self._infer, 0.3), (self._wrong, 0.2), (self._cancel, 0.2), (self._hurry, 0.2), (self._connect, 1.0),
            (self._reload, 2.0), (self._activate, 2.0), (self._upload, 2.0), (self._look, 1.0), (self._scrape, 4.0),
            (self._fit, 0.0)]
        self.names = [caller.__name__[1:] for caller, _ in callers]
        self._threads = [threading.Thread(target=self._repeat, args=(caller, pause, random.Random(f"{seed} {caller.__name__}")))
                         for caller, pause in callers]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join(120)
            if thread.is_alive():
                self.tally.problems.append("a caller does not end")
        self._client.close()
        self._channel.close()

    def _repeat(self, caller: Callable[[random.Random], None], pause: float, chance: random.Random) -> None:
        name = caller.__name__[1:]
        while not self._end.wait(chance.uniform(0, pause)):
            try:
                caller(chance)
                self.tally.count(name)
            except LaplaceError as error:
                self.tally.count(name, error.code.name)
                if error.code != FULL:
                    self.tally.problems.append(f"{name}: {error.code.name}: {error}")
                    return
            except Exception as error:  # a thread must not die silently
                self.tally.problems.append(f"{name}: {error!r}")
                return

    def _expect(self, call: Callable[[], object], *codes: grpc.StatusCode) -> None:
        """The call fails with one of these codes."""
        try:
            call()
        except LaplaceError as error:
            if error.code in codes:
                return
            raise
        raise AssertionError(f"an answer where {codes} was due")

    # Right

    def _predict(self, chance: random.Random) -> None:
        mode = chance.choice(["auto", "exact", "sampled", "last_layer", "top_classes"])
        plain = mode in ("auto", "exact")
        self._client.predict(
            MODEL, rows(chance.randrange(1, 65), chance.randrange(1000))[0], variance_mode=mode,
            link_approx=chance.choice(["probit", "mc", "laplace_bridge", "mean_field"]) if plain else None,
            prior_precision=chance.choice([None, 0.5, 5.0]), return_covariance=plain and chance.random() < 0.5,
            return_joint_covariance=plain and chance.random() < 0.1, return_samples=chance.choice([0, 0, 3]) if plain else 0)

    def _predict_images(self, chance: random.Random) -> None:
        images = pixels(chance.choice([1, 2, 5, 9, 17]), chance)
        self._client.predict(IMAGES, images if chance.random() < 0.5 else images.astype(np.float32) / 255)

    def _score(self, chance: random.Random) -> None:
        names = chance.choice([None, ["msp"], ["energy", "entropy", "gen"], ["variance", "mutual_information"]])
        if chance.random() < 0.3:
            self._client.score(IMAGES, pixels(4, chance), ood_scores=names)
        else:
            self._client.score(MODEL, rows(chance.randrange(1, 65), chance.randrange(1000))[0], ood_scores=names)

    def _stream(self, chance: random.Random) -> None:
        """To its end, or left in the middle."""
        batches = [rows(chance.randrange(1, 33), chance.randrange(1000))[0] for _ in range(chance.randrange(1, 12))]
        stop_after = chance.choice([len(batches), len(batches), chance.randrange(len(batches) + 1)])
        stream = chance.choice([self._client.predict_stream, self._client.score_stream])(MODEL, batches)
        for _ in range(stop_after):
            next(stream)
        del stream

    def _infer(self, chance: random.Random) -> None:
        oip.infer(self._channel, MODEL, rows(chance.randrange(1, 33), chance.randrange(1000))[0], 60)

    # Wrong, impatient, gone

    def _wrong(self, chance: random.Random) -> None:
        invalid, missing = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
        x = rows(3, 1)[0]
        broken = x.copy()
        broken[1, 2] = np.nan
        call, code = chance.choice([
            (lambda: self._client.predict(MODEL, x[:, :3]), invalid),
            (lambda: self._client.predict(MODEL, broken), invalid),
            (lambda: self._client.predict(MODEL, np.zeros((2000, 4), np.float32)), invalid),
            (lambda: self._client.predict(MODEL, x, prior_precision=-1.0), invalid),
            (lambda: self._client.score(MODEL, x, ood_scores=["nonsense"]), invalid),
            (lambda: self._client.predict(f"no-model-{chance.randrange(1 << 30)}", x), missing),
            (lambda: self._client.get_posterior(MODEL, posterior_id=f"p-{chance.randrange(1 << 30)}"), missing),
            (lambda: self._client.get_operation(f"op-{chance.randrange(1 << 30)}"), missing),
            (lambda: list(self._client.predict_stream(MODEL, [x, x[:, :2]])), invalid)])
        self._expect(call, code)

    def _call(self, x: np.ndarray, timeout: float) -> grpc.Future:
        request = _requests.predict(MODEL, x, {"ood_scores": None})
        method = _api.PREDICT
        return self._channel.unary_unary(method.path, method.serialize, method.parse).future(request, timeout=timeout)

    def _cancel(self, chance: random.Random) -> None:
        call = self._call(rows(chance.randrange(1, 1000), 5)[0], 60)
        self._end.wait(chance.uniform(0, 0.02))
        call.cancel()

    def _hurry(self, chance: random.Random) -> None:
        call = self._call(rows(chance.randrange(1, 1000), 5)[0], 0.001)
        error = call.exception()
        if error is not None and error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, FULL):
            raise AssertionError(f"a deadline of 1 ms: {error.code()}: {error.details()}")

    def _connect(self, chance: random.Random) -> None:
        with Client(self._address, NO_RETRY) as client:
            client.predict(MODEL, rows(2, chance.randrange(1000))[0])

    # Administration

    def _reload(self, chance: random.Random) -> None:
        version = chance.choice([1, 2])
        self._client.load_model(TWIN, version)
        if chance.random() < 0.5:
            self._client.predict(TWIN, rows(3, 1)[0], version=version)
        self._client.unload_model(TWIN, version)

    def _activate(self, chance: random.Random) -> None:
        known = [posterior.id for posterior in self._client.list_posteriors(MODEL)]
        try:
            self._client.activate_posterior(MODEL, chance.choice(known))
        except LaplaceError as error:
            if error.code != grpc.StatusCode.NOT_FOUND:  # deleted since
                raise

    def _upload(self, chance: random.Random) -> None:
        """Sends all rows even if the server has them."""
        data = _requests.upload(*rows(200, seed=5000 + chance.randrange(UPLOADS)))
        method = _api.UPLOAD_DATASET
        call = self._channel.stream_unary(method.path, method.serialize, method.parse)
        messages = (message for _, message in data.messages(1000))
        if chance.random() < 0.2:  # not to its end
            messages = (message for message in list(messages)[:-1])
            try:
                call(messages, timeout=60)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.INVALID_ARGUMENT, FULL):
                    return
                raise
            raise AssertionError("half an upload was acknowledged")
        call(messages, timeout=60)

    def _look(self, chance: random.Random) -> None:
        chance.choice([self._client.list_models, self._client.list_operations, self._client.health,
                       lambda: self._client.get_model(MODEL), lambda: self._client.get_posterior(MODEL)])()

    def _scrape(self, chance: random.Random) -> None:
        path = chance.choice(["metrics", "metrics", "v2/health/ready", "v2/health/live"])
        with urllib.request.urlopen(f"http://{self._http_address}/{path}", timeout=60) as answer:
            answer.read()

    def _fit(self, chance: random.Random) -> None:
        """A new posterior, sometimes cancelled on the way; then the oldest of those that are too many goes."""
        if self._end.wait(chance.uniform(0, 2 * self._fit_seconds)):
            return
        if chance.random() < 0.1:
            operation = self._client.start_fit(IMAGES, self._image_train, keep_inactive=True, rank=4,
                                               direction_batch_size=100, curvature_batch_size=100)
            self._client.cancel_operation(operation.id)
            for _ in self._client.watch_operation(operation.id):
                pass
            return
        structure = chance.choice(["low_rank", "low_rank", "kfac", "last_layer"])
        options = {} if structure == "last_layer" else {"direction_batch_size": 100, "curvature_batch_size": 100}
        if structure == "low_rank":
            options["rank"] = chance.randrange(1, 9)
        self._client.fit(MODEL, self._train, keep_inactive=chance.random() < 0.5, structure=structure,
                         seed=chance.randrange(1 << 30), **options)
        for posterior in self._client.list_posteriors(MODEL)[POSTERIORS_KEPT:]:
            try:
                self._client.delete_posterior(MODEL, posterior.id)
            except LaplaceError as error:
                if error.code != grpc.StatusCode.FAILED_PRECONDITION:  # it is active
                    raise
