"""What is shipped for operation: rules, board, unit, container file, checked by the tools that read them."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import foreshock

DEPLOY = Path(__file__).parents[1] / "deploy"
BOARD = DEPLOY / "grafana/foreshock.json"


def tool(*command, cwd=DEPLOY):
    """What a tool says, its exit code being 0; skipped where it is not installed."""
    if not shutil.which(command[0]):
        pytest.skip(f"{command[0]} is not installed")
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def board():
    return json.loads(BOARD.read_text())


def expressions():
    """Every query of the board, with Grafana's variables filled in."""
    for panel in board()["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"].replace("$__rate_interval", "5m")
    for annotation in board()["annotations"]["list"]:
        yield annotation["expr"]


def test_rules_are_valid_and_do_what_they_say():
    """Silent while all is well, each alert once when its trouble is there."""
    tool("promtool", "check", "rules", "prometheus/foreshock.rules.yml", "prometheus/incidents.rules.yml")
    tool("promtool", "test", "rules", "foreshock.rules.test.yml", cwd=DEPLOY / "prometheus")


def test_every_alert_is_tried():
    """No rule without a test that fires it."""
    tried = (DEPLOY / "prometheus/foreshock.rules.test.yml").read_text()
    for path in DEPLOY.glob("prometheus/*.rules.yml"):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for rule in group["rules"]:
                if "alert" in rule:
                    assert f'alertname="{rule["alert"]}"' in tried
                    assert rule["labels"]["severity"]
                    assert {"summary", "description"} <= set(rule["annotations"])


def test_examples_of_prometheus_and_alertmanager_are_valid():
    """As the programs' own checks see them."""
    tool("promtool", "check", "config", "prometheus/scrape.yml")
    tool("amtool", "check-config", "alertmanager/alertmanager.yml")


def test_the_board_asks_in_promql(tmp_path):
    """Prometheus' own parser takes every query."""
    rules = [{"record": f"q:{i}", "expr": expr} for i, expr in enumerate(expressions())]
    path = tmp_path / "board.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "board", "rules": rules}]}))
    told = tool("promtool", "check", "rules", "--lint=none", str(path))
    assert f"{len(rules)} rules found" in told


def test_the_board_can_be_imported():
    """What Grafana needs of a dashboard: ids that differ, panels that don't overlap, variables that exist."""
    told = board()
    assert told["id"] is None
    assert told["uid"]
    assert told["title"]
    assert told["schemaVersion"] >= 36
    ids = [panel["id"] for panel in told["panels"]]
    assert len(ids) == len(set(ids))
    taken = set()
    for panel in told["panels"]:
        place = panel["gridPos"]
        assert place["x"] >= 0
        assert place["x"] + place["w"] <= 24
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["datasource"]["uid"] == "${datasource}"
            assert len({t["refId"] for t in panel["targets"]}) == len(panel["targets"])
    variables = {v["name"] for v in told["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", BOARD.read_text())) - {"__rate_interval", "__all"}
    assert used <= variables


def test_names_of_metrics_are_those_that_are_told():
    """Rules and board ask for nothing that foreshock does not tell."""
    package = Path(foreshock.__file__).parent
    source = "".join((package / name).read_text() for name in ("service/measures.py", "alerts/outbox.py"))
    asked = {
        name
        for path in (*DEPLOY.glob("prometheus/*.rules.yml"), BOARD)
        for name in re.findall(r"\bforeshock_[a-z_]+", path.read_text())
    }
    for name in asked:
        base = re.sub(r"_(bucket|sum|count)$", "", name).removeprefix("foreshock_")
        assert re.search(rf'"(foreshock_)?{base.removeprefix("kpi_")}["{{]', source), name


def test_the_unit_is_valid_and_hardened(tmp_path):
    """systemd takes it; nothing runs as root, writes outside its folder or gains privileges."""
    text = (DEPLOY / "systemd/foreshock.service").read_text()
    path = tmp_path / "foreshock.service"
    path.write_text(text.replace("/opt/foreshock/bin/foreshock", "/bin/true"))
    for line in ("DynamicUser=yes", "NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet="):
        assert line in text.splitlines()
    assert not tool("systemd-analyze", "verify", str(path)).strip()
    told = tool("systemd-analyze", "security", "--offline=true", "--threshold=20", str(path))
    assert re.search(r"exposure level .*: 1\.\d OK", told)


def test_the_container_is_not_root_and_watched():
    """A numbered user, so that a cluster can check it; a health check; secrets neither copied nor set."""
    lines = (DEPLOY / "container/Containerfile").read_text().splitlines()
    last = lines[max(i for i, line in enumerate(lines) if line.startswith("FROM")) :]
    assert "USER 10001:10001" in last
    assert any(line.startswith("HEALTHCHECK") for line in last)
    assert not [line for line in lines if re.match(r"(ENV|ARG|COPY).*(TOKEN|SECRET|PASSWORD)", line, re.I)]
