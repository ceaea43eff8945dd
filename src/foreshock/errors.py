"""Every deliberate error: what came, what was needed, what to do.

Each carries the exit code of the command line and the status of the HTTP API.
Anything else that escapes is a bug of ours.
"""

from __future__ import annotations


class ForeshockError(Exception):
    """The root of all deliberate errors."""

    exit_code = 1
    http_status = 500


class InputError(ForeshockError):
    """Something the user gave can't be used as it is."""

    exit_code = 2
    http_status = 422


class SourceError(InputError):
    """A file, folder or address can't be read as a metrics table."""


class FrameError(InputError):
    """A table was read, but its shape, clock or values can't be worked with."""


class ConfigError(InputError):
    """A setting is unknown, mistyped or out of range."""


class WeightsError(InputError):
    """A checkpoint is missing, damaged or not of the MOMENT format."""


class NotFoundError(InputError):
    """What was asked for by name is not there."""

    http_status = 404


class StateError(InputError):
    """What was asked doesn't go with how things are now."""

    http_status = 409


class OutputError(InputError):
    """A result can't be written, or would overwrite something."""

    http_status = 409


class ResourceError(ForeshockError):
    """Memory or time ran out, or would have."""

    exit_code = 3
    http_status = 503
