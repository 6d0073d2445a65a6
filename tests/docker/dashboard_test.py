#!/usr/bin/env python3
"""Checks what can be told of the Grafana dashboard without Grafana.

    tests/docker/dashboard_test.py REPOSITORY

Grafana itself drops what it does not understand without a word: panels that overlap, data sources that do not exist, metrics
that nobody has. Exits with 0 if there is nothing to complain about.
"""
import json
import re
import sys
from pathlib import Path

COLUMNS = 24
# The layout of dashboards that Grafana 10 and later write; they read older ones, never newer ones.
NEWEST_SCHEMA = 39
SUFFIXES = {"counter": [""], "gauge": [""], "histogram": ["_bucket", "_sum", "_count"]}


def expressions(dashboard):
    """(where, expression) of every query in a dashboard."""
    for panel in dashboard["panels"]:
        for target in panel.get("targets", []):
            yield f"panel '{panel['title']}' {target['refId']}", target["expr"]
    for annotation in dashboard["annotations"]["list"]:
        if "expr" in annotation:
            yield f"annotation '{annotation['name']}'", annotation["expr"]


def metrics_in(expression):
    """Names of metrics of ours in an expression."""
    return set(re.findall(r"\b(?:laplaced?_|grpc_server_|process_)\w+", expression))


def known_metrics(golden):
    names = set()
    for line in golden.read_text().splitlines():
        kind, name = re.match(r"(\w+) (\w+)\{", line).groups()
        names.update(name + suffix for suffix in SUFFIXES[kind])
    return names


def complaints(dashboard, metrics, sources):
    if dashboard["schemaVersion"] > NEWEST_SCHEMA:
        yield f"schemaVersion: expected at most {NEWEST_SCHEMA}, got {dashboard['schemaVersion']}"
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    chosen = variables["datasource"]["current"]["value"]
    if chosen not in sources:
        yield f"variable datasource: expected one of {sorted(sources)} of the provisioning, got '{chosen}'"

    def source_complaints(where, source):
        if source != {"type": "prometheus", "uid": "${datasource}"}:
            yield f"{where}: expected the data source ${{datasource}}, got {source}"

    ids, taken = set(), {}
    for panel in dashboard["panels"]:
        where = f"panel '{panel['title']}'"
        if panel["id"] in ids:
            yield f"{where}: its id {panel['id']} is another panel's too"
        ids.add(panel["id"])
        grid = panel["gridPos"]
        if grid["x"] < 0 or grid["x"] + grid["w"] > COLUMNS:
            yield f"{where}: it does not fit into {COLUMNS} columns: {grid}"
        for x in range(grid["x"], grid["x"] + grid["w"]):
            for y in range(grid["y"], grid["y"] + grid["h"]):
                if (x, y) in taken:
                    yield f"{where}: it overlaps '{taken[x, y]}' at column {x}, row {y}"
                    break
                taken[x, y] = panel["title"]
        if panel["type"] == "row":
            continue
        yield from source_complaints(where, panel["datasource"])
        if not panel.get("description"):
            yield f"{where}: no description"
        references = [target["refId"] for target in panel["targets"]]
        if len(set(references)) != len(references):
            yield f"{where}: queries share a refId: {references}"
        for target in panel["targets"]:
            yield from source_complaints(where, target["datasource"])
    for name, variable in variables.items():
        if variable["type"] == "query":
            yield from source_complaints(f"variable {name}", variable["datasource"])
            for metric in metrics_in(variable["query"]["query"]) - metrics:
                yield f"variable {name}: the server has no metric {metric}"
    for where, expression in expressions(dashboard):
        for metric in metrics_in(expression) - metrics:
            yield f"{where}: the server has no metric {metric}"
        for name in re.findall(r"\$\{?(\w+)", expression):
            if name not in variables and name not in ("__rate_interval", "__range"):
                yield f"{where}: there is no variable ${name}"


def main():
    repository = Path(sys.argv[1])
    dashboard = json.loads((repository / "docker/grafana/dashboards/laplaced.json").read_text())
    metrics = known_metrics(repository / "tests/app/metric_names.golden")
    provisioning = (repository / "docker/grafana/provisioning/datasources/prometheus.yaml").read_text()
    sources = set(re.findall(r"^\s*uid: (\S+)$", provisioning, re.MULTILINE))
    found = list(complaints(dashboard, metrics, sources))
    for complaint in found:
        print(f"laplaced.json: {complaint}", file=sys.stderr)
    queries = len(list(expressions(dashboard)))
    if not queries:
        sys.exit("laplaced.json: no queries")
    print(f"{len(dashboard['panels'])} panels and rows, {queries} queries, {len(found)} complaints")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
