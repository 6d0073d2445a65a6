#!/usr/bin/env python3
"""What a real laplaced does when its disk is full, becomes read-only, or may no longer be written to.

    tests/stress/run.sh BINARY disk_test.py

In each case calls that would write fail with an error that says why, nothing unfinished stays, and the posterior
from before goes on answering, to the bit; when the trouble is over the same calls work again. The disks are small
tmpfs in a mount namespace of this process, so that needs root, or user namespaces; what cannot be tried is
skipped, with a message.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable

import grpc
from laplace_client import Client
from laplace_client.errors import LaplaceError
from server import MODEL, Failure, Server, make_registry, prediction_bits, require, rows

INSIDE = "LAPLACED_DISK_TEST_INSIDE"
NOBODY = 65534
DISK = "2m"


def enter_namespace() -> None:
    """Starts this program again where it may mount; returns if that is not possible here."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--mount", "--map-root-user"]
    if subprocess.run(unshare + ["mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0:
        os.environ[INSIDE] = "1"
        os.execvp("unshare", unshare + [sys.executable, *sys.argv])


def mount_disk(folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK},mode=0777", "none", folder], check=True)


def make_read_only(folder: Path) -> None:
    """For whoever looks the folder up from now on, until it is unmounted; files that are open stay as they are."""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)


def unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True)


def unfinished(registry: Path) -> list[str]:
    return [str(path) for path in registry.rglob(".tmp-*")]


class Case:
    """A server with a posterior, and what it predicts."""

    def __init__(self, binary: Path, registry: Path, state: Path, user: int | None = None) -> None:
        self.registry = registry
        self.server = Server(binary, registry, state, user)
        self.client = self.server.client()
        self.train = self.client.ensure_dataset(*rows(300, seed=1)).id
        self.fit()
        self.other = self.fit()
        self.before = prediction_bits(self.client)

    def fit(self) -> str:
        return self.client.fit(MODEL, self.train, rank=4, direction_batch_size=100, curvature_batch_size=100,
                               keep_inactive=bool(self.client.list_posteriors(MODEL)))

    def upload(self, seed: int = 7) -> None:
        self.client.ensure_dataset(*rows(100, seed))

    def activate(self) -> None:
        self.client.activate_posterior(MODEL, self.other)

    def refused(self, what: str, call: Callable[[], object], codes: set[grpc.StatusCode], text: str) -> None:
        try:
            call()
        except LaplaceError as error:
            require(error.code in codes, f"{what}: expected one of {codes}, got {error.code}: {error}")
            require(text in str(error).lower(), f"{what}: expected '{text}' in the message, got: {error}")
            require(str(self.registry) not in str(error), f"{what}: the message shows the server's path: {error}")
            require(error.retry_delay is None, f"{what}: the server says when to come back, which it cannot know")
            print(f"  {what}: {error.code.name}: {str(error)[:150]}")
        else:
            raise Failure(f"{what} was acknowledged")

    def same(self) -> None:
        require(prediction_bits(self.client) == self.before, "the prediction is another one than before")
        # The end of an operation that the disk refused is tried again every second.
        end = time.monotonic() + 5
        while unfinished(self.registry) and time.monotonic() < end:
            time.sleep(0.05)
        require(not unfinished(self.registry), f"unfinished files stay: {unfinished(self.registry)}")

    def works_again(self) -> None:
        self.upload()
        self.fit()
        self.activate()
        require(prediction_bits(self.client)[0] == self.other, "the activated posterior does not answer")
        self.client.close()
        self.server.stop()


def full_disk(binary: Path, state: Path) -> None:
    registry = state / "full"
    mount_disk(registry)
    make_registry(registry)
    case = Case(binary, registry, state)
    ballast = registry / "ballast"
    with open(ballast, "wb", buffering=0) as out:
        try:
            while True:
                out.write(bytes(4096))
        except OSError:
            pass
    full = {grpc.StatusCode.RESOURCE_EXHAUSTED}
    case.refused("upload", case.upload, full, "no space left")
    case.refused("fit", case.fit, full, "no space left")
    case.refused("activation", case.activate, full, "no space left")
    case.same()
    # Room for the record of an operation, but not for a posterior.
    os.truncate(ballast, ballast.stat().st_size - 12 * 1024)
    case.refused("fit with little room", case.fit, full, "no space left")
    case.same()
    ballast.unlink()
    case.works_again()


def read_only_disk(binary: Path, state: Path) -> None:
    registry = state / "ro"
    registry.mkdir()
    make_registry(registry)
    case = Case(binary, registry, state)
    make_read_only(registry)
    codes = {grpc.StatusCode.FAILED_PRECONDITION}
    case.refused("upload", case.upload, codes, "read-only file system")
    case.refused("fit", case.fit, codes, "read-only file system")
    case.refused("activation", case.activate, codes, "read-only file system")
    case.same()
    case.client.close()
    case.server.stop()

    second = Server(binary, registry, state)
    require(second.wait() == 1, "a server that writes started on a read-only disk")
    require("read-only file system" in second.output().lower(), f"its log does not say why:\n{second.output()}")
    reader = Server(binary, registry, state, **{"read-only": "true"})
    require(prediction_bits(reader.client()) == case.before, "a --read-only server predicts something else")
    reader.stop()
    unmount(registry)
    again = Server(binary, registry, state)
    require(prediction_bits(again.client()) == case.before, "after all that it predicts something else")
    again.stop()


def lost_permission(binary: Path, state: Path) -> None:
    user = NOBODY if os.geteuid() == 0 else None
    registry = state / "permission"
    registry.mkdir()
    make_registry(registry)
    if user is not None:
        # Where the build lies it may be out of reach for anybody else.
        binary = Path(shutil.copy(binary, state / "laplaced"))
        for path in [state, *state.rglob("*")]:
            os.chown(path, user, user)
    case = Case(binary, registry, state, user)
    folders = [path for path in registry.rglob("*") if path.is_dir()]
    modes = {path: path.stat().st_mode for path in folders}
    for path in folders:
        path.chmod(0o500)
    denied = {grpc.StatusCode.FAILED_PRECONDITION}  # not of the caller's role, which PERMISSION_DENIED is about
    case.refused("upload", case.upload, denied, "permission denied")
    case.refused("fit", case.fit, denied, "permission denied")
    case.refused("activation", case.activate, denied, "permission denied")
    case.same()
    for path, mode in modes.items():
        path.chmod(mode)
    case.works_again()


def run(name: str, case: Callable[[Path, Path], None]) -> None:
    print(f"{name}:", flush=True)
    state = Path(tempfile.mkdtemp(prefix="laplaced-disk-"))
    state.chmod(0o755)
    try:
        case(Path(sys.argv[1]).resolve(), state)
    except (Failure, LaplaceError) as failure:
        sys.exit(f"FAILED {name}: {failure}")
    finally:
        for mounted in state.iterdir():
            while mounted.is_mount():
                unmount(mounted)
        shutil.rmtree(state, ignore_errors=True)


def main() -> None:
    if not os.environ.get(INSIDE):
        # Before the namespace: whoever is root there may write everywhere, and need not be able to be somebody else.
        run("permission lost", lost_permission)
        enter_namespace()
        print("full disk, read-only disk: skipped, they need root or user namespaces")
        return
    run("full disk", full_disk)
    run("read-only disk", read_only_disk)


if __name__ == "__main__":
    main()
