"""Recordings from a Prometheus server.

PrometheusClient(Server("http://prometheus:9090"))      one server's HTTP API
select_metrics(names, ...)          -> [Selection]      what to ask for, and by which labels
plan_queries(selections, ...)       -> [Query]          queries that are small enough for the server
answers(client, queries)            -> (Query, result)  several at a time
"""

from kepler_core.prometheus.client import PrometheusClient, Server
from kepler_core.prometheus.queries import Query, answers, plan_queries
from kepler_core.prometheus.selections import Selection, select_metrics

__all__ = ["PrometheusClient", "Query", "Selection", "Server", "answers", "plan_queries", "select_metrics"]
