#!/usr/bin/env python3
"""Keeps a real laplaced under mixed load and looks whether its memory, descriptors or threads grow.

    tests/stress/run.sh BINARY soak.py [--minutes 30] [--csv FILE] [--seed N] [--keep FOLDER]

The first third is warm-up. Through the memory of the rest goes a line (soak_trend.py); it fails, with exit status 1, if the
lower end of the 95 % interval of its slope is above --limit, if there are more descriptors or threads at the end than after
the warm-up, if some stay when the callers have gone, or if a call ends otherwise than it should. Runs shorter than ten
minutes have no verdict on memory. Ctrl-C ends it early, with a result.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from resources import Resources, resources
from server import MODEL, Failure, Server, make_registry, prediction_bits, require, rows
from soak_load import IMAGES, SoakLoad
from soak_trend import BLOCKS, SMALLEST_GROWTH, after_warm_up, growth, problems, slope
from workload import TWIN

SAMPLE_SECONDS = 2.0
SHORTEST_VERDICT = 600.0
IMAGE_CHECKPOINT = Path(__file__).resolve().parents[1] / "data/fashion_cnn"
COLUMNS = ("seconds", "rss_mb", "anonymous_mb", "descriptors", "threads", "calls")
SETTLE_SECONDS = 60.0  # for connections of callers that have gone, and threads that have nothing to do

SMALLEST_POOL = 8  # threads that libraries start for the first callers and keep


def set_up(root: Path) -> None:
    """The small network, a twin of it in two versions with posteriors of their own, and one of images."""
    make_registry(root, (MODEL, TWIN))
    second = root / "models" / TWIN / "2"
    shutil.copytree(root / "models" / TWIN / "1", second)
    images = root / "models" / IMAGES / "1"
    images.mkdir(parents=True)
    for file in ("model.pt", "model.json"):
        shutil.copyfile(IMAGE_CHECKPOINT / file, images / file)


def fit_all(server: Server) -> tuple[str, str]:
    """A posterior for everything; returns the ids of the training data of both kinds."""
    with server.client() as client:
        train = client.ensure_dataset(*rows(300, seed=1)).id
        chance = np.random.default_rng(3)
        images = chance.integers(0, 256, (200, 1, 28, 28), dtype=np.uint8)
        image_train = client.ensure_dataset(images, chance.integers(0, 10, 200)).id
        small = {"rank": 4, "direction_batch_size": 100, "curvature_batch_size": 100}
        for version in (1, 2):
            client.load_model(TWIN, version)
            client.fit(TWIN, train, version=version, **small)
            client.unload_model(TWIN, version)
        client.fit(IMAGES, image_train, **small)
        client.fit(MODEL, train, **small)
        prediction_bits(client)
    return train, image_train


def watch(server: Server, load: SoakLoad, seconds: float, stop: threading.Event, out: Path) -> np.ndarray:
    """Samples [n, len(COLUMNS)], also written to `out` as they come."""
    samples = []
    begin = time.monotonic()
    with open(out, "w", newline="", encoding="ascii") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        while not stop.is_set() and not load.tally.problems:
            held = resources(server.pid)
            now = time.monotonic() - begin
            sample = (now, held.rss_mb, held.anonymous_mb, held.fds, held.threads, sum(load.tally.calls.values()))
            samples.append(sample)
            table.writerow([f"{value:.10g}" for value in sample])
            file.flush()
            if now >= seconds:
                break
            stop.wait(min(SAMPLE_SECONDS, max(seconds - now, 0.01)))
    return np.array(samples)


def settled(server: Server, before: Resources) -> Resources:
    """What it holds once it is back to `before`, or after SETTLE_SECONDS."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        held = resources(server.pid)
        if (held.fds <= before.fds and held.threads <= before.threads) or time.monotonic() > end:
            return held
        time.sleep(0.2)


def left_behind(before: Resources, after: Resources) -> list[str]:
    found = []
    if after.fds > before.fds + SMALLEST_GROWTH:
        found.append(f"{after.fds} descriptors stay open when the callers have gone, {before.fds} were before")
    if after.threads > before.threads + SMALLEST_POOL:
        found.append(f"{after.threads} threads stay when the callers have gone, {before.threads} were before")
    return found


def print_calls(load: SoakLoad, seconds: float) -> None:
    tally = load.tally
    print(f"\n{'CALLER':<16}{'CALLS':>8}{'PER SECOND':>12}")
    for name in load.names:
        print(f"{name:<16}{tally.calls[name]:>8}{tally.calls[name] / seconds:>12.2f}")
    for what, count in sorted(tally.refused.items()):
        print(f"  {what} {count} times")


def print_stretches(samples: np.ndarray) -> None:
    print(f"\n{'MINUTE':>8}{'RSS, MB':>10}{'HEAP, MB':>10}{'DESCRIPTORS':>13}{'THREADS':>9}")
    for stretch in np.array_split(samples, min(12, len(samples))):
        minute, rss, heap, fds, threads, _ = stretch.mean(axis=0)
        print(f"{minute / 60:>8.1f}{rss:>10.1f}{heap:>10.1f}{fds:>13.1f}{threads:>9.1f}")


def judge(samples: np.ndarray, limit: float) -> list[str]:
    """Prints slopes; what is wrong."""
    late = samples[after_warm_up(samples[:, 0])]
    if len(late) < 2 * BLOCKS or samples[-1, 0] < SHORTEST_VERDICT:
        print(f"\ntoo short for a verdict on growth: {samples[-1, 0]:.0f} s, {SHORTEST_VERDICT:g} are needed")
        return []
    print(f"\nafter the warm-up, {len(late)} samples over {(late[-1, 0] - late[0, 0]) / 60:.1f} minutes:")
    slopes = {name: slope(late[:, 0], late[:, column]) for column, name in ((1, "RSS"), (2, "heap"))}
    for name, found in slopes.items():
        print(f"  {name}: {found.value:+.2f} MB/h, standard error {found.standard_error:.2f}, "
              f"at least {found.at_least:+.2f} with 95 % confidence")
    fds, threads = growth(late[:, 3]), growth(late[:, 4])
    print(f"  descriptors: {fds:+g}, threads: {threads:+g} from the first to the last quarter")
    return problems(slopes["RSS"], limit, fds, threads)


def run(arguments: argparse.Namespace, state: Path, out: Path) -> list[str]:
    stop = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    set_up(state / "registry")
    server = Server(arguments.binary.resolve(), state / "registry", state, load=f"{MODEL},{IMAGES}",
                    **{"http-listen": "127.0.0.1:0"})
    try:
        train, image_train = fit_all(server)
        idle = settled(server, Resources(0, 0, 0, 0)) if arguments.minutes >= 5 else resources(server.pid)
        print(f"before: {idle}", flush=True)
        load = SoakLoad(server.address(), server.http_address(), train, image_train, arguments.seed, arguments.fit_seconds)
        load.start()
        samples = watch(server, load, 60 * arguments.minutes, stop, out)
        load.stop()
        after = settled(server, idle)
        print_calls(load, samples[-1, 0])
        print_stretches(samples)
        found = [f"a call went wrong: {problem}" for problem in load.tally.problems] + judge(samples, arguments.limit)
        print(f"  after the callers have gone: {after}")
        found += left_behind(idle, after)
        missing = [name for name in load.names if load.tally.calls[name] == 0]
        if missing and not stop.is_set():
            found.append(f"never done: {', '.join(missing)}")
        with server.client() as client:
            prediction_bits(client)
        server.stop()
        return found
    finally:
        server.kill()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary", type=Path)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--csv", type=Path, help="file for the samples (default: in the folder of --keep, or none)")
    parser.add_argument("--limit", type=float, default=1.0, help="MB/h that memory may grow by")
    parser.add_argument("--fit-seconds", type=float, default=15.0, help="from one fit to the next, in the middle")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000, help="default: by the clock; printed")
    parser.add_argument("--keep", type=Path, help="folder for registry and log, which stay (default: a temporary one)")
    arguments = parser.parse_args()
    print(f"soak: {arguments.minutes:g} minutes, --seed {arguments.seed}", flush=True)
    state = arguments.keep or Path(tempfile.mkdtemp(prefix="laplaced-soak-"))
    state.mkdir(parents=True, exist_ok=True)
    out = arguments.csv or state / "soak.csv"
    try:
        found = run(arguments, state, out)
    except Failure as failure:
        found = [str(failure)]
    for problem in found:
        print(f"FAILED (--seed {arguments.seed}; registry, log and samples in {state}): {problem}", file=sys.stderr)
    if not found and arguments.keep is None:
        shutil.rmtree(state)
    if not found:
        print("nothing grew" if arguments.minutes * 60 >= SHORTEST_VERDICT else "all calls ended as they should")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
