"""What `foreshock serve` is told: Prometheus, itself, alerts, remote write, and everything `score` knows.

One YAML file; a preset may stand below it and variables (FORESHOCK__PROMETHEUS__URL) above it. Everything is
checked before anything starts, with file and line. Secrets are named by variable or file and read at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any

from foreshock.alerts.options import Access, AlertOptions, check_url
from foreshock.config import ENVIRONMENT, Settings, resolve
from foreshock.config.document import Document, nearest, options_of, parse, plain, read_document
from foreshock.errors import ConfigError
from foreshock.secret import Secret, secret_of
from foreshock.sources.prometheus import PrometheusOptions

SERVE_PRESETS = ("prometheus", "prometheus-trainticket")
SECTIONS = ("prometheus", "serve", "alerts", "remote_write")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """Where the service listens, what it keeps, and how far it looks back."""

    host: str = "127.0.0.1"  # loopback only, unless told otherwise
    port: int = 8099
    data: str = "foreshock-data"  # folder for incidents, verdicts and adapters
    external_url: str = ""  # how people reach the page, for links in alerts; empty: http://host:port
    hosts: tuple[str, ...] = ()  # further host names that requests may name
    token_env: str = ""  # variable that holds the token without which nothing can be written ...
    token_file: str = ""  # ... or file
    backfill_s: float = 14_400.0  # how far to read back at the start
    keep_s: float = 86_400.0  # how far the page and explanations look back
    backlog_s: float = 3_600.0  # rows older than this are dropped, and counted, when scoring falls behind

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"serve.port is {self.port}; it must lie in 0..65535 (0: any free one).")
        for name in ("backfill_s", "keep_s", "backlog_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"serve.{name} is {getattr(self, name)}; it must be above 0.")
        check_url(self.external_url)


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """Everything that `foreshock serve` can be told."""

    prometheus: PrometheusOptions
    serve: ServeOptions = ServeOptions()
    alerts: AlertOptions = field(default_factory=AlertOptions)
    remote_write: Access = field(default_factory=Access)  # where scores are written back; no address: nowhere
    score: Settings = field(default_factory=Settings)
    token: Secret | None = None
    path: str = ""  # the file

    @property
    def host(self) -> str:
        return self.serve.host

    @property
    def port(self) -> int:
        return self.serve.port

    @property
    def hosts(self) -> tuple[str, ...]:
        return self.serve.hosts

    @property
    def external_url(self) -> str:
        return (self.serve.external_url or f"http://{self.serve.host}:{self.serve.port}").rstrip("/")

    @property
    def keep_rows(self) -> int:
        return max(1, round(self.serve.keep_s / self.prometheus.step_s))


def read_settings(path: Path | str, environment: Mapping[str, str] | None = None) -> ServeSettings:
    """Read and check a configuration file.

    Raises:
        ConfigError: with file and line, or the variable, for the first thing that is wrong.
    """
    return settings_of(read_document(Path(path)), os.environ if environment is None else environment)


def settings_of(document: Document, environment: Mapping[str, str]) -> ServeSettings:
    """`read_settings` for what was read already."""
    document, above = _with_preset(document), _variables(environment)
    for section, values in above.items():
        document = replace(document, tree={**document.tree, section: _over(document, section, values)})
    prometheus = options_of(_section(document, "prometheus"), PrometheusOptions, "prometheus.")
    serve = options_of(_section(document, "serve"), ServeOptions, "serve.")
    alerts = options_of(_section(document, "alerts"), AlertOptions, "alerts.")
    remote_write = options_of(_section(document, "remote_write"), Access, "remote_write.")
    if not prometheus.url:
        raise ConfigError(f"{document.at('prometheus')}: prometheus.url is missing; it has no default.")
    if not prometheus.queries:
        words = "prometheus.queries is empty; name queries, or set `preset: prometheus`."
        raise ConfigError(f"{document.at('prometheus')}: {words}")
    known = {name: value for name, value in environment.items() if _section_of(name) not in SECTIONS}
    resolved = resolve(document.without(*SECTIONS), environment=known)
    score = resolved.settings
    # "At most N pages a day" is what the threshold promises too, unless the file sets that itself.
    origin = resolved.origins.get("threshold.false_alarms_per_day", "default")
    if origin == "default" or origin.startswith("preset"):
        threshold = replace(score.threshold, false_alarms_per_day=alerts.pages_per_day)
        score = score.model_copy(update={"threshold": threshold})
    token = secret_of(serve.token_env, serve.token_file, "serve.token")
    _ = prometheus.token, prometheus.password  # a secret that is not there is told now
    return ServeSettings(prometheus, serve, alerts, remote_write, score, token, document.name)


def _section(document: Document, name: str) -> Document:
    content = document.tree.get(name)
    if content is not None and not isinstance(content, dict):
        raise ConfigError(f"{document.at(name)}: {name} is a section of settings, not a single value.")
    return document.section(name)


def _with_preset(document: Document) -> Document:
    """The file above the preset it names, if that is one of ours; section by section, key by key."""
    name = document.tree.get("preset")
    if name is None:
        return document
    if name not in SERVE_PRESETS:
        from foreshock.config import PRESETS

        if name in PRESETS:
            return document
        near = nearest(str(name), (*SERVE_PRESETS, *PRESETS))
        raise ConfigError(f"{document.at('preset')}: there is no preset {name!r}{near}")
    text = resources.files("foreshock").joinpath("presets", f"{name}.yaml").read_text("utf-8")
    below = parse(text, f"preset {name}")
    tree: dict[str, Any] = {key: value for key, value in below.tree.items() if key != "preset"}
    for section, content in document.tree.items():
        if section == "preset":
            continue
        known = tree.get(section)
        is_both = isinstance(known, dict) and isinstance(content, dict)
        tree[section] = {**(known or {}), **content} if is_both else content
    return replace(document, tree=tree)


def _section_of(variable: str) -> str:
    return (
        variable.removeprefix(ENVIRONMENT).lower().partition("__")[0]
        if variable.startswith(ENVIRONMENT)
        else ""
    )


def _variables(environment: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """section → {key: value} from variables such as FORESHOCK__SERVE__PORT."""
    out: dict[str, dict[str, Any]] = {}
    for name in sorted(environment):
        if _section_of(name) in SECTIONS:
            section, _, key = name.removeprefix(ENVIRONMENT).lower().partition("__")
            if not key or "__" in key:
                raise ConfigError(f"environment {name}: write it as {ENVIRONMENT}SECTION__SETTING.")
            out.setdefault(section, {})[key] = plain(environment[name])
    return out


def _over(document: Document, section: str, values: Mapping[str, Any]) -> dict[str, Any]:
    return {**(document.tree.get(section) or {}), **values}
