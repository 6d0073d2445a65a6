#!/bin/sh
# Checks the alert rules that come with the server, with Prometheus's own tool.
#
#   tests/observe/alerts_test.sh FOLDER
#
# Exits with 77 (skipped) where promtool is not installed (apt-get install prometheus).
set -eu

if ! command -v promtool >/dev/null; then
  echo "skipped: promtool is not installed (apt-get install --no-install-recommends prometheus)"
  exit 77
fi
cd "$1"
promtool check rules laplaced-alerts.yaml
promtool check config prometheus.yaml
promtool check config prometheus-compose.yaml
promtool test rules laplaced-alerts-test.yaml
