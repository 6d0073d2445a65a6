#!/bin/sh
# Runs a test of this folder with the Python client beside it. Usage: run.sh SERVER_BINARY PROGRAM [ARGUMENT...]
# Ends with 77, which ctest takes as skipped, where Debian's Python lacks what the test needs.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=$1 program=$2
shift 2
needs="grpc numpy google.protobuf"
[ "$program" = golden_test.py ] || needs="$needs torch"
for module in $needs; do
  /usr/bin/python3 -c "import $module" 2>/dev/null || {
    echo "skipped: needs Python's $module (python3-grpcio, python3-protobuf, python3-numpy, python3-torch)" >&2
    exit 77
  }
done
cd "$here/../../client/python"
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 setup.py descriptors
cd - >/dev/null
export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE PYTHONDONTWRITEBYTECODE=1
PYTHONPATH="$here/../../client/python:$here:$here/../stress" exec /usr/bin/python3 "$here/$program" "$binary" "$@"
