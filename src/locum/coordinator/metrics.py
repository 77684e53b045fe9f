"""Prometheus metrics in a registry of their own. Labels are route templates and statuses, never names of parties."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

BUCKETS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30)


class Metrics:
    """The coordinator's counters."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("locum_requests", "Requests.", ("route", "method", "status"), registry=self.registry)
        self.latency = Histogram("locum_request_seconds", "Seconds per request; polls include their wait.", ("route",), buckets=BUCKETS, registry=self.registry)
        self.bytes_in = Counter("locum_received_bytes", "Bytes of request bodies.", registry=self.registry)
        self.bytes_out = Counter("locum_sent_bytes", "Bytes of response bodies.", registry=self.registry)
        self.rounds = Counter("locum_rounds", "Rounds that ended.", ("status",), registry=self.registry)
        self.runs = Counter("locum_runs", "Runs that ended here.", ("status",), registry=self.registry)
        self.active = Gauge("locum_active_runs", "Runs that this replica drives.", registry=self.registry)
        self.takeovers = Counter("locum_lease_takeovers", "Runs taken over from a replica that was gone.", registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
