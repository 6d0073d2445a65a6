"""The other end of fault_layer.c: arms and disarms a program that runs with it."""

from __future__ import annotations

import errno
import mmap
import os
import struct
from pathlib import Path

# In the order of `enum kind`, with what each may plausibly fail with.
ERRORS = {
    "create": (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.EIO),
    "write": (errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "rename": (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EIO),
    "make folder": (errno.EACCES, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO),
    "remove": (errno.EACCES, errno.EROFS, errno.EIO),
    "open": (errno.EACCES, errno.EMFILE, errno.EIO),
    "read": (errno.EIO,),
    "map": (errno.ENOMEM, errno.EACCES),
    "close": (errno.EIO,),
    "look": (errno.EACCES, errno.EIO),
}
KINDS = tuple(ERRORS)
CHANGING = ("create", "write", "fsync", "rename", "make folder", "remove")
DIE, SHORT, HANG = -1, -2, -3
DIED = 86  # exit status of a program that a fault ended
FOREVER = 2**32 - 1
_LAYOUT = struct.Struct(f"=3I{len(KINDS)}i2I{len(KINDS)}I256s")


class Faults:
    """Faults of the calls below `folder`; kept in the file `control`."""

    def __init__(self, library: Path, folder: Path, control: Path) -> None:
        control.write_bytes(bytes(mmap.PAGESIZE))
        self.environment = {"LD_PRELOAD": str(library), "LAPLACED_FAULT_FOLDER": str(folder.resolve()),
                            "LAPLACED_FAULT_CONTROL": str(control)}
        with open(control, "r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def arm(self, errors: dict[str, int], first: int, last: int | None = None) -> None:
        """Calls of these kinds, numbered from now on, fail from the `first` to the `last` (that one only)."""
        self._write(0, 0, 0, {})  # so that nobody sees half of it
        mask = sum(1 << KINDS.index(kind) for kind in errors)
        self._write(0, first, first if last is None else last, errors)
        struct.pack_into("=I", self._map, 0, mask)

    def count(self, kinds: tuple[str, ...] = KINDS) -> None:
        """Counts from now on, and nothing fails."""
        self.arm({kind: 0 for kind in kinds}, FOREVER)

    def disarm(self) -> None:
        struct.pack_into("=I", self._map, 0, 0)

    def _write(self, mask: int, first: int, last: int, errors: dict[str, int]) -> None:
        by_kind = [errors.get(kind, 0) for kind in KINDS]
        _LAYOUT.pack_into(self._map, 0, mask, first, last, *by_kind, 0, 0, *[0] * len(KINDS), b"")

    def _read(self) -> tuple:
        return _LAYOUT.unpack_from(self._map, 0)

    @property
    def calls(self) -> int:
        return self._read()[3 + len(KINDS)]

    @property
    def hits(self) -> int:
        return self._read()[4 + len(KINDS)]

    @property
    def kinds_hit(self) -> set[str]:
        start = 5 + len(KINDS)
        return {kind for kind, hits in zip(KINDS, self._read()[start:start + len(KINDS)]) if hits}

    @property
    def last(self) -> str:
        """Kind and path of the last call that failed."""
        return self._read()[-1].split(b"\0")[0].decode(errors="replace")


def text_of(error: int) -> str:
    return os.strerror(error).lower()
