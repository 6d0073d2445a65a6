#!/usr/bin/env bash
# Runs the server's image as its configuration says, on a read-only root, and drives it from outside with the client's:
# load, fit, predict, health, SIGTERM; as the image's user, as another one, and as one that may only read the registry.
# As root; in a network namespace of its own, so that the image's ports are free.
#
#   docker/image/try_image.sh SERVER_ROOT CLIENT_ROOT CONFIG REPOSITORY
#
# CONFIG is the "config" of the server's image, as docker inspect prints it. Needs: iproute2 jq curl util-linux, and
# dataset-fashion-mnist.
set -euo pipefail

server_root=$1 client_root=$2 config=$3 repository=$4
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
data=/usr/share/datasets/fashion-mnist
work=$(mktemp -d)
net=laplaced-image-$$
# Not the loopback address: a server that listens there only is of no use in a container.
address=10.87.0.1
server_pid=

fail() {
  printf 'try_image.sh: %s\n' "$*" >&2
  if [[ -s $work/server.log ]]; then
    echo "The server's last words:" >&2
    tail -n 20 "$work/server.log" >&2
  fi
  exit 1
}

cleanup() {
  local code=$?
  trap - EXIT
  if [[ -n $server_pid ]]; then
    # The server itself, too, which does not end with what started it.
    pkill -KILL -P "$server_pid" || true
    kill -KILL "$server_pid" 2>/dev/null || true
    wait "$server_pid" 2>/dev/null || true
  fi
  ip netns del "$net" 2>/dev/null || true
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[[ $(id -u) == 0 ]] || fail "must run as root, for namespaces"
[[ -d $data ]] || fail "$data is missing: apt-get install dataset-fashion-mnist"

ip netns add "$net"
ip -n "$net" link set lo up
ip -n "$net" address add "$address/32" dev lo

# The environment, command and volume that the image declares.
environment=()
while read -r variable; do environment+=(--env "$variable"); done < <(jq -r '.Env[]' "$config")
mapfile -t command < <(jq -r '(.Entrypoint // []) + (.Cmd // []) | .[]' "$config")
mapfile -t health < <(jq -r '.Healthcheck.Test[1:][]' "$config")
registry=$(jq -r '.Volumes | keys[]' "$config")
image_user=$(jq -r .User "$config")
[[ $(wc -l <<<"$registry") == 1 && -n $registry ]] || fail "expected one volume, the image declares: $registry"

run() { ip netns exec "$net" "$here/run_root.sh" "$@"; }

# client ARGUMENT...: the client's image as anybody, with data where its users would mount them.
client() {
  run "$client_root" 12345:12345 --env "LAPLACE_SERVER=$address:8033" --mount "$data:/data:ro" -- /usr/bin/laplace "$@"
}

# expect ARGUMENT...: the same, where only success counts.
expect() {
  client "$@" >"$work/client.log" 2>&1 || fail "laplace $*: $(tail -n 5 "$work/client.log")"
  echo "laplace $1: ok"
}

# start_server USER FOLDER[:ro] ARGUMENT...: waits until it serves.
start_server() {
  local user=$1 folder=${2%:ro} mode=
  [[ $2 != *:ro ]] || mode=:ro
  shift 2
  : >"$work/server.log"
  ip netns exec "$net" "$here/run_root.sh" "$server_root" "$user" "${environment[@]}" --mount "$folder:$registry$mode" -- \
    "${command[@]}" "$@" >"$work/server.log" 2>&1 &
  server_pid=$!
  client health --wait 120 || fail "the server does not serve as $user"
  # Its own health check, which runs beside it as the same user.
  run "$server_root" "$user" "${environment[@]}" -- "${health[@]}" >/dev/null || fail "the image's health check fails: ${health[*]}"
  local status inside
  inside=$(pgrep -P "$server_pid") || fail "the server ended"
  status=$(</proc/"$inside"/status)
  grep -Eq "^Uid:\s+${user%:*}\s+${user%:*}\s+${user%:*}\s" <<<"$status" || fail "the server does not run as $user: $(grep Uid <<<"$status")"
  grep -Eq '^CapEff:\s+0+$' <<<"$status" || fail "the server has privileges: $(grep CapEff <<<"$status")"
  awk '$5 == "/" { last = $6 } END { exit last !~ /^ro/ }' "/proc/$inside/mountinfo" || fail "the server's root can be written"
}

# Asks the server to stop, and expects it to be gone, with exit code 0, within what it gives calls in progress and a little.
stop_server() {
  local inside code=0 begin=$SECONDS limit=15
  inside=$(pgrep -P "$server_pid")
  kill -"$(jq -r .StopSignal "$config")" "$inside"
  while kill -0 "$server_pid" 2>/dev/null; do
    ((SECONDS - begin <= limit)) || fail "the server still runs $limit seconds after $(jq -r .StopSignal "$config")"
    sleep 0.1
  done
  wait "$server_pid" || code=$?
  server_pid=
  [[ $code == 0 ]] || fail "the server ended with exit code $code"
  echo "stopped with exit code 0 in $((SECONDS - begin)) s"
}

# A registry as a new volume would be: the image's folder; with a model, which belongs to USER.
new_registry() {
  local folder=$1 user=$2
  cp -a "$server_root$registry" "$folder"
  mkdir -p "$folder/models/fashion_cnn/1"
  cp "$repository"/tests/data/fashion_cnn/model.{pt,json} "$folder/models/fashion_cnn/1/"
  chown -R "$user" "$folder/models"
}

# predict OUT: what the server says of three images.
predict() {
  client predict fashion_cnn --input /data/t10k-images-idx3-ubyte.gz --limit 3 --output json >"$1" || fail "predict"
  [[ -s $1 ]] || fail "predict printed nothing"
}

first=$work/first second=$work/second train=/data/train-images-idx3-ubyte.gz,/data/train-labels-idx1-ubyte.gz
fit=(fit fashion_cnn --train "$train" --train-rows 0:3000 --validation "$train" --validation-rows 3000:3500)
low_rank=(--rank 10 --b1 256 --b2 512)

echo "== as the image's user, $image_user"
new_registry "$first" "$image_user"
start_server "$image_user" "$first"
expect models load fashion_cnn
expect "${fit[@]}" "${low_rank[@]}"
predict "$work/answer"
for path in /v2/health/ready /metrics; do
  ip netns exec "$net" curl --fail --silent --show-error --max-time 10 "http://$address:8034$path" >"$work/http" || fail "GET $path"
done
grep -q '^laplaced_' "$work/http" || fail "/metrics has no metric of laplaced"
stop_server

echo "== as another user, 1000650000:0, from nothing"
new_registry "$second" 1000650000:0
start_server 1000650000:0 "$second"
expect models load fashion_cnn
expect "${fit[@]}" --structure last-layer
predict "$work/other"
stop_server

echo "== as a user and group that own nothing, registry read-only"
start_server 4711:4711 "$first:ro" --read-only
predict "$work/again"
# The same posterior, so the same numbers but for the time that they took.
normal() { jq -S 'del(.. | .timing?, .queue_ms?, .compute_ms?, .latency_ms?)' "$1"; }
cmp <(normal "$work/answer") <(normal "$work/again") || fail "the read-only server answers something else"
if client "${fit[@]}" "${low_rank[@]}" >/dev/null 2>"$work/refusal"; then fail "a read-only server fits"; fi
stop_server

echo "== without a registry that it may write: a word, not a crash"
code=0
run "$server_root" "$image_user" "${environment[@]}" -- "${command[@]}" >"$work/refusal" 2>&1 || code=$?
[[ $code == 1 ]] || fail "expected exit code 1, got $code: $(<"$work/refusal")"
grep -q "$registry cannot be written" "$work/refusal" || fail "no word about the registry: $(<"$work/refusal")"
echo "the image works"
