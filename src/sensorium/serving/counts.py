"""What is counted while serving, as Prometheus reads it."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Counts:
    """Of one server.

    Attributes:
        requests: by path and status.
        seconds: from the head of a request to the end of its answer, by path.
        batches: sizes of what went through a model or an index at once.
        waiting: calls that wait for one.
        words: tokens that assistants wrote.
    """

    kind = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "sensorium_requests_total",
            "Requests that were answered.",
            ("path", "status"),
            registry=self._registry,
        )
        self.seconds = Histogram(
            "sensorium_request_seconds",
            "Seconds until a request was answered in full.",
            ("path",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.batches = Histogram(
            "sensorium_batch_size",
            "Calls that were made as one.",
            ("queue",),
            buckets=_SIZES,
            registry=self._registry,
        )
        self.waiting = Gauge(
            "sensorium_waiting", "Calls that wait.", ("queue",), registry=self._registry
        )
        self.words = Counter(
            "sensorium_tokens_written_total",
            "Tokens that an assistant wrote.",
            ("model",),
            registry=self._registry,
        )

    def text(self) -> bytes:
        """All counts."""
        return generate_latest(self._registry)
