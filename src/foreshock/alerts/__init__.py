"""Incidents told to people: how loud, grouped into one alert each, sent until they have been heard.

severity, reach        how loud
Alert, alert_of        what is said
SINKS, Sink            Alertmanager, webhook
Outbox, make_outbox    when it is said, and said again; at most so many a day
"""

from foreshock.alerts.alert import Alert, alert_of
from foreshock.alerts.options import Access, AlertOptions, WebhookOptions
from foreshock.alerts.outbox import Outbox, make_outbox
from foreshock.alerts.severity import SEVERITIES, reach, severity
from foreshock.alerts.sinks import SINKS, Sink

__all__ = [
    "SEVERITIES",
    "SINKS",
    "Access",
    "Alert",
    "AlertOptions",
    "Outbox",
    "Sink",
    "WebhookOptions",
    "alert_of",
    "make_outbox",
    "reach",
    "severity",
]
