"""A laplaced of our own, over a registry folder that is thrown away."""
import os
import pathlib
import shutil
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[3]


class RunningServer:
    """Serves `model_folder` (model.pt, model.json) as `name` while the context lasts; `.address` is host:port."""

    def __init__(self, binary, name, model_folder):
        self._binary = pathlib.Path(binary)
        if not self._binary.exists():
            raise SystemExit(f"{binary}: there is no server; run `make build`, or name one with --server-binary")
        self._name, self._model = name, model_folder

    def __enter__(self):
        self._folder = tempfile.TemporaryDirectory(prefix="laplaced-paper-")
        root = pathlib.Path(self._folder.name)
        version = root / "models" / self._name / "1"
        version.mkdir(parents=True)
        for file in ("model.pt", "model.json"):
            shutil.copy(self._model / file, version / file)
        address = root / "address"
        command = [str(self._binary), "--registry", str(root), "--listen", "127.0.0.1:0", "--http-listen", "off",
                   "--address-file", str(address)]  # fmt: skip
        environment = dict(os.environ, OMP_WAIT_POLICY="PASSIVE")
        with open(root / "log", "wb") as log:
            self._process = subprocess.Popen(command, stderr=log, env=environment)
        while not (address.exists() and address.read_text().strip()):
            if self._process.poll() is not None:
                message = (root / "log").read_text()[-2000:]
                self._folder.cleanup()
                raise SystemExit(f"{self._binary} ended at start:\n{message}")
            time.sleep(0.05)
        self.address = address.read_text().strip()
        return self

    def __exit__(self, *unused):
        self._process.terminate()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._folder.cleanup()
