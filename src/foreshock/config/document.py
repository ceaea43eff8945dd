"""A YAML file as plain values, each with the line it stands in. Nothing in it can run code.

Not here: which settings there are (config).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from foreshock.errors import ConfigError

DEEPEST = 8  # levels of a settings file

Place = tuple[str | int, ...]  # ("window", "stride"), ("corpus", "sources", 0, "path")
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping of plain values; `lines` says where each key stands."""

    name: str
    tree: dict[str, Any]
    lines: dict[Place, int]

    def at(self, *place: str | int) -> str:
        """`shop.yaml:7`, the line of a value or of the nearest thing around it."""
        while place and place not in self.lines:
            place = place[:-1]
        return f"{self.name}:{self.lines.get(place, 1)}"

    def section(self, name: str) -> Document:
        """What one section holds; nothing if it is not there."""
        lines = {place[1:]: line for place, line in self.lines.items() if place[0] == name}
        return Document(self.name, self.tree.get(name) or {}, lines)

    def without(self, *names: str) -> Document:
        """All but some sections."""
        return replace(self, tree={key: value for key, value in self.tree.items() if key not in names})


def read_document(path: Path) -> Document:
    """Read a file.

    Raises:
        ConfigError: it can't be read, is no YAML, names a key twice, or is no mapping.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} can't be read ({error.strerror}); a YAML file is needed.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is no UTF-8 text (byte {error.start}); save it as UTF-8.") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Document:
    """`read_document` for text; `name` stands before the line in messages."""
    try:
        _refuse_tricks(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}:{line}: this is no YAML: {error.problem or error.context}.") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}:1: this is no YAML: {str(error).splitlines()[0]}.") from None
    if root is None or (isinstance(root, yaml.ScalarNode) and root.value == ""):
        return Document(name, {}, {})
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{name}:1: the file must hold sections such as `window:`, not a single value.")
    lines: dict[Place, int] = {}
    return Document(name, _mapping(root, (), lines, name), lines)


def _refuse_tricks(text: str, name: str) -> None:
    """Settings need neither repeated values nor depth; both are ways to exhaust a reader."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        line = event.start_mark.line + 1 if event.start_mark else 1
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(f"{name}:{line}: `*{event.anchor}` repeats another value; write it out.")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ConfigError(f"{name}:{line}: nested more than {DEEPEST} deep; settings need fewer levels.")


def _mapping(node: yaml.MappingNode, place: Place, lines: dict[Place, int], name: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}:{line}: a key must be a word.")
        key = key_node.value
        here = (*place, key)
        if key in values:
            words = ".".join(map(str, here))
            raise ConfigError(
                f"{name}:{line}: {words} stands in line {lines[here]} already; keep one of them."
            )
        lines[here] = line
        values[key] = _value(value_node, here, lines, name)
    return values


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, place, lines, name)
    if isinstance(node, yaml.SequenceNode):
        items = []
        for i, item in enumerate(node.value):
            lines[(*place, i)] = item.start_mark.line + 1
            items.append(_value(item, (*place, i), lines, name))
        return items
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except (yaml.YAMLError, ValueError) as error:  # ValueError: such as a date of month 13
        problem = getattr(error, "problem", None) or error
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: {problem}; plain data is needed.") from None
    finally:
        loader.dispose()


def plain(text: str) -> Any:
    """A value as it would stand in a file; what is no YAML is text.

    Example:
        >>> plain("64"), plain("a: {"), plain("true")
        (64, 'a: {', True)
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


# ------------------------------------------------------------------------------------- options from a file


def read_options(path: Path, kind: type[_Kind], section: str = "") -> _Kind:
    """A file, or its one section if it has it, as an options dataclass, nested ones too.

    Raises:
        ConfigError: with file and line, for an unknown key or a value that doesn't fit.
    """
    document = read_document(path)
    if set(document.tree) == {section} and isinstance(document.tree[section], dict):
        document = document.section(section)
    return options_of(document, kind)


def options_of(document: Document, kind: type[_Kind], prefix: str = "") -> _Kind:
    """`read_options` for what was read already; `prefix` stands before keys in messages.

    Raises:
        ConfigError: as read_options.
    """
    for place, known in _unknown_keys(document.tree, kind, ()):
        raise ConfigError(
            f"{document.at(*place)}: there is no setting {prefix + '.'.join(map(str, place))!r}"
            f"{nearest(str(place[-1]), known)}"
        )
    try:
        return TypeAdapter(kind).validate_python(document.tree)
    except ValidationError as error:
        first = error.errors()[0]
        place = tuple(first["loc"])
        words = prefix + ".".join(map(str, place))
        if first["type"] == "missing":
            raise ConfigError(f"{document.at(*place)}: {words} is missing; it has no default.") from None
        raise ConfigError(
            f"{document.at(*place)}: {words} is {show(first['input'])}; {need(first)}"
        ) from None
    except ConfigError as error:  # from the options' own checks, which don't know the file
        named = [key for key in document.tree if re.search(rf"{re.escape(f'{prefix}{key}')}\b", str(error))]
        where = document.at(named[0]) if named else document.name
        raise ConfigError(f"{where}: {error}") from None


def _unknown_keys(tree: Any, kind: Any, place: Place) -> Iterator[tuple[Place, tuple[str, ...]]]:
    """(place, the names known there) of keys that no field takes."""
    if isinstance(tree, list):
        inner = next((arg for arg in get_args(kind) if is_dataclass(arg)), None)
        for i, item in enumerate(tree):
            yield from _unknown_keys(item, inner, (*place, i))
    if not isinstance(tree, dict) or kind is None:
        return
    if isinstance(kind, UnionType):
        kind = next((arg for arg in get_args(kind) if is_dataclass(arg)), None)
    if not is_dataclass(kind):
        return
    hints = get_type_hints(kind)
    known = tuple(field.name for field in fields(kind))
    for key, value in tree.items():
        if key not in known:
            yield (*place, key), known
        else:
            yield from _unknown_keys(value, hints[key], (*place, key))


def nearest(name: str, names: Sequence[str]) -> str:
    """`; did you mean …?`, also when the word belongs to another section; else what there is."""
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if not near:
        last = {n.rsplit(".", 1)[-1]: n for n in names}
        close = difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.7)
        near = [last[c] for c in close]
    if near:
        return f"; did you mean {near[0]!r}?"
    section = name.partition(".")[0] + "."
    there = [n for n in names if n.startswith(section)] or [n for n in names if "." not in n]
    return f"; there are {', '.join(there)}"


def need(error: Any) -> str:
    """What a pydantic error asks for, in our words."""
    kind, context = error["type"], error.get("ctx", {})
    words = {
        "greater_than": "it must be above {gt}",
        "greater_than_equal": "it must be {ge} or more",
        "less_than": "it must be below {lt}",
        "less_than_equal": "it must be {le} or less",
        "int_parsing": "it must be a whole number",
        "int_from_float": "it must be a whole number",
        "int_type": "it must be a whole number",
        "float_parsing": "it must be a number",
        "float_type": "it must be a number",
        "bool_parsing": "it must be true or false",
        "bool_type": "it must be true or false",
        "string_type": "it must be text; put it in quotes",
        "tuple_type": "it must be a list",
        "literal_error": "it must be {expected}",
        "dataclass_type": "it must be a section of settings",
    }.get(kind)
    if words:
        return words.format(**context)
    return str(error["msg"]).removeprefix("Value error, ")


def show(value: Any) -> str:
    """A value as it would stand in a file, at most a line."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:79] + "…"
