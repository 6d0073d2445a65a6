"""Peers that end or fall silent in the middle of a call, as a proxy may whose server is gone: no call hangs."""

from __future__ import annotations

import asyncio
import pathlib
import socket
import sys
import threading
import time
from typing import Any, Callable, Iterator

import grpc
import numpy as np
import pytest

from laplace_client import AsyncClient, Client, ClientOptions
from laplace_client.errors import DeadlineExceededError, LaplaceError, UnavailableError
from laplace_client.options import RetryPolicy, Timeouts

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "tests" / "stress"))
import raw_http2 as h2  # noqa: E402

# Answers to a call, of the first headers on.
BEGIN = h2.header(":status", "200") + h2.header("content-type", "application/grpc")
PATIENCE = 2.0
AT_ONCE = 15.0  # seconds on a busy machine; a hang would be a minute or ten
X = np.zeros((2, 4), np.float32)


class Peer:
    """Takes connections and answers the headers of every call with `answer(stream)`."""

    def __init__(self, answer: Callable[[int], bytes]) -> None:
        self._answer = answer
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self._listener.getsockname()[1]
        self.calls = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            h2.take(connection, len(h2.PREFACE))
            connection.sendall(h2.settings({}))
            while (frame := h2.next_frame(connection)) is not None:
                kind, flags, stream, payload = frame
                if kind == h2.SETTINGS and not flags & h2.ACK:
                    connection.sendall(h2.frame(h2.SETTINGS, h2.ACK, 0))
                elif kind == h2.PING and not flags & h2.ACK:
                    connection.sendall(h2.frame(h2.PING, h2.ACK, 0, payload))
                elif kind == h2.HEADERS:
                    self.calls += 1
                    connection.sendall(self._answer(stream))
        except OSError:
            pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def peer(request: Any) -> Iterator[Peer]:
    running = Peer(request.param)
    yield running
    running.close()


def ends_without_status(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, BEGIN) + h2.frame(h2.DATA, h2.END_STREAM, stream)


def trailers_without_status(stream: int) -> bytes:
    return begins_and_stops(stream) + h2.frame(
        h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.header("x", "y"))


def says_nothing(stream: int) -> bytes:
    return b""


def begins_and_stops(stream: int) -> bytes:
    return h2.frame(h2.HEADERS, h2.END_HEADERS, stream, BEGIN)


def no_message(stream: int) -> bytes:
    """A message of 4 bytes that protobuf cannot read, and a status."""
    body = h2.frame(h2.DATA, 0, stream, b"\0\0\0\0\4\xff\xff\xff\xff")
    return begins_and_stops(stream) + body + h2.frame(
        h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.header("grpc-status", "0"))


def ok_without_message(stream: int) -> bytes:
    return begins_and_stops(stream) + h2.frame(
        h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.header("grpc-status", "0"))


def strange_tensor(stream: int) -> bytes:
    """A PredictResponse whose mean is of a type that there is none of."""
    message = bytes([4 << 3 | 2, 2, 1 << 3, 99])  # mean (4): dtype (1): 99
    body = h2.frame(h2.DATA, 0, stream, b"\0\0\0\0" + bytes([len(message)]) + message)
    return begins_and_stops(stream) + body + h2.frame(
        h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, stream, h2.header("grpc-status", "0"))


OPTIONS = ClientOptions(
    retry=RetryPolicy(max_attempts=3, initial_backoff=0.01),
    timeouts=Timeouts(call=PATIENCE, predict=PATIENCE),
)


def endless() -> Iterator[np.ndarray]:
    while True:
        yield X


def predict(target: str, batches: Any) -> None:
    with Client(target, OPTIONS) as client:
        if batches is None:
            client.predict("net", X)
        else:
            list(client.predict_stream("net", batches))


def predict_async(target: str, batches: Any) -> None:
    async def run() -> None:
        async with AsyncClient(target, OPTIONS) as client:
            if batches is None:
                await client.predict("net", X)
            else:
                async for _ in client.predict_stream("net", batches):
                    pass

    asyncio.run(run())


def error_of(call: Callable[[str, Any], None], target: str, batches: Any) -> LaplaceError:
    begin = time.monotonic()
    with pytest.raises(LaplaceError) as raised:
        call(target, batches)
    assert time.monotonic() - begin < AT_ONCE
    return raised.value


BOTH = pytest.mark.parametrize("call", [predict, predict_async])


@BOTH
@pytest.mark.parametrize("peer", [ends_without_status, trailers_without_status], indirect=True)
def test_an_end_without_status_is_tried_again_and_then_reported(call: Any, peer: Peer) -> None:
    for batches in (None, [X]):
        peer.calls = 0
        assert isinstance(error_of(call, peer.address, batches), UnavailableError)
        assert peer.calls == OPTIONS.retry.max_attempts


@BOTH
@pytest.mark.parametrize("peer", [ends_without_status], indirect=True)
def test_a_stream_that_has_more_to_send_does_not_wait_for_ever(call: Any, peer: Peer) -> None:
    error_of(call, peer.address, endless())


@BOTH
@pytest.mark.parametrize("peer", [says_nothing, begins_and_stops], indirect=True)
def test_silence_ends_with_the_deadline_of_an_answer(call: Any, peer: Peer) -> None:
    for batches in (None, [X], endless()):
        error = error_of(call, peer.address, batches)
        assert isinstance(error, DeadlineExceededError), error
        assert f"no answer from {peer.address}" in str(error) and "within 2 s" in str(error)
        if batches is not None:
            assert "rows 0 to 1" in str(error)


@BOTH
@pytest.mark.parametrize("peer", [no_message, ok_without_message, strange_tensor], indirect=True)
def test_an_answer_that_is_none_is_an_error_of_the_call(call: Any, peer: Peer) -> None:
    error = error_of(call, peer.address, None)
    assert error.code == grpc.StatusCode.INTERNAL, error
    assert peer.calls == 1
