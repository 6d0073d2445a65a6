"""A line of progress on a terminal; nothing anywhere else."""

from __future__ import annotations

import sys
from typing import TextIO

from .types import Operation

_WIDTH = 30


class ProgressBar:
    """Shows operations as they are reported: `client.fit(..., progress=True)` makes one."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._on = self._stream.isatty()

    def __call__(self, operation: Operation) -> None:
        if not self._on:
            return
        self._stream.write("\r\x1b[K" + line(operation) + ("\n" if operation.finished else ""))
        self._stream.flush()


def line(operation: Operation) -> str:
    if operation.finished:
        return f"{operation.description}: {operation.state}"
    full = round(_WIDTH * min(max(operation.fraction, 0.0), 1.0))
    left = f", {operation.seconds_left:.0f} s left" if operation.seconds_left > 0 else ""
    bar = "#" * full + "-" * (_WIDTH - full)
    return f"{operation.description} [{bar}] {operation.fraction:4.0%} {operation.phase}{left}"
