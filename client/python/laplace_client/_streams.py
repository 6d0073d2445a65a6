"""What a stream of rows remembers, for both clients: which batches have no answer yet, and how to take a
broken stream up again at the first of them, with the version, the posterior and the mode of the answers
before."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Any

import grpc
from numpy.typing import ArrayLike

from . import _api
from .arrays import as_inputs, to_tensor
from .errors import DeadlineExceededError, LaplaceError, OverloadedError, make_error, malformed
from .options import RetryPolicy

# Batches that are under way at once: one is computed while the next travels.
WINDOW = 2
# Seconds that one gRPC stream lasts at most; longer ones go on in another.
LIFETIME = 600.0

# Seconds after which a server under pressure ends an answer that its client has not taken.
UNTAKEN = 2.0
# What comes from a source of batches that has no more.
END = object()

_REQUEST = _api.message("laplace.v1.PredictStreamRequest")
_START = _api.message("laplace.v1.PredictStreamStart")
_AUTO = _api.enum_value("VarianceMode", "auto")
_SAMPLED = _api.enum_value("VarianceMode", "sampled")


class SourceFailed(Exception):
    """Carries an error of the caller's batches past the handlers of the server's, which it may look like."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


class StreamState:
    """`kind` is "predict" or "score", `work` its request without inputs."""

    def __init__(self, kind: str, work: Any, policy: RetryPolicy) -> None:
        self._kind = kind
        self._work = work
        self._policy = policy
        self._posterior_id = ""
        self._first_row = 0
        self._pending: deque[tuple[int, Any]] = deque()
        self._failures = 0
        self._answered_here = False  # by the gRPC stream that is open
        self._opened = 0.0  # on the monotonic clock

    @property
    def has_room(self) -> bool:
        return len(self._pending) < WINDOW

    @property
    def waits(self) -> bool:
        return bool(self._pending)

    def add(self, batch: ArrayLike) -> Any:
        """The message of the next batch."""
        rows = as_inputs(batch)
        message = _REQUEST(inputs=to_tensor(rows))
        self._pending.append((len(rows), message))
        return message

    def opening(self) -> list[Any]:
        """The first messages of a new gRPC stream."""
        self._answered_here = False
        self._opened = time.monotonic()
        start = _START(posterior_id=self._posterior_id, first_row=self._first_row)
        getattr(start, self._kind).CopyFrom(self._work)
        return [_REQUEST(start=start)] + [message for _, message in self._pending]

    def answered(self, response: Any) -> Any:
        """The answer to the oldest batch."""
        if (
            response is None  # asyncio's gRPC says so that it is no message
            or response.WhichOneof("answer") != self._kind
            or response.first_row != self._first_row
        ):
            raise malformed(f"expected a {self._kind} from row {self._first_row}")
        rows, _ = self._pending.popleft()
        answer = getattr(response, self._kind)
        if self._first_row == 0:
            self._keep(answer)
        self._first_row += rows
        self._failures = 0
        self._answered_here = True
        return answer

    def _keep(self, answer: Any) -> None:
        self._posterior_id = answer.posterior_id
        self._work.version = answer.version
        if self._work.variance_mode in (0, _AUTO):
            self._work.variance_mode = answer.variance_mode
            draws = answer.variance_mode in (0, _SAMPLED)
            if not draws and not getattr(self._work, "return_samples", 0):
                self._work.seed = 0  # which would mean nothing

    def wait_after(self, error: LaplaceError) -> float | None:
        """Seconds until the next try; None: give up."""
        if isinstance(error, DeadlineExceededError) and self._answered_here:
            return 0.0  # the end of its lifetime
        self._failures += 1
        age = time.monotonic() - self._opened
        over = isinstance(error, DeadlineExceededError) and age >= LIFETIME
        untaken = isinstance(error, OverloadedError) and error.retry_delay is None and age >= UNTAKEN
        if over or untaken:
            # It happened while the caller's batches were waited for, or the caller worked on an answer.
            error = make_error(grpc.StatusCode.UNAVAILABLE, str(error))
        return self._policy.wait(error, self._failures)

    def silent(self, target: str, seconds: float) -> LaplaceError:
        """The error of an answer that did not come in `seconds`."""
        rows = self._pending[0][0] if self._pending else 1
        return make_error(
            grpc.StatusCode.DEADLINE_EXCEEDED,
            f"no answer from {target} to rows {self._first_row} to {self._first_row + rows - 1} "
            f"within {seconds:g} s",
        )


class Patience:
    """Cancels a call when one of its answers takes longer than `seconds`: the deadline of a stream is far away, and
    a peer may leave it open and say nothing more. `begin` and `end` stand around every wait for an answer."""

    def __init__(self, call: Any, seconds: float) -> None:
        self.over = False
        self._call = call
        self._seconds = seconds
        self._limit: float | None = None  # on the monotonic clock; None while nobody waits
        self._closed = threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def begin(self) -> None:
        self._limit = time.monotonic() + self._seconds

    def end(self) -> None:
        self._limit = None

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        # A wait that begins during this one ends after it, so nobody has to wake this thread.
        pause = self._seconds
        while not self._closed.wait(pause):
            limit = self._limit
            pause = self._seconds if limit is None else limit - time.monotonic()
            if pause <= 0:
                self.over = True
                self._call.cancel()
                return
