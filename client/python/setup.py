"""Puts the API's descriptors, api.binpb, into the package. Everything else is in pyproject.toml."""

import pathlib
import subprocess
import sys
import tempfile

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
    # Appears as a whole: tests that run at the same time make and read it.
    with tempfile.TemporaryDirectory(dir=HERE) as folder:
        made = pathlib.Path(folder) / TARGET.name
        subprocess.run(
            ["protoc", f"--proto_path={PROTO}", "--include_imports", f"--descriptor_set_out={made}", *files],
            check=True,
        )
        made.replace(TARGET)


if sys.argv[1:] == ["descriptors"]:  # tests call this where setuptools need not be
    make_descriptors()
else:
    from setuptools import setup
    from setuptools.command.build_py import build_py

    class BuildWithDescriptors(build_py):
        def run(self) -> None:
            make_descriptors()
            super().run()

    setup(cmdclass={"build_py": BuildWithDescriptors})
