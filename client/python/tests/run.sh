#!/bin/sh
# Types and tests of the Python client, by Debian's Python. Usage: run.sh SERVER_BINARY
set -eu
export LAPLACED_BINARY="$1" PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=.
cd "$(dirname "$0")/.."
/usr/bin/python3 setup.py descriptors
/usr/bin/python3 -m mypy --cache-dir=/dev/null
exec /usr/bin/python3 -m pytest -q -p no:cacheprovider tests
