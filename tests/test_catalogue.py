"""Public recordings: listed with licence and origin, fetched only whole, nothing overwritten."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import foreshock
from foreshock import network
from foreshock.cli import run
from foreshock.errors import ConfigError, OutputError, SourceError
from foreshock.sources import catalogue
from foreshock.sources.catalogue import CATALOGUE, Recording, RemoteFile

CONTENT = {"owner/repo/c0ffee/a.csv": b"timestamp,a\n1,2\n", "owner/repo/c0ffee/deep/b c.json": b"{}\n"}


@pytest.fixture
def server():
    """A host on this machine: .content to serve, .asked counts, .answers holds one-off replies by path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.lstrip("/").replace("%20", " ")
            self.server.asked[path] += 1
            replies = self.server.answers.get(path, [])
            body = replies.pop(0) if replies else self.server.content.get(path)
            if body is None:
                self.send_error(404)
                return
            if isinstance(body, int):
                self.send_error(body)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.content, httpd.asked, httpd.answers = dict(CONTENT), Counter(), {}
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield httpd
        httpd.shutdown()
        thread.join()


@pytest.fixture
def recording(monkeypatch):
    """A recording of two small files, known by its name; nobody forbids downloads."""
    pytest.importorskip("pooch")
    for name in (*network._OFF, catalogue.MIRROR):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pooch.core.time.sleep", lambda seconds: None)
    files = tuple(
        RemoteFile(f"small/{address.split('/', 3)[3]}", address, len(body), hashlib.sha256(body).hexdigest())
        for address, body in CONTENT.items()
    )
    small = Recording("small", "two files", "MIT", "https://example.org/owner/repo", "small")
    monkeypatch.setattr(catalogue, "_files", lambda: {"small": files})
    monkeypatch.setattr(catalogue, "CATALOGUE", (small, *CATALOGUE))
    return small


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_files_come_whole_and_once(recording, server, tmp_path):
    """All files lie where foreshock reads them; a second pull asks for nothing."""
    told = []
    folder = catalogue.pull(recording, tmp_path / "data", mirror=server.url, on_file=told.append)
    assert folder == tmp_path / "data" / "small"
    assert everything(folder) == {"a.csv": b"timestamp,a\n1,2\n", "deep/b c.json": b"{}\n"}
    assert told == list(recording.files)
    assert catalogue.is_here(recording, tmp_path / "data")
    server.asked.clear()
    catalogue.pull(recording, tmp_path / "data", mirror=server.url, on_file=told.append)
    assert not server.asked
    assert len(told) == 4


def test_a_copy_that_is_here_needs_no_network(recording, server, tmp_path, monkeypatch):
    """Offline and without pooch, what was pulled before is found."""
    catalogue.pull(recording, tmp_path, mirror=server.url)
    monkeypatch.setenv("FORESHOCK_OFFLINE", "1")
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert catalogue.pull(recording, tmp_path) == tmp_path / "small"


def test_a_passing_failure_is_tried_again(recording, server, tmp_path):
    """An error of the server and a damaged answer, then the right one."""
    first, second = CONTENT
    server.answers = {first: [503], second: [b"cut", b"{}"]}
    catalogue.pull(recording, tmp_path, mirror=server.url)
    assert server.asked == {first: 2, second: 3}
    assert everything(tmp_path / "small")["deep/b c.json"] == b"{}\n"


@pytest.mark.parametrize(("answer", "words"), [(b"something else", "SHA-256"), (500, "500"), (404, "404")])
def test_what_is_wrong_is_not_kept(recording, server, tmp_path, answer, words):
    """Wrong bytes or no answer, three times: one error with the address; what came before it stays."""
    first, second = CONTENT
    server.answers = {second: [answer] * 9}
    with pytest.raises(SourceError, match="3 tries") as caught:
        catalogue.pull(recording, tmp_path, mirror=server.url)
    assert words in str(caught.value)
    assert second in str(caught.value)
    assert server.asked[second] == 3
    assert list(everything(tmp_path)) == ["small/a.csv"]
    server.answers = {}
    catalogue.pull(recording, tmp_path, mirror=server.url)
    assert server.asked[first] == 1, "what was whole is not asked for again"


def test_nothing_is_overwritten(recording, server, tmp_path):
    """A file that differs is refused before anything is fetched, and replaced only with force."""
    mine = tmp_path / "small" / "deep" / "b c.json"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"my own\n")
    with pytest.raises(OutputError, match="--force"):
        catalogue.pull(recording, tmp_path, mirror=server.url)
    assert not server.asked
    assert everything(tmp_path) == {"small/deep/b c.json": b"my own\n"}
    catalogue.pull(recording, tmp_path, mirror=server.url, force=True)
    assert mine.read_bytes() == b"{}\n"


def test_a_place_that_cannot_be_written(recording, server, tmp_path):
    """A file in the folder's place, a folder in a file's: an output error, nothing fetched."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OutputError, match="can't be written"):
        catalogue.pull(recording, tmp_path / "file", mirror=server.url)
    (tmp_path / "small" / "a.csv").mkdir(parents=True)
    with pytest.raises(OutputError, match="is a folder"):
        catalogue.pull(recording, tmp_path, mirror=server.url, force=True)
    assert not server.asked


def test_no_network_is_said_at_once(recording, tmp_path, monkeypatch):
    """Forbidden, without pooch, nobody listening: each says what to do, within three seconds."""
    start = time.monotonic()
    with pytest.raises(SourceError, match=r"can't be reached; clone https://example\.org"):
        catalogue.pull(recording, tmp_path, mirror="http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(SourceError, match=r"pip install 'foreshock\[data\]'"):
        catalogue.pull(recording, tmp_path)
    monkeypatch.setenv("FORESHOCK_OFFLINE", "1")
    with pytest.raises(SourceError, match="downloads are off"):
        catalogue.pull(recording, tmp_path)
    assert time.monotonic() - start < 3
    assert not list(tmp_path.iterdir())


def test_the_mirror_may_stand_in_the_environment(recording, server, tmp_path, monkeypatch):
    """FORESHOCK_MIRROR is used, the option goes before it, and nonsense is refused."""
    monkeypatch.setenv(catalogue.MIRROR, server.url + "/")
    catalogue.pull(recording, tmp_path)
    assert sum(server.asked.values()) == 2
    for wrong in ("ftp://example.org", "example.org", "file:///etc"):
        with pytest.raises(ConfigError, match="mirror"):
            catalogue.pull(recording, tmp_path / "other", mirror=wrong)


def test_commands(recording, server, tmp_path, capsys):
    """list and pull answer in words and in JSON; what can't be fetched or isn't known is exit code 2."""

    def ask(*words):
        code = run([str(word) for word in words])
        return code, *capsys.readouterr()

    code, out, _ = ask("data", "pull", "small", "--to", tmp_path, "--mirror", server.url, "--quiet")
    assert (code, out) == (0, f"small: {tmp_path / 'small'}\n")
    code, out, _ = ask("data", "list", "--to", tmp_path, "--json")
    listed = {fact["name"]: fact for fact in json.loads(out)}
    assert code == 0
    assert listed["small"]["is_here"]
    assert not listed["petshop"]["is_here"]
    assert listed["petshop"]["licence"] == "CC-BY-4.0"
    code, out, _ = ask("data", "list", "--to", tmp_path)
    assert "small" in out
    assert "by hand" in out
    for words, expected in [
        (("smal",), "did you mean 'small'?"),
        (("asd",), "pickles"),
        (("small", "--to", tmp_path / "small" / "a.csv"), "can't be written"),
        ((), "NAME..."),
    ]:
        code, out, err = ask("data", "pull", *words, "--mirror", server.url)
        assert (code, out) == (2, ""), err
        assert err.startswith("error: ")
        assert err.count("\n") == 1
        assert expected in err


@pytest.mark.parametrize("one", CATALOGUE, ids=lambda one: one.name)
def test_each_recording_tells_its_terms(one):
    """Licence and origin always; files with sums at a fixed commit, or the reason why there are none."""
    assert one.licence
    assert one.origin
    assert bool(one.files) != bool(one.why_not)
    assert bool(one.files) == bool(one.reads)
    for file in one.files:
        owner, repository, commit, *path = file.address.split("/")
        assert one.origin.endswith(f"/{owner}/{repository}")
        assert len(commit) == 40
        assert Path(file.path).name == path[-1]
        assert len(file.sha256) == 64
        assert file.path.startswith(one.reads)
        assert ".." not in file.path


def test_the_page_lists_them():
    """docs/data.md has every recording."""
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text("utf-8")
    for one in CATALOGUE:
        assert f"`{one.name}`" in page


@pytest.mark.data
@pytest.mark.parametrize("name", ["nezha-2022-08-22", "nezha-2023-01-29"])
def test_pulled_nezha_reads(name, data_dir, server, tmp_path, monkeypatch):
    """The real list, served from the development copy: every sum is right, and foreshock reads the folder."""
    pytest.importorskip("pooch")
    one = catalogue.find(name)
    server.content = {file.address: (data_dir / file.path).read_bytes() for file in one.files}
    for variable in network._OFF:
        monkeypatch.delenv(variable, raising=False)
    frame = foreshock.read(catalogue.pull(one, tmp_path, mirror=server.url))
    assert len(frame) == {"nezha-2022-08-22": 1209, "nezha-2023-01-29": 919}[name]
    assert frame.labels is not None
