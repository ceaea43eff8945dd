"""What `/metrics` tells, from a real monitor and a real outbox."""

from __future__ import annotations

from foreshock import load_detector
from foreshock.alerts import make_outbox
from foreshock.config.document import parse
from foreshock.service import measures
from foreshock.service.live import Live
from foreshock.service.settings import settings_of
from foreshock.store import Store
from foreshock.stream import Monitor
from foreshock.telemetry import Histogram, write
from tests.test_stream import shop

CONFIG = """
prometheus: {url: 'http://h:1', queries: [{query: a, kpi: b}]}
alerts: {alertmanager: {url: 'http://127.0.0.1:1'}}
"""


def test_scores_bands_health_and_alerts_are_told():
    """An open incident's KPIs come with their band; the outbox's counts keep their labels."""
    settings, store = settings_of(parse(CONFIG, "shop.yaml"), {}), Store(":memory:")
    monitor = Monitor(load_detector("robust_z"), 15.0, settings.score, 320)
    monitor.push(shop(320, fault=slice(300, 320)))
    live = Live(monitor, store, settings)
    outbox = make_outbox(settings.alerts, store, settings.external_url)
    text = write([*measures.of_monitor(monitor), *measures.of_service(live, Histogram(), {}, outbox)])
    assert 'foreshock_alerts_sent_total{sink="alertmanager"} 0' in text.splitlines()
    assert 'foreshock_service_score{service="pay"}' in text
    assert 'foreshock_kpi_expected_high{service="pay"' in text
    assert "foreshock_cycle_seconds_count 0" in text.splitlines()
    store.close()
