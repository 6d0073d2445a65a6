"""A peer that speaks just as much HTTP/2 (RFC 9113) as it wants to, which no gRPC library does: to be silent in the middle,
to never read, or to send headers without end."""

from __future__ import annotations

import socket
import struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def settings(values: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", key, value) for key, value in values.items()))


def header(name: str, value: str) -> bytes:
    """A field in HPACK (RFC 7541): literal, not indexed, not Huffman-coded; each below 127 bytes."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


def call_headers(path: str) -> bytes:
    fields = {":method": "POST", ":scheme": "http", ":path": path, ":authority": "localhost",
              "content-type": "application/grpc", "te": "trailers"}
    return b"".join(header(name, value) for name, value in fields.items())


def message(body: bytes) -> bytes:
    """A message of gRPC as it goes into DATA frames."""
    return struct.pack(">BI", 0, len(body)) + body


def unary_call(stream: int, path: str, body: bytes) -> bytes:
    """The frames of a whole call of gRPC; the message has to fit a frame."""
    return frame(HEADERS, END_HEADERS, stream, call_headers(path)) + frame(DATA, END_STREAM, stream, message(body))


def connect(address: str, source: str = "127.0.0.1") -> socket.socket:
    """`source`: from which of this machine's addresses."""
    host, port = address.rsplit(":", 1)
    return socket.create_connection((host, int(port)), timeout=60, source_address=(source, 0))


def take(connection: socket.socket, count: int) -> bytes:
    """Exactly so many bytes; fewer if the peer has ended."""
    got = b""
    while len(got) < count:
        more = connection.recv(count - len(got))
        if not more:
            break
        got += more
    return got


def next_frame(connection: socket.socket) -> tuple[int, int, int, bytes] | None:
    """(kind, flags, stream, payload); None if the peer has ended."""
    head = take(connection, 9)
    if len(head) < 9:
        return None
    length = int.from_bytes(head[:3], "big")
    return head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, take(connection, length)
