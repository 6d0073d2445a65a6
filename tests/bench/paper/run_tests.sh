#!/bin/sh
# Tests of the paper's Python programs, by Debian's Python.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONDONTWRITEBYTECODE=1
(cd "$here/../../../client/python" && /usr/bin/python3 setup.py descriptors)
cd "$here"
exec /usr/bin/python3 -m pytest -q -p no:cacheprovider .
