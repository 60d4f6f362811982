"""Query recordings from a Prometheus server.

PrometheusClient(Server("http://prometheus:9090"))      client of a server's HTTP API
select_metrics(names, ...)          -> [Selection]      the metrics to query, with their label matchers
select_machine_metrics(names, ...)  -> [Selection]      the metrics that describe machines, besides those
choose_shards(client, ...)          -> {Selection: …}   groups of instances whose answers fit into memory
plan_queries(selections, ...)       -> [Query]          queries small enough for the server to accept
plan_machine_queries(selections, …) -> [Query]          queries for one sample per hour
answers(client, queries)            -> (Query, results) each query with its series; runs several requests at a time
"""

from kepler_core.prometheus.client import PrometheusClient, Server
from kepler_core.prometheus.fetching import answers
from kepler_core.prometheus.queries import Query, plan_machine_queries, plan_queries
from kepler_core.prometheus.selections import Selection, select_machine_metrics, select_metrics

__all__ = [
    "PrometheusClient",
    "Query",
    "Selection",
    "Server",
    "answers",
    "plan_machine_queries",
    "plan_queries",
    "select_machine_metrics",
    "select_metrics",
]
