"""Secrets: from a variable or a file, and never to be seen."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import pytest

from foreshock.errors import ConfigError
from foreshock.secret import Secret, secret_of

VALUE = "s3cr3t-of-the-shop"


def test_a_secret_is_never_shown(caplog):
    """Whatever writes it out writes `Secret(…)`; only `reveal` gives it."""
    secret = Secret(VALUE)
    with caplog.at_level(logging.DEBUG):
        logging.getLogger("x").error("told %s and %r and %s", secret, secret, {"token": secret})
    try:
        raise ValueError(secret)
    except ValueError as error:
        caught = "".join(traceback.format_exception(error))
    written = [
        caplog.text, caught, repr(secret), str(secret), f"{secret}", f"{secret:>20}", repr([secret]),
        json.dumps(secret, default=str), repr(vars(type(secret))),
    ]  # fmt: skip
    assert not any(VALUE in text for text in written)
    assert secret.reveal() == VALUE


def test_a_secret_is_not_pickled():
    """A copy of the process's objects in a file would hold it."""
    for leave in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError):
            leave(Secret(VALUE))


def test_a_secret_comes_from_a_variable_or_a_file(tmp_path):
    """White space at its ends, such as an editor's last line break, is no part of it."""
    path = tmp_path / "secret"
    path.write_text(f"{VALUE}\n")
    assert secret_of(file=str(path), what="a.token") == Secret(VALUE)
    assert secret_of(environment="TOKEN", what="a.token", variables={"TOKEN": VALUE}) == Secret(VALUE)
    assert secret_of(what="a.token") is None


@pytest.mark.parametrize(
    ("variable", "content", "told"),
    [
        ("TOKEN", None, "TOKEN, which is not set"),
        ("", "", "is empty"),
        ("", b"\xff\xfe", "no UTF-8 text"),
        ("", None, "No such file"),
        ("TOKEN", "x", "both set"),
    ],
)
def test_a_named_secret_that_is_not_there_is_told(tmp_path, variable, content, told):
    """Going on without it would be worse than stopping; the message names the setting."""
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    file = "" if variable and content is None else str(path)
    with pytest.raises(ConfigError, match=told) as error:
        secret_of(variable, file, "alerts.webhook.secret", {})
    assert "alerts.webhook.secret" in str(error.value)
