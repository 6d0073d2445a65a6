#!/usr/bin/env python3
"""Checks an image's root file system against the list of contents that it carries, and for what should not be there.

usage: check_root.py ROOT PROGRAM...

Every file must be listed with its checksum, and every listed one be there; every library must come from a package with a
version, the one that dpkg's entry for it names. /usr/bin holds PROGRAMs only, no file has set-uid or set-gid bits, and
no folder but the registry and /tmp may be written by others.
"""

import hashlib
import json
import os
import pathlib
import re
import stat
import sys

SBOM = "usr/share/laplaced/sbom.spdx.json"
WRITABLE = {"tmp", "var/lib/laplaced"}


def problems(root: pathlib.Path, programs: set[str]) -> list[str]:
    found = []
    document = json.loads((root / SBOM).read_text())
    if document["spdxVersion"] != "SPDX-2.3":
        found.append(f"{SBOM}: expected SPDX-2.3, got {document['spdxVersion']}")
    files = {f["SPDXID"]: f for f in document["files"]}
    packages = {p["SPDXID"]: p for p in document["packages"]}
    if len(files) != len(document["files"]) or len(packages) != len(document["packages"]):
        found.append(f"{SBOM}: identifiers are not unique")
    for relation in document["relationships"]:
        for end in (relation["spdxElementId"], relation["relatedSpdxElement"]):
            if end != "SPDXRef-DOCUMENT" and end not in files and end not in packages:
                found.append(f"{SBOM}: a relationship names {end}, which is not listed")
    owner = {r["relatedSpdxElement"]: packages.get(r["spdxElementId"]) for r in document["relationships"]
             if r["relationshipType"] == "CONTAINS"}

    listed = {}
    for identifier, file in files.items():
        name = file["fileName"].removeprefix("./")
        listed[name] = {c["algorithm"]: c["checksumValue"] for c in file["checksums"]}["SHA256"]
        package = owner.get(identifier)
        if package is None:
            found.append(f"{name} is listed without a package")
        elif re.search(r"\.so(\.|$)", name) and not package.get("externalRefs"):
            found.append(f"{name} is a library of no Debian package")
    for package in packages.values():
        if not package.get("versionInfo"):
            found.append(f"package {package['name']} is listed without a version")
        status = root / "var/lib/dpkg/status.d" / package["name"]
        if status.exists() and f"\nVersion: {package['versionInfo']}\n" not in status.read_text():
            found.append(f"{status.relative_to(root)} has another version than the list: {package['versionInfo']}")

    there = set()
    for path in sorted(root.rglob("*")):
        name, mode = str(path.relative_to(root)), path.lstat().st_mode
        if stat.S_ISREG(mode):
            there.add(name)
            if name != SBOM and listed.get(name) != hashlib.sha256(path.read_bytes()).hexdigest():
                found.append(f"{name} is {'not what the list says' if name in listed else 'not listed'}")
            if mode & (stat.S_ISUID | stat.S_ISGID):
                found.append(f"{name} is set-uid or set-gid")
        elif not stat.S_ISDIR(mode) and not stat.S_ISLNK(mode):
            found.append(f"{name} is neither file, folder nor link")
        if not stat.S_ISLNK(mode) and mode & stat.S_IWOTH and name not in WRITABLE:
            found.append(f"{name} can be written by everybody")
        if stat.S_ISLNK(mode) and not (path.parent / os.readlink(path)).exists():
            found.append(f"{name} links to {os.readlink(path)}, which is not there")
    found += [f"{name} is listed and not there" for name in sorted(set(listed) - there)]
    there_programs = set(os.listdir(root / "usr/bin"))
    if there_programs != programs:
        found.append(f"/usr/bin holds {sorted(there_programs)}, expected {sorted(programs)}")
    return found


def main() -> None:
    if len(sys.argv) < 3:
        sys.exit(__doc__.split("\n\n")[1])
    found = problems(pathlib.Path(sys.argv[1]), set(sys.argv[2:]))
    for problem in found:
        print(f"{sys.argv[1]}: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
