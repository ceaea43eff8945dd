"""Prometheus and Alertmanager with a configuration, a data folder and a port of their own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from testbed.processes import Child, StartFailed


def _program(*names: str) -> str:
    for name in names:
        if found := shutil.which(name):
            return found
    raise StartFailed(
        f"{names[0]} is not installed; on Debian: apt-get install prometheus prometheus-alertmanager"
    )


def prometheus(folder: Path, port: int, scrape_s: float, targets: Mapping[str, str]) -> Child:
    """Scrapes every target (name → host:port) under the label `service`."""
    config = {
        "global": {
            "scrape_interval": f"{round(scrape_s * 1000)}ms",
            "scrape_timeout": f"{round(scrape_s * 900)}ms",
        },
        "scrape_configs": [
            {
                "job_name": "shop",
                "static_configs": [
                    {"targets": [target], "labels": {"service": name}} for name, target in targets.items()
                ],
            }
        ],
    }  # fmt: skip
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        _program("prometheus"),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'prometheus'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--storage.tsdb.retention.time=1d",
        "--log.level=warn",
    ]
    return Child("prometheus", command, folder / "prometheus.log", f"http://127.0.0.1:{port}/-/ready")


def alertmanager(folder: Path, port: int, webhook: str) -> Child:
    """Hands every alert on at once, one by one, to `webhook`."""
    config = {
        "route": {
            "receiver": "bench",
            "group_by": ["..."],
            "group_wait": "0s",
            "group_interval": "1s",
            "repeat_interval": "4h",
        },
        "receivers": [{"name": "bench", "webhook_configs": [{"url": webhook, "send_resolved": True}]}],
    }
    (folder / "alertmanager.yml").write_text(yaml.safe_dump(config, sort_keys=False))
    command = [
        _program("prometheus-alertmanager", "alertmanager"),
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'alertmanager'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    return Child("alertmanager", command, folder / "alertmanager.log", f"http://127.0.0.1:{port}/-/ready")
