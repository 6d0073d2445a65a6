#!/bin/sh
# Runs a test of this folder with the Python client beside it. Usage: run.sh SERVER_BINARY PROGRAM [ARGUMENT...]
# Ends with 77, which ctest takes as skipped, where Debian's Python has no gRPC.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
binary=$1 program=$2
shift 2
/usr/bin/python3 -c 'import grpc, numpy, google.protobuf' 2>/dev/null || {
  echo "skipped: needs python3-grpcio, python3-protobuf and python3-numpy" >&2
  exit 77
}
cd "$here/../../client/python"
PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 setup.py descriptors
cd - >/dev/null
PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$here/../../client/python" exec /usr/bin/python3 "$here/$program" "$binary" "$@"
