"""A real server over a small registry, for tests of the client.

The server is the binary of LAPLACED_BINARY, else that of the repository's build; without one the tests
are skipped, with a message that says so.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import time
from typing import Iterator

import numpy as np
import pytest

from laplace_client import Client, ClientOptions

ROOT = pathlib.Path(__file__).resolve().parents[3]
DEFAULT_BINARY = ROOT / "build" / "release" / "server" / "app" / "laplaced"


class Server:
    """A laplaced process over a registry folder; `options` are more flags."""

    def __init__(self, registry: pathlib.Path, *options: str) -> None:
        binary = pathlib.Path(os.environ.get("LAPLACED_BINARY", DEFAULT_BINARY))
        if not binary.exists():
            pytest.skip(f"needs the server, {binary}: run `make build`, or set LAPLACED_BINARY")
        self.registry = registry
        self._address_file = registry / "address"
        self._command = [
            str(binary), "--registry", str(registry), "--listen", "127.0.0.1:0",
            "--http-listen", "off", "--address-file", str(self._address_file), *options,
        ]  # fmt: skip
        self.start()

    def start(self, address: str = "127.0.0.1:0") -> None:
        self._address_file.unlink(missing_ok=True)
        self._command[4] = address
        with open(self.registry / "log", "ab") as log:
            self._process = subprocess.Popen(self._command, stderr=log)
        while not self._address_file.exists() or not self._address_file.read_text():
            if self._process.poll() is not None:
                raise RuntimeError((self.registry / "log").read_text())
            time.sleep(0.02)
        self.address = self._address_file.read_text().strip()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *unused: object) -> None:
        self.kill()


@pytest.fixture
def registry(tmp_path: pathlib.Path) -> pathlib.Path:
    """A network of 4 inputs and 3 classes with a posterior that an earlier version fitted."""
    folder = tmp_path / "registry"
    shutil.copytree(ROOT / "tests" / "data" / "registry_v1" / "models", folder / "models")
    return folder


@pytest.fixture
def server(registry: pathlib.Path) -> Iterator[Server]:
    with Server(registry) as running:
        yield running


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address, ClientOptions()) as connected:
        yield connected


@pytest.fixture
def data() -> tuple[np.ndarray, np.ndarray]:
    """300 rows of which the class depends on the inputs."""
    random = np.random.default_rng(5)
    x = random.normal(size=(300, 4)).astype(np.float32)
    y = (x[:, 0] > 0.4).astype(np.int64) + (x[:, 1] > 0.4)
    return x, y
