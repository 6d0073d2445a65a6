#!/usr/bin/env python3
"""Asks a running Prometheus every query that this repository ships.

    tests/docker/monitoring_queries.py REPOSITORY http://HOST:PORT

Each must be answered without an error and with at least one value that is a number, within PATIENCE seconds. Alerts are silent
in good times, so their comparisons are asked for their truth (`> bool`) instead of for what passes them: that is empty only if
a metric is missing or labels do not match.
"""
import json
import math
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

from dashboard_test import expressions

PATIENCE = 90
VARIABLES = {"$__rate_interval": "15s", "$__range": "5m", "$instance": ".*", "$model": ".*"}
# What may be empty, and why.
MAY_BE_EMPTY = {
    "annotation 'Restarts'": "the server is not restarted here",
}


class Prometheus:
    def __init__(self, address):
        self.address = address

    def get(self, path, **parameters):
        url = f"{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise ValueError(json.load(error)["error"]) from None

    def numbers(self, expression):
        result = self.get("query", query=expression)["result"]
        values = [float(series["value"][1]) for series in result]
        return [value for value in values if not math.isnan(value)]


def with_variables(expression):
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    if "$" in expression:
        raise ValueError(f"a variable without a value: {expression}")
    return expression


def as_truth(expression):
    """Comparisons answer 0 or 1; what stands in braces is no comparison."""
    parts = re.split(r"(\{[^}]*\})", expression)
    parts[::2] = [re.sub(r"(>=|<=|==|!=|>|<)", r"\1 bool", part) for part in parts[::2]]
    return "".join(parts)


def adapter_queries(path):
    """(where, query) as prometheus-adapter would ask it for a pod of the server."""
    for rule in yaml.safe_load(path.read_text())["rules"]["custom"]:
        series = re.match(r"\w+", rule["seriesQuery"]).group()
        query = (rule["metricsQuery"].replace("<<.Series>>", series).replace("<<.GroupBy>>", "pod")
                 .replace("<<.LabelMatchers>>", 'namespace="laplaced",pod=~"laplaced-0"'))
        yield f"autoscaler {rule['name']['as']} (series)", rule["seriesQuery"]
        yield f"autoscaler {rule['name']['as']}", query


def alert_queries(prometheus):
    for group in prometheus.get("rules")["groups"]:
        for rule in group["rules"]:
            if rule["health"] != "ok":
                raise ValueError(f"alert {rule['name']}: health {rule['health']}: {rule.get('lastError')}")
            yield f"alert {rule['name']}", as_truth(rule["query"])


def all_queries(repository, prometheus):
    dashboard = json.loads((repository / "docker/grafana/dashboards/laplaced.json").read_text())
    yield from ((where, with_variables(query)) for where, query in expressions(dashboard))
    yield from alert_queries(prometheus)
    yield from adapter_queries(repository / "docker/kubernetes/autoscaling/prometheus-adapter-values.yaml")


def wait_until(what, condition):
    until = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > until:
            sys.exit(f"{what}: not within {PATIENCE} s")
        time.sleep(0.5)


def main():
    repository, prometheus = Path(sys.argv[1]), Prometheus(sys.argv[2])
    wait_until("a scrape of the server", lambda: 1 in prometheus.numbers('up{job="laplaced"}'))
    wait_until("every alert rule evaluated", lambda: all(
        rule["health"] == "ok" for group in prometheus.get("rules")["groups"] for rule in group["rules"]))
    queries = list(all_queries(repository, prometheus))
    kinds = [sum(where.startswith(kind) for where, _ in queries) for kind in ("panel", "alert", "autoscaler")]
    if not all(kinds):
        sys.exit(f"expected queries of panels, alerts and the autoscaler, got {kinds}")
    waiting, seen, until = dict(queries), {}, time.monotonic() + PATIENCE
    while waiting and time.monotonic() < until:
        for where, query in list(waiting.items()):
            values = prometheus.numbers(query)
            if values:
                seen[where] = values
                del waiting[where]
        if set(waiting) <= set(MAY_BE_EMPTY):
            break
        time.sleep(0.5)
    for where, query in queries:
        values = seen.get(where)
        text = MAY_BE_EMPTY.get(where, "EMPTY") if values is None else " ".join(f"{value:.4g}" for value in values[:4])
        print(f"{where}: {text}")
    for where in set(MAY_BE_EMPTY) - set(dict(queries)):
        sys.exit(f"{where} may be empty, and is not there at all")
    missing = {where: query for where, query in waiting.items() if where not in MAY_BE_EMPTY}
    for where, query in missing.items():
        print(f"monitoring_queries: {where} has no number after {PATIENCE} s: {query}", file=sys.stderr)
    print(f"{len(queries)} queries, {len(missing)} without an answer")
    sys.exit(1 if missing else 0)


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"monitoring_queries: {error}")
