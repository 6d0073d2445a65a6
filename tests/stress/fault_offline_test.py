#!/usr/bin/env python3
"""Makes one file call after another of `laplace-fit` fail, and looks at what becomes of the registry.

    tests/stress/run.sh LAPLACE_FIT fault_offline_test.py LAYER [--sample N] [--seed N]

Of a fit and of a Newton step, the file calls in the registry are counted; then it is run with one of them failing,
with all from one on failing as on a full, read-only or broken disk, and with the program dying there. Each time: it
ends with 0, or with 1 and what the disk said; no posterior and no model version is half there, and none that was
there has changed; the same command works when the fault is gone, and leaves nothing unfinished.

LAYER is fault_layer.c as a shared library. --sample bounds the calls tried of each command (default: all).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from fault_case import CLEANING
from fault_test import TROUBLES
from faults import CHANGING, DIE, DIED, ERRORS, FOREVER, KINDS, Faults, text_of
from server import MODEL, Failure, make_registry, require, rows

COMMANDS = {
    "fit": (MODEL, "--b1", "60", "--b2", "60", "--rank", "4"),
    # From version 1: from what it has made there may be no better step.
    "newton-step": ("newton-step", f"{MODEL}/1", "--b1", "40", "--b2", "60", "--held-out-size", "40", "--steps", "2",
                    "--keep-worse"),
}
POSTERIOR = {"posterior.json", "tensors.safetensors"}
VERSION = {"model.pt", "model.json"}


def contents(registry: Path) -> dict[str, bytes]:
    """What may not change: versions and posteriors, by path."""
    return {str(path.relative_to(registry)): path.read_bytes() for path in (registry / "models").rglob("*")
            if path.is_file() and path.name != "ACTIVE" and not any(".tmp-" in part for part in path.parts)}


class Offline:
    def __init__(self, binary: Path, library: Path, state: Path, seed: int) -> None:
        self.binary, self.state = binary, state
        self.chance = random.Random(seed)
        self.registry = state / "registry"
        self.train = state / "train.npz"
        x, y = rows(200, seed=1)
        np.savez(self.train, x=x, y=y)
        self.registry.mkdir()
        self.faults = Faults(library, self.registry, state / "faults")
        self.tries = 0

    def fresh(self) -> None:
        shutil.rmtree(self.registry)
        make_registry(self.registry)
        for folder in ("datasets", "operations"):
            (self.registry / folder).mkdir()

    def run(self, command: tuple[str, ...]) -> tuple[int, str]:
        words = [str(self.binary), *command, "--registry", str(self.registry), "--train", str(self.train)]
        ended = subprocess.run(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                               env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **self.faults.environment},
                               timeout=300)
        return ended.returncode, ended.stdout.decode(errors="replace")

    def check_whole(self, name: str, output: str) -> None:
        """What is there under its final name is all there."""
        for version in (self.registry / "models" / MODEL).iterdir():
            if version.name.startswith("."):
                continue
            found = {path.name for path in version.iterdir() if path.is_file() and not path.name.startswith(".")}
            expected = VERSION | ({"newton_step.json"} if version.name != "1" else set())
            require(found - {"ACTIVE"} == expected, f"{name}: version {version.name} holds {found}\n{output}")
            for posterior in version.glob("posteriors/[!.]*"):
                held = {path.name for path in posterior.iterdir()}
                require(held == POSTERIOR, f"{name}: {posterior.name} holds {held}\n{output}")
            if (version / "ACTIVE").exists():
                active = (version / "ACTIVE").read_text().strip()
                require((version / "posteriors" / active).is_dir(), f"{name}: {active} is active and missing")

    def unfinished(self) -> list[str]:
        return [str(path) for path in self.registry.rglob(".tmp-*")]

    def attempt(self, name: str, command: tuple[str, ...], errors: dict[str, int], first: int,
                last: int | None = None) -> None:
        self.tries += 1
        self.fresh()
        before = contents(self.registry)
        self.faults.arm(errors, first, last)
        code, output = self.run(command)
        hits, kinds, call = self.faults.hits, self.faults.kinds_hit, self.faults.last
        self.faults.disarm()
        name = f"{name} ({hits} failed, the last: {call})"
        dies = DIE in errors.values() and hits > 0
        require(code == DIED if dies else code in (0, 1), f"{name}: ended with {code}\n{output}")
        if code == 1:
            said = any(text_of(number) in output.lower() for kind, number in errors.items() if kind in kinds)
            require(said, f"{name}: the output does not say what the disk said:\n{output}")
        self.check_whole(name, output)
        after = contents(self.registry)
        require(all(after.get(path) == held for path, held in before.items()), f"{name}: what was there has changed")
        if not dies and not kinds & CLEANING:
            require(not self.unfinished(), f"{name}: unfinished files stay: {self.unfinished()}\n{output}")
        code, output = self.run(command)
        require(code == 0, f"{name}: without the fault it ends with {code}\n{output}")
        self.check_whole(name, output)
        require(not self.unfinished(), f"{name}: unfinished files stay after a run that worked: {self.unfinished()}")

    def one_command(self, name: str, sample: int) -> None:
        command, begin = COMMANDS[name], time.monotonic()

        def calls_of(kinds: tuple[str, ...]) -> int:
            self.fresh()
            self.faults.count(kinds)
            code, output = self.run(command)
            require(code == 0, f"{name} ended with {code}\n{output}")
            return self.faults.calls

        def some(calls: int, share: float) -> list[int]:
            every = list(range(1, calls + 1))
            if sample == 0:
                return every
            return sorted(self.chance.sample(every, min(calls, max(1, round(share * sample)))))

        calls, changing = calls_of(KINDS), calls_of(CHANGING)
        require(changing > 0, f"the layer sees no file call of {name}")
        for number in some(calls, 1):
            errors = {kind: self.chance.choice(numbers) for kind, numbers in ERRORS.items()}
            self.attempt(f"{name}, call {number} of {calls}", command, errors, number)
        for number in some(calls, 0.5):
            trouble = self.chance.choice(sorted(TROUBLES))
            self.attempt(f"{name}, disk {trouble} from call {number} on", command, TROUBLES[trouble], number, FOREVER)
        for number in some(changing, 0.5):
            self.attempt(f"{name}, death at call {number}", command, {kind: DIE for kind in CHANGING}, number)
        print(f"  {name}: {calls} calls, {changing} of them change something; {time.monotonic() - begin:.0f} s",
              flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("layer", type=Path)
    parser.add_argument("--sample", type=int, default=0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="default: by the clock; printed")
    arguments = parser.parse_args()
    print(f"fault test of laplace-fit: --sample {arguments.sample} --seed {arguments.seed}", flush=True)
    state = Path(tempfile.mkdtemp(prefix="laplaced-fault-")).resolve()
    offline = Offline(arguments.binary.resolve(), arguments.layer.resolve(), state, arguments.seed)
    begin = time.monotonic()
    try:
        for name in COMMANDS:
            offline.one_command(name, arguments.sample)
    except Failure as failure:
        print(f"FAILED (--seed {arguments.seed}; registry in {state}): {failure}", file=sys.stderr)
        return 1
    shutil.rmtree(state)
    print(f"{offline.tries} tries: nothing half there; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
