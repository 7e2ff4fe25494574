"""What the server counts, in the text that Prometheus reads."""

from __future__ import annotations

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Numbers:
    """The metrics of one server.

    Attributes:
      parts: by category and outcome (pass, fail, undecided; scored where the run decides nothing).
      refused: requests by HTTP status. seconds: from the first byte of a request to its scores.
      waiting: requests at this moment. last: score of the last part by category.
    """

    def __init__(self):
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self._registry = own = CollectorRegistry()
        self.parts = Counter("mvead_parts", "parts that were scored", ["category", "outcome"], registry=own)
        self.refused = Counter("mvead_refused", "requests that got no scores", ["status"], registry=own)
        self.seconds = Histogram("mvead_seconds", "seconds of a request", buckets=_SECONDS, registry=own)
        self.waiting = Gauge("mvead_waiting", "requests that are read or scored now", registry=own)
        self.last = Gauge("mvead_last_score", "score of the last part", ["category"], registry=own)

    def text(self) -> bytes:
        """Return all of them as Prometheus reads them."""
        from prometheus_client import generate_latest

        return generate_latest(self._registry)
