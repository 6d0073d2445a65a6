#!/usr/bin/env python3
"""Lists what an image holds, as SPDX 2.3 JSON: every file with its checksums, every Debian package that files come from
with its version, and the packages of headers that are compiled into the programs.

usage: sbom.py ROOT NAME VERSION ORIGINS [COMPILED_IN_PACKAGE...]

ROOT is the image's root file system; every file in it that ORIGINS (what make_root.py prints) does not give to a Debian
package counts as part of NAME itself. Writes ROOT/usr/share/laplaced/sbom.spdx.json, the one file that it does not list.
"""

import datetime
import hashlib
import json
import os
import pathlib
import re
import subprocess
import sys
import uuid
from urllib.parse import quote

PLACE = "usr/share/laplaced/sbom.spdx.json"
FIELDS = ("Package", "Version", "Architecture", "source:Package", "source:Version", "Maintainer", "Homepage")


def identifier(kind: str, name: str) -> str:
    # Two names that differ in a replaced character only must not become one identifier.
    plain = re.sub(r"[^A-Za-z0-9.-]", "-", name)
    return f"SPDXRef-{kind}-{plain}" + ("" if plain == name else "-" + hashlib.sha256(name.encode()).hexdigest()[:8])


def digest(path: pathlib.Path, algorithm: str) -> str:
    return hashlib.new(algorithm, path.read_bytes()).hexdigest()


def verification_code(files: list[dict]) -> dict:
    """SPDX 2.3, 7.9: SHA-1 of the sorted SHA-1s of a package's files."""
    sums = sorted(c["checksumValue"] for f in files for c in f["checksums"] if c["algorithm"] == "SHA1")
    return {"packageVerificationCodeValue": hashlib.sha1("".join(sums).encode()).hexdigest()}


def debian_package(name: str, distribution: str, files: list[dict]) -> dict:
    separator = "\x1f"
    format_ = separator.join("${" + field + "}" for field in FIELDS)
    answer = subprocess.run(["dpkg-query", "-W", "-f", format_, name], check=True, stdout=subprocess.PIPE, text=True).stdout
    package, version, architecture, source, source_version, maintainer, homepage = answer.split(separator)
    purl = f"pkg:deb/debian/{quote(package)}@{quote(version, safe='')}?arch={architecture}&distro={distribution}"
    person = "Organization: Debian" if not maintainer else "Person: " + re.sub(r"\s*<(.*)>", r" (\1)", maintainer)
    entry = {
        "SPDXID": identifier("Package", package),
        "name": package,
        "versionInfo": version,
        "supplier": person,
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": bool(files),
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "NOASSERTION",
        "copyrightText": "NOASSERTION",
        "sourceInfo": f"built by Debian from source package {source} {source_version}",
        "comment": f"/usr/share/doc/{package}/copyright has the licences" if files else "headers, compiled into the programs",
        "externalRefs": [{
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": purl,
        }],
    }
    if homepage:
        entry["homepage"] = homepage
    if files:
        entry["packageVerificationCode"] = verification_code(files)
    return entry


def main() -> None:
    if len(sys.argv) < 5:
        sys.exit(__doc__.split("\n\n")[1])
    root, name, version, origins_file = pathlib.Path(sys.argv[1]), *sys.argv[2:5]
    compiled_in = sys.argv[5:]
    origins = dict(line.split("\t") for line in pathlib.Path(origins_file).read_text().splitlines())
    system = dict(line.split("=", 1) for line in (root / "etc/os-release").read_text().splitlines() if "=" in line)
    distribution = "debian-" + system["VERSION_ID"].strip('"')

    files_of: dict[str, list[dict]] = {}
    for path in sorted(p for p in root.rglob("*") if p.is_file() and not p.is_symlink()):
        place = "/" + str(path.relative_to(root))
        files_of.setdefault(origins.get(place, ""), []).append({
            "SPDXID": identifier("File", place),
            "fileName": "." + place,
            "checksums": [{"algorithm": "SHA1", "checksumValue": digest(path, "sha1")},
                          {"algorithm": "SHA256", "checksumValue": digest(path, "sha256")}],
            "licenseConcluded": "NOASSERTION",
            "copyrightText": "NOASSERTION",
        })
    missing = set(origins) - {f["fileName"][1:] for files in files_of.values() for f in files}
    if missing:
        sys.exit(f"sbom.py: {origins_file} names files that {root} does not hold: {', '.join(sorted(missing))}")

    own = {
        "SPDXID": identifier("Package", name),
        "name": name,
        "versionInfo": version,
        "supplier": "NOASSERTION",
        "downloadLocation": "NOASSERTION",
        "filesAnalyzed": True,
        "packageVerificationCode": verification_code(files_of[""]),
        "licenseConcluded": "NOASSERTION",
        "licenseDeclared": "Apache-2.0",
        "copyrightText": "NOASSERTION",
        "primaryPackagePurpose": "APPLICATION",
    }
    packages, relations = [own], []

    def relate(element: str, kind: str, other: str) -> None:
        relations.append({"spdxElementId": element, "relationshipType": kind, "relatedSpdxElement": other})

    relate("SPDXRef-DOCUMENT", "DESCRIBES", own["SPDXID"])
    for package, files in sorted(files_of.items()):
        if package:
            packages.append(debian_package(package, distribution, files))
            relate(own["SPDXID"], "DEPENDS_ON", packages[-1]["SPDXID"])
        owner = packages[-1] if package else own
        for file in files:
            relate(owner["SPDXID"], "CONTAINS", file["SPDXID"])
    for package in compiled_in:
        packages.append(debian_package(package, distribution, []))
        relate(own["SPDXID"], "STATIC_LINK", packages[-1]["SPDXID"])

    seconds = os.environ.get("SOURCE_DATE_EPOCH")
    now = datetime.datetime.fromtimestamp(int(seconds), datetime.timezone.utc) if seconds else datetime.datetime.now(datetime.timezone.utc)
    document = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": f"{name}-{version}",
        # Unique, as SPDX asks; a URN, because no address of this document exists.
        "documentNamespace": f"urn:uuid:{uuid.uuid4()}",
        "creationInfo": {"created": now.strftime("%Y-%m-%dT%H:%M:%SZ"), "creators": [f"Tool: laplaced-docker-sbom-{version}"]},
        "packages": packages,
        "files": [file for files in files_of.values() for file in files],
        "relationships": relations,
    }
    target = root / PLACE
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
