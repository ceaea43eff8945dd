"""What is asked of Prometheus about each service: rate, errors, durations and resources."""

from __future__ import annotations

from testbed.shop.services import DATABASE_USERS


def queries() -> dict[str, str]:
    """KPI → PromQL that gives one series a service; `$rate` is for foreshock to fill in."""
    w = "[$rate]"

    def mean(name: str) -> str:
        return f"sum by (service) (rate({name}_sum{w})) / sum by (service) (rate({name}_count{w}))"

    requests = f"sum by (service) (rate(http_requests_total{w}))"
    users = "|".join(DATABASE_USERS)
    return {
        "requests_per_s": requests,
        "errors_per_s": f'sum by (service) (rate(http_requests_total{{code=~"5.."}}{w})) or 0 * {requests}',
        "latency_mean_s": mean("http_request_duration_seconds"),
        "latency_p90_s": (
            f"histogram_quantile(0.9, sum by (service, le) (rate(http_request_duration_seconds_bucket{w})))"
        ),
        "client_latency_mean_s": mean("http_client_duration_seconds"),
        "cpu_cores": f"sum by (service) (rate(process_cpu_seconds_total{w}))",
        "memory_bytes": "sum by (service) (process_resident_memory_bytes)",
        "db_query_mean_s": mean("db_query_duration_seconds"),
        "db_pool_wait_mean_s": mean("db_pool_wait_seconds"),
        "db_pool_in_use": (
            f'sum by (service) (max_over_time(db_pool_connections_in_use{{service=~"{users}"}}{w}))'
        ),
        "up": "sum by (service) (up)",
    }  # fmt: skip
