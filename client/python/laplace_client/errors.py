"""Errors of the client: every failed call raises a LaplaceError.

Codes that a program may want to tell apart have classes of their own; those that Python has a name for
are that too, so `except TimeoutError` and `except ConnectionError` work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from . import _api

if TYPE_CHECKING:
    from .types import Operation

_DETAILS = "grpc-status-details-bin"
_STATUS = _api.message("google.rpc.Status")
_BAD_REQUEST = _api.message("google.rpc.BadRequest")
_RETRY_INFO = _api.message("google.rpc.RetryInfo")


class LaplaceError(Exception):
    """A call failed.

    code: the gRPC status code.
    message: what the server (or gRPC) said.
    field: path of the request field that was wrong ("inputs.shape"); empty if it is about none.
    retry_delay: seconds after which the server wants to be asked again; None if it did not say.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        field: str = "",
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(f"{message} ({code.name})")
        self.code = code
        self.message = message
        self.field = field
        self.retry_delay = retry_delay


class InvalidArgumentError(LaplaceError, ValueError):
    """INVALID_ARGUMENT: the request was wrong, see `field`."""


class NotFoundError(LaplaceError, LookupError):
    """NOT_FOUND: no such model, posterior, data set or operation."""


class FailedPreconditionError(LaplaceError):
    """FAILED_PRECONDITION: not now, such as a model without a posterior."""


class OverloadedError(LaplaceError):
    """RESOURCE_EXHAUSTED: a queue or limit is full; `retry_delay` says when to come back, if it helps."""


class UnavailableError(LaplaceError, ConnectionError):
    """UNAVAILABLE: the server cannot be reached, is shutting down, or was gone before it had answered."""


class DeadlineExceededError(LaplaceError, TimeoutError):
    """DEADLINE_EXCEEDED: no answer in time."""


class CancelledError(LaplaceError):
    """CANCELLED: the call or the operation was cancelled."""


class AccessError(LaplaceError, PermissionError):
    """UNAUTHENTICATED or PERMISSION_DENIED: no token, or one of a lesser role."""


_CLASSES: dict[grpc.StatusCode, type[LaplaceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceededError,
    grpc.StatusCode.CANCELLED: CancelledError,
    grpc.StatusCode.UNAUTHENTICATED: AccessError,
    grpc.StatusCode.PERMISSION_DENIED: AccessError,
}


def make_error(
    code: grpc.StatusCode, message: str, field: str = "", retry_delay: float | None = None
) -> LaplaceError:
    return _CLASSES.get(code, LaplaceError)(code, message, field, retry_delay)


def malformed(problem: object) -> LaplaceError:
    """Of an answer that no laplaced server gives: it was changed on the way, or somebody else gave it."""
    return make_error(grpc.StatusCode.INTERNAL, f"the server's answer is malformed: {problem}")


def _ended_without_status(code: grpc.StatusCode, message: str) -> bool:
    """A proxy ends a call so when the server behind it is gone in the middle of an answer. If the stream was
    reset, gRPC makes CANCELLED or INTERNAL of it, which a server that means them says with a status; else
    UNKNOWN, which the server never says."""
    if code in (grpc.StatusCode.CANCELLED, grpc.StatusCode.INTERNAL):
        return "RST_STREAM" in message
    return bool(code == grpc.StatusCode.UNKNOWN)


def from_rpc_error(error: Any, target: str, seconds: float | None = None) -> LaplaceError:
    """The error of a failed gRPC call to `target`, to which its caller gave `seconds`."""
    code, message = error.code(), error.details() or ""
    field, retry_delay = "", None
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS:
            continue
        try:
            for detail in _STATUS.FromString(value).details:
                kind = detail.type_url.rsplit("/", 1)[-1]
                if kind == "google.rpc.BadRequest":
                    violations = _BAD_REQUEST.FromString(detail.value).field_violations
                    field = violations[0].field if violations else ""
                elif kind == "google.rpc.RetryInfo":
                    delay = _RETRY_INFO.FromString(detail.value).retry_delay
                    retry_delay = max(0.0, delay.seconds + delay.nanos / 1e9)
        except DecodeError:
            pass  # the code and the message say enough
    if _ended_without_status(code, message):
        code = grpc.StatusCode.UNAVAILABLE
    if code == grpc.StatusCode.UNAVAILABLE:
        unreachable = message.startswith(("failed to connect", "DNS resolution failed"))
        message = (f"no server can be reached at {target}; is laplaced running there? ({message})" if unreachable
                   else f"the server at {target} is unavailable: {message}")
    elif code == grpc.StatusCode.DEADLINE_EXCEEDED and message == "Deadline Exceeded" and seconds is not None:
        message = f"no answer from {target} within {seconds:g} s"
    return make_error(code, message, field, retry_delay)


def from_code(number: int, message: str) -> LaplaceError:
    """The error of an operation that failed with a code of google.rpc.Code."""
    for code in grpc.StatusCode:
        if code.value[0] == number:
            return make_error(code, message)
    return make_error(grpc.StatusCode.UNKNOWN, message)


def operation_result(operation: Operation) -> str:
    """The id of the posterior that an operation has made; raises its error if it failed."""
    if operation.state == "succeeded":
        return operation.posterior_id
    if operation.state == "cancelled":
        raise make_error(grpc.StatusCode.CANCELLED, f"{operation.description} was cancelled")
    raise from_code(
        operation.error_code, f"{operation.description} failed: {operation.error_message}"
    )
