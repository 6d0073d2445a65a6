#!/usr/bin/env bash
# Every query of the Grafana dashboard, of the alert rules and of the autoscaler, asked of a real Prometheus that scrapes a
# real server under a little load, with the configuration that Compose ships: no error, and an answer that is not empty.
#
#   tests/docker/monitoring_test.sh BUILD_FOLDER
#
# Needs Debian's prometheus, python3-yaml and dataset-fashion-mnist. One to four minutes.
set -euo pipefail

if [[ $# -ne 1 || ! -d $1 ]]; then
  echo "usage: $0 BUILD_FOLDER" >&2
  exit 2
fi
build=$(cd "$1" && pwd)
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
laplaced=$build/server/app/laplaced
laplace=$build/client/cli/laplace
work=$(mktemp -d)
pids=()

source "$repo/tests/support/polling.sh"

cleanup() {
  local code=$?
  trap - EXIT
  if ((${#pids[@]})); then
    kill -TERM "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
  fi
  if [[ $code -ne 0 ]]; then
    for log in "$work"/*.log; do
      [[ -s $log ]] && printf '\n-- last lines of %s\n' "${log##*/}" >&2 && tail -n 15 "$log" >&2
    done
  fi
  rm -rf "$work"
  exit "$code"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# address_in LOG PATTERN: prints the last word that the pattern's group takes out of a log; fails while there is none.
address_in() {
  local found
  found=$(sed -nE "s|.*$2.*|\1|p" "$1" | tail -n 1)
  [[ -n $found ]] && printf '%s' "$found"
}

scraped() {
  curl -sf "http://$prometheus/api/v1/query?query=laplaced_fit_seconds_count" | grep -q '"kind":"fit"'
}

for program in "$laplaced" "$laplace"; do [[ -x $program ]] || fail "$program is not built"; done
for program in prometheus promtool; do
  command -v $program >/dev/null || fail "$program is missing: apt-get install --no-install-recommends prometheus"
done
data=/usr/share/datasets/fashion-mnist
[[ -f $data/t10k-images-idx3-ubyte.gz ]] || fail "$data is missing: apt-get install dataset-fashion-mnist"
train=$data/train-images-idx3-ubyte.gz,$data/train-labels-idx1-ubyte.gz

echo "== server"
mkdir -p "$work/registry/models/fashion_cnn/1"
cp "$repo"/tests/data/fashion_cnn/model.{pt,json} "$work/registry/models/fashion_cnn/1/"
"$laplaced" --registry "$work/registry" --listen 127.0.0.1:0 --http-listen 127.0.0.1:0 --log-format text \
  --address-file "$work/address" >"$work/server.log" 2>&1 &
pids+=($!)
watched+=($!)
wait_for "the server" 60 test -s "$work/address"
LAPLACE_SERVER=$(<"$work/address")
export LAPLACE_SERVER
metrics=$(address_in "$work/server.log" 'http://([0-9.:]+)') || fail "the server's log does not name its HTTP port"

echo "== Prometheus"
mkdir "$work/prometheus"
cp "$repo"/docker/prometheus/*.yaml "$work/prometheus/"
configuration=$work/prometheus/prometheus-compose.yaml
grep -q "'laplaced:8034'" "$configuration" || fail "prometheus-compose.yaml does not scrape laplaced:8034"
# Kubernetes' labels are those that the operator's ServiceMonitor adds.
sed -i -e 's/scrape_interval: .*/scrape_interval: 1s/' -e 's/evaluation_interval: .*/evaluation_interval: 2s/' \
  -e "s/\['laplaced:8034'\]/['$metrics']\n        labels: {namespace: laplaced, pod: laplaced-0}/" "$configuration"
promtool check config "$configuration" >"$work/promtool.log" 2>&1 || fail "the configuration is not one"
prometheus --config.file="$configuration" --storage.tsdb.path="$work/tsdb" --web.listen-address=127.0.0.1:0 \
  >"$work/prometheus.log" 2>&1 &
pids+=($!)
watched+=($!)
wait_for "Prometheus's port" 30 address_in "$work/prometheus.log" 'msg="Listening on" address=([0-9.:]+)' >/dev/null
prometheus=$(address_in "$work/prometheus.log" 'msg="Listening on" address=([0-9.:]+)')

echo "== a fit, which Prometheus sees from its start to its end"
fit=("$laplace" fit fashion_cnn --train "$train" --validation "$train" --validation-rows 50000:51000)
wait_for "a scrape of the server" 60 scraped
timeout 300 "${fit[@]}" --train-rows 0:3000 --rank 5 --b1 256 --b2 1024 >"$work/fit.log" 2>&1 || fail "the fit failed"

echo "== load"
# Real rows and made-up ones, again and again; and a longer fit, for its progress.
load() {
  while :; do
    "$laplace" predict fashion_cnn --input "$data/t10k-images-idx3-ubyte.gz" --limit 64 --output json
    "$laplace" score fashion_cnn --input "$data/t10k-images-idx3-ubyte.gz" --limit 256 --output -
    "$laplace" bench fashion_cnn --concurrency 4 --duration 1
  done
}
load >"$work/load.log" 2>&1 &
pids+=($!)
"${fit[@]}" --train-rows 0:50000 --structure last-layer --keep-inactive >"$work/long_fit.log" 2>&1 &
pids+=($!)

echo "== queries"
timeout 180 /usr/bin/python3 "$repo/tests/docker/monitoring_queries.py" "$repo" "http://$prometheus"
