"""Puts the API's descriptors, api.binpb, into the package. Everything else is in pyproject.toml."""

import pathlib
import subprocess
import sys

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = pathlib.Path(__file__).resolve().parent
PROTO = HERE.parent.parent / "proto"
TARGET = HERE / "laplace_client" / "api.binpb"


def make_descriptors() -> None:
    """With protoc, from the repository's proto/. An sdist has the file and no proto/."""
    if not PROTO.is_dir():
        return
    files = [
        str(path.relative_to(PROTO))
        for folder in ("laplace/v1", "google/rpc", "grpc/health/v1")
        for path in sorted((PROTO / folder).glob("*.proto"))
    ]
    subprocess.run(
        ["protoc", f"--proto_path={PROTO}", "--include_imports", f"--descriptor_set_out={TARGET}", *files],
        check=True,
    )


class BuildWithDescriptors(build_py):
    def run(self) -> None:
        make_descriptors()
        super().run()


if sys.argv[1:] == ["descriptors"]:
    make_descriptors()
else:
    setup(cmdclass={"build_py": BuildWithDescriptors})
