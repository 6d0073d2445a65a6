#!/bin/sh
# Installs the client from a build folder, builds the example project against what was installed, and runs it against a
# server of the same build.
#
#   tests/client/package_test.sh SOURCE BUILD [LAPLACED]
#
# Without LAPLACED, a server program, the example is built and finds no server.
set -eu
source=$1 build=$2 laplaced=${3:-}
folder=$(mktemp -d)
server=
finish() {
  if [ -n "$server" ]; then
    kill "$server" 2>/dev/null || true
    wait "$server" 2>/dev/null || true
  fi
  rm -rf "$folder"
}
trap finish EXIT
fail() {
  echo "FAILED: $*" >&2
  exit 1
}

prefix=$folder/prefix
cmake --install "$build" --prefix "$prefix" >"$folder/install.log" || { cat "$folder/install.log"; fail "install"; }
find "$prefix" -type f | sort

# Public headers stand alone: nothing generated, nothing of gRPC or protobuf, nothing that was not installed.
headers=$prefix/include/laplace
[ -f "$headers/client/cpp/client.h" ] || fail "client.h is not installed"
if grep -rnE '#include.*(pb\.h|grpc|google/protobuf|torch|client_impl|load_)' "$headers"; then
  fail "a public header includes what is private"
fi
grep -rhoE '#include "(client|formats)/[^"]*"' "$headers" | sort -u | cut -d'"' -f2 | while read -r header; do
  [ -f "$headers/$header" ] || fail "$header is included and not installed"
done
if grep -rn "$source\|$build" "$prefix/lib" --include='*.cmake'; then
  fail "the package refers to the tree that it was made in"
fi

# Built from a copy, so that it cannot see this tree.
cp -r "$source/client/cpp/example" "$folder/example"
cmake -S "$folder/example" -B "$folder/build" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$folder/build" --verbose >"$folder/build.log" 2>&1 || { cat "$folder/build.log"; fail "build"; }
example=$folder/build/laplace_example
grep -q 'liblaplaced_client' "$folder/build.log" || fail "the log of the build shows no link line"
if grep -iE '(lib|-l)(torch|c10|zip)' "$folder/build.log"; then
  fail "LibTorch, or what only files of arrays need, is in the link line"
fi
if ldd "$example" | grep -E 'lib(torch|c10)'; then
  fail "the example needs LibTorch"
fi

if "$example" 127.0.0.1:1 mlp 2>"$folder/err"; then
  fail "the example answers without a server"
fi
grep -q 'no server can be reached at 127.0.0.1:1' "$folder/err" || { cat "$folder/err"; fail "no word about the server"; }

if [ -z "$laplaced" ]; then
  echo "not run against a server: this build has none"
  exit 0
fi
cp -r "$source/tests/data/registry_v1" "$folder/registry"
"$laplaced" --registry "$folder/registry" --listen 127.0.0.1:0 --http-listen off --address-file "$folder/address" \
  2>"$folder/server.log" &
server=$!
until [ -s "$folder/address" ]; do
  kill -0 "$server" 2>/dev/null || { cat "$folder/server.log"; fail "the server ended"; }
  sleep 0.05
done
"$example" "$(cat "$folder/address")" mlp >"$folder/out" || fail "the example"
cat "$folder/out"
# Two rows of three probabilities that sum to one, and an epistemic part that is not negative.
awk '/^mean/ { sum = $2 + $3 + $4; if (sum < 0.999 || sum > 1.001 || $6 < 0) exit 1; rows++ } END { if (rows != 2) exit 1 }' \
  FS='[ ,]+' "$folder/out" || fail "these are no predictions of three classes"
