#!/usr/bin/env bash
# The server as KServe's pod would run it: the arguments of docker/kserve/servingruntime.yaml word for word, the model in
# /mnt/models, read-only like the whole root file system, a user id that nobody knows, no capabilities. It answers the Open
# Inference Protocol under the InferenceService's name, and its probes say when it can.
#
#   tests/docker/kserve_test.sh BUILD_FOLDER
#
# Namespaces of its own for mounts and network, so that folder and ports are free: as root, else it exits with 77 (skipped).
set -euo pipefail

if [[ $# -lt 1 || ! -d $1 ]]; then
  echo "usage: $0 BUILD_FOLDER" >&2
  exit 2
fi
if [[ $(id -u) != 0 ]] || ! unshare -mn true 2>/dev/null; then
  echo "skipped: namespaces need root"
  exit 77
fi
if [[ ${2:-} != inside ]]; then
  exec unshare -mn --propagation private "$0" "$1" inside
fi
build=$(cd "$1" && pwd)
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
laplaced=$build/server/app/laplaced
laplace=$build/client/cli/laplace
uid=$((100000 + RANDOM))
work=/mnt/work
server=

source "$repo/tests/support/polling.sh"

# stop: SIGTERM, and the exit code.
stop() {
  local pid=$server
  server=
  watched=()
  kill -TERM "$pid" 2>/dev/null || true
  wait "$pid"
}

cleanup() {
  local code=$?
  trap - EXIT
  if [[ -n $server ]]; then stop || true; fi
  if [[ $code -ne 0 && -s $work/server.log ]]; then
    printf '\n-- last lines of the server\n' >&2
    tail -n 15 "$work/server.log" >&2
  fi
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

for program in "$laplaced" "$laplace"; do [[ -x $program ]] || fail "$program is not built"; done
data=/usr/share/datasets/fashion-mnist
[[ -f $data/t10k-images-idx3-ubyte.gz ]] || fail "$data is missing: apt-get install dataset-fashion-mnist"
ip link set lo up
# Gone with the namespace.
mount -t tmpfs tmpfs /mnt
mkdir /mnt/models "$work"
mapfile -t words < <(/usr/bin/python3 - "$repo/docker/kserve" <<'PYTHON'
import sys, yaml
runtime = yaml.safe_load(open(f"{sys.argv[1]}/servingruntime.yaml"))["spec"]["containers"][0]
name = yaml.safe_load(open(f"{sys.argv[1]}/inferenceservice.yaml"))["metadata"]["name"]
probe = runtime["readinessProbe"]["httpGet"]
print(name, f"127.0.0.1:{runtime['ports'][0]['containerPort']}", f"http://127.0.0.1:{probe['port']}", probe["path"], sep="\n")
print(*(argument.replace("{{.Name}}", name) for argument in runtime["args"]), sep="\n")
PYTHON
)
((${#words[@]} > 4)) || fail "docker/kserve cannot be read: apt-get install python3-yaml"
name=${words[0]} grpc=${words[1]} http=${words[2]} ready=${words[3]}
arguments=("${words[@]:4}")

echo "== a model with a small posterior"
model=$work/registry/models/fashion_cnn/1
mkdir -p "$model"
cp "$repo"/tests/data/fashion_cnn/model.{pt,json} "$model/"
mkdir "$work/bare"
cp "$model"/* "$work/bare/"
"$laplaced" --registry "$work/registry" --listen 127.0.0.1:8033 --http-listen off --address-file "$work/address" \
  >"$work/server.log" 2>&1 &
server=$!
watched=("$server")
wait_for "the fitting server" 60 test -s "$work/address"
train=$data/train-images-idx3-ubyte.gz,$data/train-labels-idx1-ubyte.gz
timeout 300 "$laplace" fit fashion_cnn --train "$train" --train-rows 0:1000 --b1 128 --b2 512 --rank 5 \
  --validation "$train" --validation-rows 50000:50500 >"$work/fit.log" 2>&1 || fail "the fit failed: $(tail -n 1 "$work/fit.log")"
stop || fail "the fitting server did not stop cleanly"
chmod -R a+rX "$work"

# Every file system but the kernel's own and the one that was made here.
while read -r target; do
  case $target in
    /mnt | /mnt/* | /proc | /proc/* | /sys | /sys/* | /dev | /dev/*) ;;
    *) mount -o remount,bind,ro "$target" ;;
  esac
done < <(findmnt -rno TARGET)
for folder in / /tmp "$repo"; do
  if touch "$folder/.written" 2>/dev/null; then
    rm -f "$folder/.written"
    fail "$folder can be written, and should be read-only here"
  fi
done

# serve FOLDER: as the pod, with FOLDER as what the storageUri held.
serve() {
  mountpoint -q /mnt/models && umount /mnt/models
  mount --bind "$1" /mnt/models
  mount -o remount,bind,ro /mnt/models
  setpriv --reuid=$uid --regid=$uid --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
    "$laplaced" "${arguments[@]}" >"$work/server.log" 2>&1 &
  server=$!
  watched=("$server")
  wait_for "the probe of $1" 60 listens
}
probe() { curl -s -o "$work/probe" -w '%{http_code}' "$http$1" || true; }
listens() { [[ $(probe /v2/health/live) == 200 ]]; }
answers() { [[ $(probe "$ready") == "$1" ]]; }
says() { answers 503 && grep -q "$1" "$work/probe"; }

echo "== without a posterior the pod is alive and not ready"
serve "$work/bare"
wait_for "the reason why it is not ready" 60 says "$name has no active posterior"
stop || fail "the server did not stop cleanly (exit code $?)"

for layout in "$model" "$work/registry/models/fashion_cnn" "$work/registry"; do
  echo "== /mnt/models holds ${layout#"$work/"}, uid $uid"
  before=$(cd "$layout" && find . -printf '%p %s %T@\n' | sort | sha256sum)
  serve "$layout"
  wait_for "readiness" 60 answers 200
  timeout 120 /usr/bin/python3 "$repo/tests/docker/kserve_client.py" "$repo/proto" "$grpc" "$name" "$data/t10k-images-idx3-ubyte.gz"
  [[ $(probe /metrics) == 200 ]] && grep -q "^laplace_epistemic_count{.*model=\"$name\"" "$work/probe" ||
    fail "/metrics does not count the predictions of $name"
  SECONDS=0
  stop || fail "the server did not stop cleanly (exit code $?)"
  # The pod's terminationGracePeriodSeconds.
  ((SECONDS < 40)) || fail "the server took $SECONDS s to stop"
  [[ $(cd "$layout" && find . -printf '%p %s %T@\n' | sort | sha256sum) == "$before" ]] || fail "the folder was changed"
done
echo "done"
