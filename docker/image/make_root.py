#!/usr/bin/env python3
"""Makes the root file system of an image: programs, the shared libraries that they load, and what those need to know.

usage: make_root.py FOLDER PROGRAM...

The programs go to /usr/bin, every library to the place where the loader looks for it, without the symbolic links of
update-alternatives. Of each Debian package that a file comes from, its copyright file is there, and its entry of dpkg's
database as /var/lib/dpkg/status.d/PACKAGE, which is where scanners look in images without a package manager.

Prints "FILE<tab>PACKAGE" for each file that it copied, with the path in the image; sbom.py reads that.
"""

import os
import pathlib
import re
import shutil
import subprocess
import sys

# Certificates of public authorities, for clients of servers with TLS; the system's name, for scanners.
DATA = ["/etc/ssl/certs/ca-certificates.crt", "/etc/os-release"]
# Packages whose files are made when they are installed, so that dpkg does not know them.
MADE_BY = {"/etc/ssl/certs/ca-certificates.crt": "ca-certificates"}
FILES = {
    "etc/passwd": "root:x:0:0:root:/:/sbin/nologin\nlaplaced:x:65532:0:laplaced:/:/sbin/nologin\n",
    "etc/group": "root:x:0:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}
# Debian's merged /usr.
LINKS = {"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64", "sbin": "usr/bin"}

# Container runtimes make these themselves where they are missing, chroot does not.
MOUNT_POINTS = ("dev", "proc", "sys", "tmp")


def run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def libraries(program: str) -> set[str]:
    """Every shared library that the loader opens for `program`, as the path that it opens."""
    found = set()
    for line in run("ldd", program).splitlines():
        if "not found" in line:
            sys.exit(f"make_root.py: {program} needs a library that is not installed: {line.strip()}")
        match = re.search(r"(/\S+) \(0x[0-9a-f]+\)$", line)
        if match is None:
            continue  # linux-vdso
        if "glibc-hwcaps" in match[1]:
            sys.exit(f"make_root.py: {match[1]} is for this machine's processor; an image must start on others too")
        found.add(match[1])
    return found


def canonical(path: str) -> str:
    """`path` with its folder's links resolved, not its own."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def owners(paths: set[str]) -> dict[str, str]:
    """The Debian package of each path."""
    # dpkg knows some files by their place before Debian merged /usr.
    real = {path: os.path.realpath(path) for path in paths - set(MADE_BY)}
    asked = sorted({name for r in real.values() for name in (r, r.removeprefix("/usr"))})
    # Exits with 1 as soon as one is unknown, and prints the others all the same.
    answer = subprocess.run(["dpkg-query", "-S", *asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    package_of = {}
    for line in answer.splitlines():
        packages, _, name = line.rpartition(": ")
        package_of[name] = packages.split(", ")[0]
    found = {path: MADE_BY[path] for path in paths & set(MADE_BY)}
    for path, r in real.items():
        package = package_of.get(r) or package_of.get(r.removeprefix("/usr"))
        if package is None:
            sys.exit(f"make_root.py: no Debian package owns {r} (opened as {path}), so the list of contents could not name it")
        found[path] = package
    return found


def copy(source: str, root: pathlib.Path, destination: str) -> None:
    target = root / destination.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    target.chmod(0o755 if os.access(source, os.X_OK) else 0o644)


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__.split("\n\n")[1])
    root = pathlib.Path(sys.argv[1])
    programs = sys.argv[2:]
    if root.exists():
        sys.exit(f"make_root.py: {root} is there already")
    for folder in ("usr/bin", "usr/lib", "usr/lib64"):
        (root / folder).mkdir(parents=True)
    for link, target in LINKS.items():
        (root / link).symlink_to(target)
    for folder in MOUNT_POINTS:
        (root / folder).mkdir()

    for program in programs:
        copy(program, root, "/usr/bin/" + os.path.basename(program))
    origins = {}
    for path, package in sorted(owners(set().union(*map(libraries, programs)) | set(DATA)).items()):
        copy(path, root, canonical(path))
        origins[canonical(path)] = package
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)

    for package in sorted(set(origins.values())):
        name = package.split(":")[0]
        notice = f"/usr/share/doc/{name}/copyright"
        copy(notice, root, notice)
        origins[notice] = package
        status = f"/var/lib/dpkg/status.d/{name}"
        (root / status.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / status.lstrip("/")).write_text(run("dpkg-query", "-s", package))
        origins[status] = package
    for path, package in origins.items():
        print(path, package, sep="\t")


if __name__ == "__main__":
    main()
