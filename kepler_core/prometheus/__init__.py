"""Query recordings from a Prometheus server.

PrometheusClient(Server("http://prometheus:9090"))      client of one server's HTTP API
select_metrics(names, ...)          -> [Selection]      the metrics to query, and their labels
plan_queries(selections, ...)       -> [Query]          queries that the server accepts
answers(client, queries)            -> (Query, results) the series, from several requests at a time
"""

from kepler_core.prometheus.client import PrometheusClient, Server
from kepler_core.prometheus.queries import Query, answers, plan_queries
from kepler_core.prometheus.selections import Selection, select_metrics

__all__ = ["PrometheusClient", "Query", "Selection", "Server", "answers", "plan_queries", "select_metrics"]
