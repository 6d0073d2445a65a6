#!/usr/bin/env bash
# make demo: starts a server on a folder of its own, fits a posterior on real data, predicts and
# scores, stops the server.
#
#   client/demo/demo.sh BUILD_FOLDER
#
# State is kept in run/demo, so that a second run fits nothing again; FRESH=1 starts over. Exits with
# 0 only if every step worked and the server stopped cleanly.
set -euo pipefail

if [[ $# -ne 1 || ! -d $1 ]]; then
  echo "usage: $0 BUILD_FOLDER" >&2
  exit 2
fi
build=$(cd "$1" && pwd)
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
state=$repo/run/demo
log=$state/server.log
address_file=$state/address
server_pid=
started=

say() { printf '\n== %s\n' "$*"; }

fail() {
  printf 'demo: %s\n' "$*" >&2
  exit 1
}

show_log() {
  if [[ -n $started && -s $log ]]; then
    printf '\nThe last lines of %s:\n' "$log" >&2
    tail -n 20 "$log" >&2
  fi
}

# Asks the server to stop and returns its exit code; insists after 20 seconds.
stop_server() {
  local pid=$server_pid code=0 tenths=0
  server_pid=
  kill -TERM "$pid" 2>/dev/null || true
  while kill -0 "$pid" 2>/dev/null && ((tenths++ < 200)); do sleep 0.1; done
  kill -KILL "$pid" 2>/dev/null || true
  wait "$pid" || code=$?
  return "$code"
}

cleanup() {
  local code=$?
  trap - EXIT
  if [[ -n $server_pid ]]; then stop_server || true; fi
  if [[ $code -ne 0 ]]; then show_log; fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# find_file PACKAGE NAME: where a Debian package put a file.
find_file() {
  local path
  path=$(dpkg -L "$1" 2>/dev/null | grep -E "/$2\$" | head -n 1) || true
  [[ -n $path && -f $path ]] || fail "$2 is missing: apt-get install $1"
  printf '%s' "$path"
}

laplaced=$build/server/app/laplaced
laplace=$build/client/cli/laplace
fashion_demo=$build/client/demo/fashion_demo
for program in "$laplaced" "$laplace" "$fashion_demo"; do
  [[ -x $program ]] || fail "$program is not built"
done
train_images=$(find_file dataset-fashion-mnist train-images-idx3-ubyte.gz)
train_labels=$(find_file dataset-fashion-mnist train-labels-idx1-ubyte.gz)
test_images=$(find_file dataset-fashion-mnist t10k-images-idx3-ubyte.gz)
test_labels=$(find_file dataset-fashion-mnist t10k-labels-idx1-ubyte.gz)
digits=$(find_file python3-sklearn digits.csv.gz)

mkdir -p "$state"
exec 9>"$state/lock"
flock -n 9 || fail "another demo is running in $state"

# A posterior belongs to its checkpoint, so another checkpoint starts over too.
checkpoint=$repo/tests/data/fashion_cnn
model=$state/registry/models/fashion_cnn/1
if [[ -n ${FRESH:-} && ${FRESH:-} != 0 ]]; then rm -rf "$state/registry"; fi
for file in model.pt model.json; do
  if [[ -d $model ]] && ! cmp -s "$checkpoint/$file" "$model/$file"; then rm -rf "$model"; fi
done
if [[ ! -d $model ]]; then
  mkdir -p "$model"
  cp "$checkpoint/model.pt" "$checkpoint/model.json" "$model/"
fi

say "starting the server"
rm -f "$address_file"
# The lock is this script's; a server that outlives it must not hold it.
"$laplaced" --registry "$state/registry" --listen 127.0.0.1:0 --http-listen off \
  --address-file "$address_file" >"$log" 2>&1 9>&- &
server_pid=$!
started=yes
tenths=0
until [[ -s $address_file ]]; do
  if ! kill -0 "$server_pid" 2>/dev/null; then
    server_pid=
    fail "the server ended before it was ready"
  fi
  ((tenths++ < 600)) || fail "the server was not ready within 60 seconds"
  sleep 0.1
done
LAPLACE_SERVER=$(<"$address_file")
export LAPLACE_SERVER
"$laplace" health

say "laplace models load fashion_cnn"
"$laplace" models load fashion_cnn

say "laplace fit fashion_cnn, on 50,000 training images, with 10,000 others for validation"
"$laplace" fit fashion_cnn --reuse \
  --train "$train_images,$train_labels" --train-rows 0:50000 \
  --validation "$train_images,$train_labels" --validation-rows 50000:60000

say "predicting clothes that the network has never seen, and things that are not clothes"
"$fashion_demo" --server "$LAPLACE_SERVER" --model fashion_cnn --images "$test_images" \
  --labels "$test_labels" --digits "$digits"

say "stopping the server"
stop_server || fail "the server did not stop cleanly (exit code $?)"
echo "done; the registry is kept in ${state#"$repo"/} (FRESH=1 starts over)"
