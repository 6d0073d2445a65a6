"""A real laplaced over a registry of a test, as a process that may be killed, and what tests share."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from laplace_client import Client, ClientOptions
from laplace_client.options import RetryPolicy, Timeouts

CHECKPOINT = Path(__file__).resolve().parents[1] / "data/registry_v1/models/mlp/1"
MODEL = "mlp"  # 4 numbers to 3 classes, 51 parameters
OPERATIONS_KEPT = 1000  # of those that have ended: server/serving/operations.h
START_SECONDS = 300.0  # of a machine that has much else to do
NO_RETRY = ClientOptions(
    retry=RetryPolicy(max_attempts=1), timeouts=Timeouts(call=60.0, load=60.0, predict=60.0, upload=60.0)
)


def may_be_gone(operation_id: str, listed: set[str]) -> bool:
    """Whether the server may have dropped it, because there are too many: it keeps those that ended last.

    Ids tell when operations began, in order; what a kill ended, ended a little later than its neighbours.
    """
    return len(listed) >= OPERATIONS_KEPT and operation_id < sorted(listed)[20]


class Failure(Exception):
    """Something is not as it should be; the text says what."""


def require(holds: bool, what: str) -> None:
    if not holds:
        raise Failure(what)


def make_registry(root: Path, names: tuple[str, ...] = (MODEL,)) -> Path:
    """A registry with the small network under each of the names, without posteriors."""
    for name in names:
        folder = root / "models" / name / "1"
        folder.mkdir(parents=True)
        for file in ("model.pt", "model.json"):
            shutil.copyfile(CHECKPOINT / file, folder / file)
    return root


def rows(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and labels that the small network takes; the same for the same seed."""
    random = np.random.default_rng(seed)
    return random.standard_normal((count, 4)).astype(np.float32), random.integers(0, 3, count)


def prediction_bits(client: Client) -> tuple[str, bytes]:
    """Id of the posterior that answers, and every number of its answer."""
    answer = client.predict(MODEL, rows(16, seed=99)[0], return_covariance=True)
    numbers = [answer.mean, answer.variance, answer.epistemic, answer.covariance]
    numbers += [score.values for score in answer.ood.values()]
    return answer.posterior_id, b"".join(np.asarray(values).tobytes() for values in numbers)


class Server:
    """A laplaced that runs, or will. `user`: numeric id to run as, for a test that is root. `environment`: added."""

    def __init__(self, binary: Path, registry: Path, state: Path, user: int | None = None,
                 environment: dict[str, str] | None = None, **flags: Any) -> None:
        self.log = state / "laplaced.log"
        self._address_file = state / "address"
        self._address_file.unlink(missing_ok=True)
        settings = {"registry": registry, "listen": "127.0.0.1:0", "http-listen": "off", "load": MODEL,
                    "address-file": self._address_file, "compute-threads": 1, "log-format": "json", **flags}
        command = [str(binary)] + [f"--{name}={value}" for name, value in settings.items()]
        with open(self.log, "wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, user=user, start_new_session=True,
                env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **(environment or {})})

    def address(self) -> str:
        """Once it serves. Failure, with its log, if it ends instead or takes too long."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            text = self._address_file.read_text() if self._address_file.exists() else ""
            if text.endswith("\n"):
                return text.strip()
            require(self._process.poll() is None,
                    f"the server ended with {self._process.poll()} instead of starting:\n{self.output()}")
            time.sleep(0.01)
        raise Failure(f"the server does not serve after {START_SECONDS:g} s:\n{self.output()}")

    def http_address(self) -> str:
        """Of metrics and probes, of a server that was started with `http-listen`."""
        self.address()
        found = re.search(r"metrics and probes on http://([0-9.:]+)", self.output())
        require(found is not None, f"no address of the metrics in the log:\n{self.output()}")
        return found.group(1)

    @property
    def pid(self) -> int:
        return self._process.pid

    def running(self) -> bool:
        return self._process.poll() is None

    def client(self) -> Client:
        return Client(self.address(), NO_RETRY)

    def wait(self, seconds: float = START_SECONDS) -> int:
        """Exit code of a server that ends by itself."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"the server still runs after {seconds:g} s:\n{self.output()}") from None

    def kill(self) -> None:
        """kill -9."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        require(self.wait() == 0, f"SIGTERM did not end the server well:\n{self.output()}")

    def output(self) -> str:
        return self.log.read_text(errors="replace")
