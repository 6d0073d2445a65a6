"""How a client connects, and what it does when a call fails. Plain values."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field

import grpc

from .errors import LaplaceError, OverloadedError, UnavailableError

DEFAULT_TARGET = "127.0.0.1:8033"


@dataclass(frozen=True)
class RetryPolicy:
    """Calls that may be repeated are, on UNAVAILABLE with growing pauses, and on RESOURCE_EXHAUSTED if
    the server said when to come back, never earlier than that. 1 attempt turns retries off."""

    max_attempts: int = 4
    initial_backoff: float = 0.1  # seconds
    max_backoff: float = 5.0
    multiplier: float = 2.0

    def wait(self, error: LaplaceError, failures: int) -> float | None:
        """Seconds to wait after so many failures in a row; None: give up."""
        told = isinstance(error, OverloadedError) and error.retry_delay is not None
        if failures >= self.max_attempts or not (told or isinstance(error, UnavailableError)):
            return None
        backoff = self.initial_backoff * self.multiplier ** (failures - 1)
        pause = min(backoff, self.max_backoff) * random.uniform(0.5, 1.0)
        return pause + (error.retry_delay or 0.0)


@dataclass(frozen=True)
class Timeouts:
    """Seconds that calls may take, with all their attempts."""

    call: float = 10.0  # lists, descriptions, activation
    load: float = 120.0  # loading a model; starting a fit, which reads its data sets
    predict: float = 60.0  # of one request, and of each answer of a stream, which may be as long as it likes
    upload: float = 900.0
    operation: float = 24 * 3600.0  # following a fit; the fit itself goes on


@dataclass(frozen=True)
class Tls:
    """An encrypted connection; paths are of PEM files, empty ones mean the system's or none."""

    ca_cert: str = ""
    client_cert: str = ""
    client_key: str = ""
    server_name: str = ""  # in the server's certificate, if it is not that of the target


@dataclass(frozen=True)
class ClientOptions:
    """token: shown with every call; refused without TLS unless the server is on this machine."""

    token: str = field(default="", repr=False)
    tls: Tls | None = None
    timeouts: Timeouts = Timeouts()
    retry: RetryPolicy = RetryPolicy()
    upload_chunk_bytes: int = 256 * 1024
    max_receive_bytes: int = 64 * 1024 * 1024

    @staticmethod
    def from_environment() -> ClientOptions:
        """Token and TLS from the variables that the command line reads too: LAPLACE_TOKEN_FILE or,
        without one, LAPLACE_TOKEN; LAPLACE_TLS, LAPLACE_CA_CERT, LAPLACE_CLIENT_CERT, LAPLACE_CLIENT_KEY,
        LAPLACE_TLS_SERVER_NAME."""
        env = os.environ.get
        token = env("LAPLACE_TOKEN", "")
        if env("LAPLACE_TOKEN_FILE"):
            with open(env("LAPLACE_TOKEN_FILE", ""), encoding="ascii") as file:
                token = file.read().strip()
        tls = Tls(
            env("LAPLACE_CA_CERT", ""),
            env("LAPLACE_CLIENT_CERT", ""),
            env("LAPLACE_CLIENT_KEY", ""),
            env("LAPLACE_TLS_SERVER_NAME", ""),
        )
        wanted = env("LAPLACE_TLS", "").lower() in ("1", "true", "yes", "on") or tls != Tls()
        return ClientOptions(token=token, tls=tls if wanted else None)


def target_from_environment() -> str:
    return os.environ.get("LAPLACE_SERVER", DEFAULT_TARGET)


def _is_local(target: str) -> bool:
    return target == "localhost" or target.startswith(("unix:", "127.", "localhost:", "[::1]:"))


def _read(path: str) -> bytes | None:
    if not path:
        return None
    with open(path, "rb") as file:
        text = file.read()
    if b"-----BEGIN " not in text:
        raise ValueError(f"{path}: expected a file in PEM form")
    return text


def check(target: str, options: ClientOptions) -> None:
    """ValueError for what cannot work or would not be safe."""
    if not target:
        raise ValueError("target: expected host:port, got an empty text")
    if options.token and options.tls is None and not _is_local(target):
        raise ValueError(
            f"token: expected TLS to {target}, because everybody on the way could read the token; "
            "give tls=Tls(...)"
        )
    if any(not "!" <= c <= "~" for c in options.token):
        raise ValueError("token: expected visible ASCII characters only")
    if options.tls is not None and bool(options.tls.client_cert) != bool(options.tls.client_key):
        raise ValueError("tls: expected both client_cert and client_key, or neither")


def credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(
        _read(tls.ca_cert), _read(tls.client_key), _read(tls.client_cert)
    )


def channel_arguments(options: ClientOptions) -> list[tuple[str, object]]:
    arguments: list[tuple[str, object]] = [
        ("grpc.max_receive_message_length", options.max_receive_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 5000),
        ("grpc.keepalive_time_ms", 30000),
        ("grpc.keepalive_timeout_ms", 20000),
        # gRPC 1.51 ends the process in its own retries when a call ends without a status. RetryPolicy has ours.
        ("grpc.enable_retries", 0),
    ]
    if options.tls is not None and options.tls.server_name:
        arguments.append(("grpc.ssl_target_name_override", options.tls.server_name))
    return arguments


def call_metadata(options: ClientOptions) -> tuple[tuple[str, str], ...]:
    return (("authorization", "Bearer " + options.token),) if options.token else ()
