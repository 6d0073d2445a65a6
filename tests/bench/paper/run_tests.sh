#!/bin/sh
# Tests of the paper's Python programs, by Debian's Python. Ends with 77, which ctest takes as skipped, where packages are missing.
set -eu
/usr/bin/python3 -c 'import PIL, google.protobuf, grpc, matplotlib, numpy, pytest, scipy, torch' 2>/dev/null || {
  echo "skipped: needs the packages that \`make deps-test\` installs" >&2
  exit 77
}
here=$(cd "$(dirname "$0")" && pwd)
export PYTHONDONTWRITEBYTECODE=1
(cd "$here/../../../client/python" && /usr/bin/python3 setup.py descriptors)
cd "$here"
exec /usr/bin/python3 -m pytest -q -p no:cacheprovider .
