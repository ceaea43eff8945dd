"""`foreshock doctor CONFIG`: what can be reached, what is there, what is missing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat

import pytest

pytest.importorskip("httpx", reason="httpx is not installed")

from foreshock.cli import run
from foreshock.service import probe as module
from foreshock.service.probe import probe
from foreshock.service.settings import read_settings
from test_presets_prometheus import prometheus  # noqa: F401

SECRET = "s3cr3t-of-the-shop"


@pytest.fixture
def looked(tmp_path, monkeypatch):
    """What is found with a configuration: {what: (found, ok)}."""
    monkeypatch.chdir(tmp_path)

    def look(text):
        (tmp_path / "foreshock.yaml").write_text(text)

        async def work():
            settings = read_settings("foreshock.yaml", {})
            return {f.what: (f.found, f.ok) async for f in probe(settings)}

        return asyncio.run(work())

    return look


NOBODY = 'prometheus: {url: "http://127.0.0.1:1", tries: 1, queries: [{query: up, kpi: up, service: job}]}\n'


def test_what_is_not_there_is_told(looked):
    """Nobody answers: each is named, with its address; the folder would be made."""
    found = looked(
        NOBODY
        + 'alerts: {alertmanager: {url: "http://127.0.0.1:1"}, webhook: {url: "http://127.0.0.1:1/x"}}\n'
        + 'remote_write: {url: "http://127.0.0.1:1/w"}\n'
    )
    for what in ("prometheus", "alertmanager", "webhook", "remote_write"):
        assert not found[what][1]
        assert "127.0.0.1:1 can't be reached" in found[what][0]
    assert found["folder"][1]
    assert "will be made" in found["folder"][0]
    assert "not set" in found["token"][0]


def test_series_of_each_query_are_counted(looked, prometheus, monkeypatch):  # noqa: F811
    """Of a real Prometheus: its version, series and services of each query, and those that give none."""
    url, _ = prometheus
    monkeypatch.setattr(module, "LOOK_BACK_S", 5_400.0)  # its data end three quarters of an hour ago
    text = f"""
prometheus:
  url: {url}
  queries:
    - {{kpi: cpu, service: instance, query: 'sum by (instance) (rate(node_cpu_seconds_total[$rate]))'}}
    - {{kpi: none, service: job, query: not_there}}
    - {{kpi: wrong, service: job, query: 'sum by ('}}
"""
    found = looked(text)
    assert "version 2" in found["prometheus"][0] or "version 3" in found["prometheus"][0]
    assert "keeps " in found["prometheus"][0]
    assert found["query cpu"][0].startswith("1 series (10.0.0.7:9100), ")
    assert found["query none"] == ("no series in the last hour", True)
    assert not found["query wrong"][1]
    assert "parse error" in found["query wrong"][0]
    assert found["series"] == ("1 in all; 960 rows are read back at the start", True)


def test_an_alertmanager_is_known_by_its_status(looked):
    """Something else that answers there is told as such; a webhook is only connected to."""

    async def talk(reader, writer):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            heard.append(1)
            writer.write(b"HTTP/1.1 200 x\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
            await writer.drain()
        writer.close()

    heard = []

    async def work(text):
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with open("foreshock.yaml", "w") as out:
            out.write(text.replace("PORT", str(port)))
        found = {f.what: (f.found, f.ok) async for f in probe(read_settings("foreshock.yaml", {}))}
        server.close()
        return found

    _ = looked(NOBODY)  # into the folder
    text = (
        NOBODY
        + 'alerts: {alertmanager: {url: "http://127.0.0.1:PORT"}, webhook: {url: "http://127.0.0.1:PORT"}}'
    )
    found = asyncio.run(work(text))
    assert not found["alertmanager"][1]
    assert "is no Alertmanager" in found["alertmanager"][0]
    assert found["webhook"][1]
    assert len(heard) == 1, "no message was sent to the webhook"


def test_a_taken_address_and_a_locked_folder_are_told(looked, tmp_path):
    """The first may be the service itself; the second keeps it from starting."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        door.listen()
        port = door.getsockname()[1]
        locked = tmp_path / "file"
        locked.write_text("")
        found = looked(NOBODY + f"serve: {{port: {port}, data: {locked}/below}}\n")
    assert "taken" in found["address"][0]
    assert not found["folder"][1]
    if os.getuid() != 0:
        locked.unlink()
        locked.mkdir(mode=stat.S_IRUSR)
        assert not looked(NOBODY + f"serve: {{data: {locked}/below}}\n")["folder"][1]


def test_secrets_are_not_shown(looked, tmp_path):
    """The token is set, or not: no more is said."""
    (tmp_path / "token").write_text(SECRET)
    found = looked(NOBODY + f"serve: {{token_file: {tmp_path / 'token'}}}\n")
    assert found["token"] == ("set; verdicts and changes need it", True)
    assert SECRET not in repr(found)


def test_doctor_takes_a_configuration(tmp_path, capsys, monkeypatch):
    """Its findings stand below the machine's; exit code 1 when something is broken, 2 for a mistake."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "foreshock.yaml"
    path.write_text(NOBODY)
    assert run(["doctor", str(path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    found = {check["what"]: check["ok"] for check in told["checks"]}
    assert found["python"]
    assert not found["prometheus"]
    path.write_text("prometheus: {ulr: x}\n")
    assert run(["doctor", str(path)]) == 2
    assert "foreshock.yaml:1: there is no setting 'prometheus.ulr'" in capsys.readouterr().err
