"""What a process holds: memory, file descriptors, threads. From Linux's /proc."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resources:
    rss_mb: float  # resident: anonymous memory, and pages of files
    anonymous_mb: float  # of it: heap and stacks, which no file gives back
    fds: int
    threads: int

    def __str__(self) -> str:
        return f"{self.rss_mb:.1f} MB, {self.fds} descriptors, {self.threads} threads"


def resources(pid: int) -> Resources:
    status = Path(f"/proc/{pid}/status").read_text()

    def number(key: str) -> int:
        return int(re.search(rf"^{key}:\s+(\d+)", status, re.M).group(1))

    return Resources(number("VmRSS") / 1024, number("RssAnon") / 1024, len(os.listdir(f"/proc/{pid}/fd")),
                     number("Threads"))
