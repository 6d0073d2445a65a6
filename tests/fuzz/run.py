#!/usr/bin/env python3
"""Runs the fuzz targets of a build, prints a table, and fails if one of them did.

    tests/fuzz/run.py BUILD [--time 60] [--targets npy,npz] [--jobs 1]

Corpora grow in BUILD/corpus/<target> and stay for the next run; they begin with the target's seeds and
with what once failed (tests/fuzz/failures/<target>). An input that fails is kept in
BUILD/failures/<target>: copy it to tests/fuzz/failures/<target>, and `make test` runs it for ever.
"""

import argparse
import concurrent.futures
import pathlib
import re
import shutil
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
MALLOC_LIMIT_MB = 64  # of one block; targets bound what is held in all (heap_bound.h)
RSS_LIMIT_MB = 1024
INPUT_SECONDS = 10


def fuzz(program, build, seconds):
    name = program.name[len("fuzz_"):]
    corpus, failures = build / "corpus" / name, build / "failures" / name
    corpus.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(failures, ignore_errors=True)
    failures.mkdir(parents=True)
    subprocess.run([program, f"--write-seeds={corpus}"], check=True)
    max_bytes = subprocess.run([program, "--limits"], check=True, capture_output=True, text=True).stdout.strip()
    folders = [corpus] + [folder for folder in [HERE / "failures" / name] if folder.is_dir()]
    log = build / "failures" / f"{name}.log"
    with open(log, "w") as out:
        code = subprocess.run(
            [program, f"-max_total_time={seconds}", f"-max_len={max_bytes}", f"-malloc_limit_mb={MALLOC_LIMIT_MB}",
             f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={INPUT_SECONDS}", f"-artifact_prefix={failures}/",
             "-print_final_stats=1", *folders], stdout=out, stderr=subprocess.STDOUT).returncode
    text = log.read_text(errors="replace")

    def stat(key):
        found = re.search(rf"stat::{key}:\s+(\d+)", text)
        return int(found.group(1)) if found else 0

    covered = re.findall(r"cov: (\d+)", text)
    return {"name": name, "code": code, "runs": stat("number_of_executed_units"), "peak": stat("peak_rss_mb"),
            "covered": int(covered[-1]) if covered else 0, "inputs": sum(1 for _ in corpus.iterdir()),
            "failures": sorted(failures.iterdir()), "log": log}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=pathlib.Path)
    parser.add_argument("--time", type=int, default=60, help="seconds for each target (default 60)")
    parser.add_argument("--targets", default="", help="names with commas between (default: all)")
    parser.add_argument("--jobs", type=int, default=1, help="targets at the same time (default 1)")
    arguments = parser.parse_args()
    build = arguments.build.resolve()
    programs = {p.name[len("fuzz_"):]: p for p in sorted((build / "tests/fuzz").glob("fuzz_*")) if p.is_file()}
    names = arguments.targets.split(",") if arguments.targets else sorted(programs)
    missing = [name for name in names if name not in programs]
    if missing or not names:
        sys.exit(f"no fuzz target {', '.join(missing)} in {build}; there are: {', '.join(programs)}")

    begin, results = time.monotonic(), []
    line = "{:<16}{:>12}{:>10}{:>10}{:>9}{:>11}"
    print(line.format("TARGET", "EXECUTIONS", "EDGES", "CORPUS", "CRASHES", "PEAK, MB"), flush=True)
    with concurrent.futures.ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        for result in pool.map(lambda name: fuzz(programs[name], build, arguments.time), names):
            results.append(result)
            print(line.format(result["name"], result["runs"], result["covered"], result["inputs"],
                              len(result["failures"]), result["peak"]), flush=True)
    failed = [result for result in results if result["code"] != 0 or result["failures"]]
    print(line.format("all", sum(r["runs"] for r in results), "", sum(r["inputs"] for r in results),
                      sum(len(r["failures"]) for r in results), max(r["peak"] for r in results)))
    print(f"{time.monotonic() - begin:.0f} s; sanitizers: address, undefined, leak; one block of at most {MALLOC_LIMIT_MB} MB, "
          f"{RSS_LIMIT_MB} MB in all, {INPUT_SECONDS} s an input")
    for result in failed:
        print(f"FAILED {result['name']}: exit code {result['code']}, see {result['log']}", *result["failures"], sep="\n  ")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
