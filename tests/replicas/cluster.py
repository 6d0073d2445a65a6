"""A network of machines, as far as their programs can tell: network namespaces on a bridge.

For a process in mount, network and PID namespaces of its own (see `enter`): nothing here changes the machine, and
everything ends with that process. Needs root and iproute2.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Callable, Sequence

ADDRESSES = {
    "server1": "10.77.0.11",
    "server2": "10.77.0.12",
    "proxy": "10.77.0.2",
    "client": "10.77.0.3",
    "writer": "10.77.0.4",
}
GRPC_PORT = 8033
HTTP_PORT = 8034
PROXY_METRICS_PORT = 8405


class Failure(Exception):
    """Something is not as it should be; the text says what."""


def enter() -> None:
    """Starts this program again in namespaces of its own, unless it is there."""
    if os.environ.get("REPLICAS_TEST_INSIDE") == "1":
        return
    if os.geteuid() != 0:
        raise Failure("network namespaces need root; run this as root")
    os.environ["REPLICAS_TEST_INSIDE"] = "1"
    unshare = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    os.execvp("unshare", unshare + [sys.executable, *sys.argv])


def wait_until(what: str, seconds: float, holds: Callable[[], bool]) -> float:
    """Seconds until `holds`; Failure after too many of them."""
    begin = time.monotonic()
    while not holds():
        if time.monotonic() - begin > seconds:
            raise Failure(f"after {seconds:g} s still not: {what}")
        time.sleep(0.05)
    return time.monotonic() - begin


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


class Cluster:
    """Two read-only servers and a writer over one registry, and a proxy.

    state: folder for the registry, logs and what else is written. build: the build folder. HAPROXY in the environment names
    another program than haproxy.
    """

    def __init__(self, state: Path, build: Path, proxy_configuration: Path) -> None:
        self._state = state
        self._build = build
        self._proxy_configuration = proxy_configuration
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self.registry = state / "registry"
        self.proxy = f"{ADDRESSES['proxy']}:{GRPC_PORT}"

    # The network

    def connect(self) -> None:
        """Gives every machine a namespace and a cable to the bridge, which is this process's own namespace."""
        os.makedirs("/run/netns", exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "none", "/run/netns"], check=True)
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "bridge0", "type", "bridge")
        _ip("link", "set", "bridge0", "up")
        _ip("address", "add", "10.77.0.1/24", "dev", "bridge0")
        for name, address in ADDRESSES.items():
            _ip("netns", "add", name)
            _ip("link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", name, "master", "bridge0", "up")
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")

    def unplug(self, name: str) -> None:
        """What is sent to or from this machine is lost without a word."""
        _ip("link", "set", name, "nomaster")

    def plug_in(self, name: str) -> None:
        _ip("link", "set", name, "master", "bridge0")

    # Programs

    def command(self, machine: str, program: Sequence[str | Path]) -> list[str]:
        return ["ip", "netns", "exec", machine, *map(str, program)]

    def log(self, name: str) -> Path:
        return self._state / f"{name}.log"

    def start(
        self, name: str, machine: str, program: Sequence[str | Path], **environment: str
    ) -> subprocess.Popen[bytes]:
        """Starts a program under a name; its output is added to the log of that name."""
        with open(self.log(name), "ab") as log:
            process = subprocess.Popen(
                self.command(machine, program),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
            )
        self._processes[name] = process
        return process

    def _start_laplaced(self, name: str, registry: Path, *options: str) -> None:
        # Ends by exec, so that signals to the process are signals to the server.
        mount_read_only = 'mount --bind "$1" "$1" && mount -o remount,bind,ro "$1" || exit; shift; exec "$@"'
        laplaced: list[str | Path] = [
            self._build / "server/app/laplaced",
            "--registry", registry, "--listen", f"0.0.0.0:{GRPC_PORT}", "--http-listen", f"0.0.0.0:{HTTP_PORT}",
            "--compute-threads", "1", *options,
        ]  # fmt: skip
        if "--read-only" in options:
            laplaced = ["sh", "-c", mount_read_only, "sh", registry, *laplaced]
        self.start(name, name, laplaced)

    def start_writer(self) -> None:
        self._start_laplaced("writer", self.registry)
        self.wait_ready("writer")

    def start_server(self, name: str) -> None:
        """A read-only server: the registry is mounted read-only for it, too."""
        self._start_laplaced(
            name, self.registry,
            "--read-only", "--registry-poll-seconds", "1", "--drain-delay-seconds", "3", "--drain-seconds", "2",
        )  # fmt: skip

    def mounted_read_only(self, name: str) -> bool:
        """Whether the registry is, for this process."""
        mounts = Path(f"/proc/{self._processes[name].pid}/mountinfo").read_text(encoding="utf-8")
        options = [line.split()[5] for line in mounts.splitlines() if line.split()[4] == str(self.registry)]
        return bool(options) and "ro" in options[-1].split(",")

    def start_proxy(self) -> None:
        self.start(
            "proxy", "proxy", [os.environ.get("HAPROXY", "haproxy"), "-db", "-f", self._proxy_configuration],
            LAPLACED_1=ADDRESSES["server1"], LAPLACED_2=ADDRESSES["server2"],
            LISTEN=f":{GRPC_PORT}", METRICS_LISTEN=f":{PROXY_METRICS_PORT}",
        )  # fmt: skip
        wait_until("HAProxy runs", 10, lambda: self._fetch("proxy", PROXY_METRICS_PORT, "/metrics") is not None)

    def signal(self, name: str, number: signal.Signals) -> None:
        self._check_running(name)
        self._processes[name].send_signal(number)

    def wait_ended(self, name: str, seconds: float) -> int:
        """The exit code; negative: the signal."""
        try:
            return self._processes[name].wait(seconds)
        except subprocess.TimeoutExpired:
            raise Failure(f"{name} did not end within {seconds:g} s") from None

    def _check_running(self, name: str) -> None:
        code = self._processes[name].poll()
        if code is not None:
            raise Failure(f"{name} ended with {code}; see {self.log(name)}")

    # What they say

    def _fetch(self, machine: str, port: int, path: str) -> str | None:
        try:
            with urllib.request.urlopen(f"http://{ADDRESSES[machine]}:{port}{path}", timeout=1) as response:
                return response.read().decode()
        except OSError:
            return None

    def wait_ready(self, name: str) -> float:
        def ready() -> bool:
            self._check_running(name)
            return self._fetch(name, HTTP_PORT, "/v2/health/ready") is not None

        return wait_until(f"{name} is ready", 60, ready)

    def metric(self, name: str, metric: str, **labels: str) -> float:
        """The sum of a server's series of that name with these labels."""
        return self._sum(self._fetch(name, HTTP_PORT, "/metrics"), name, metric, labels)

    def proxy_metric(self, metric: str, **labels: str) -> float:
        text = self._fetch("proxy", PROXY_METRICS_PORT, "/metrics")
        return self._sum(text, "proxy", metric, {"proxy": "servers", **labels})

    @staticmethod
    def _sum(text: str | None, name: str, metric: str, labels: dict[str, str]) -> float:
        if text is None:
            raise Failure(f"{name} does not show its metrics")
        total = 0.0
        for series, value in re.findall(rf"^{metric}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE):
            found = dict(re.findall(r'(\w+)="([^"]*)"', series))
            if all(found.get(key) == wanted for key, wanted in labels.items()):
                total += float(value)
        return total

    def proxy_status(self, server: str) -> str:
        """What HAProxy thinks of a server: UP, NOLB (no new calls), DOWN."""
        for state in ("UP", "NOLB", "DOWN"):
            if self.proxy_metric("haproxy_server_status", server=server, state=state) == 1:
                return state
        return "other"

    def wait_proxy_says(self, server: str, *states: str) -> float:
        what = f"HAProxy has {server} as {' or '.join(states)}"
        return wait_until(what, 30, lambda: self.proxy_status(server) in states)

