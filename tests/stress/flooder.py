"""A client that sends as much as HTTP/2's flow control permits, and takes note of calls that the server ends."""

from __future__ import annotations

import socket
import struct
import threading

import raw_http2 as h2

FRAME = 16384
PATIENCE = 5.0  # seconds that the server may keep its window shut


class Flooder:
    """Greets with these settings, and reads the connection in a thread of its own until it ends."""

    def __init__(self, connection: socket.socket, settings: dict[int, int]) -> None:
        self.sent = 0  # bytes of data
        self._connection = connection
        self._changed = threading.Condition()
        self._window = 65535  # of the connection
        self._initial = 65535
        self._windows: dict[int, int] = {}  # of calls that were begun here, until they end
        self._ended: set[int] = set()
        self._gone = False
        self._writing = threading.Lock()
        self.send(h2.PREFACE + h2.settings(settings))
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def ended(self) -> int:
        """Calls that the server has ended."""
        return len(self._ended)

    def send(self, frames: bytes) -> bool:
        """Whole frames. False if the connection has ended."""
        try:
            with self._writing:
                self._connection.sendall(frames)
        except OSError:
            return False
        return True

    def call(self, stream: int, path: str) -> None:
        with self._changed:
            self._windows[stream] = self._initial
        self.send(h2.frame(h2.HEADERS, h2.END_HEADERS, stream, h2.call_headers(path)))

    def data(self, stream: int, body: bytes, last: bool = False) -> bool:
        """`last` ends the client's side. False if the connection has ended or stays shut; a call that was ended is left at that."""
        while body:
            with self._changed:
                open_again = self._changed.wait_for(
                    lambda: self._gone or stream not in self._windows or min(self._window, self._windows[stream]) > 0, PATIENCE)
                if self._gone or not open_again:
                    return False
                if stream not in self._windows:
                    return True
                size = min(FRAME, len(body), self._window, self._windows[stream])
                self._window -= size
                self._windows[stream] -= size
            flags = h2.END_STREAM if last and size == len(body) else 0
            if not self.send(h2.frame(h2.DATA, flags, stream, body[:size])):
                return False
            self.sent += size
            body = body[size:]
        return True

    def _read(self) -> None:
        try:
            self._connection.settimeout(None)
            while (frame := h2.next_frame(self._connection)) is not None:
                with self._changed:
                    self._take(*frame)
                    self._changed.notify_all()
        except OSError:
            pass
        with self._changed:
            self._gone = True
            self._changed.notify_all()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        if kind == h2.WINDOW_UPDATE:
            if stream == 0:
                self._window += int.from_bytes(payload, "big")
            elif stream in self._windows:
                self._windows[stream] += int.from_bytes(payload, "big")
        elif kind == h2.SETTINGS and not flags & h2.ACK:
            for key, value in struct.iter_unpack(">HI", payload):
                if key == h2.INITIAL_WINDOW_SIZE:
                    for other in self._windows:
                        self._windows[other] += value - self._initial
                    self._initial = value
            self.send(h2.frame(h2.SETTINGS, h2.ACK, 0))
        elif kind == h2.PING and not flags & h2.ACK:
            self.send(h2.frame(h2.PING, h2.ACK, 0, payload))
        elif kind == h2.RST_STREAM or (kind in (h2.HEADERS, h2.DATA) and flags & h2.END_STREAM):
            self._ended.add(stream)
            self._windows.pop(stream, None)
