"""The tables of the store, and how a file of an older version is brought up to date.

Each step is one script; a file's `user_version` says how many it has seen. A step is never changed once a
version with it is out: what is new comes as another step.
"""

from __future__ import annotations

import sqlite3

from foreshock.errors import ConfigError

STEPS = (
    """
    CREATE TABLE incidents (
        id TEXT PRIMARY KEY,
        start_ns INTEGER NOT NULL,
        found_ns INTEGER NOT NULL,
        closed_ns INTEGER,
        body TEXT NOT NULL
    ) STRICT;
    CREATE INDEX incidents_by_time ON incidents (start_ns);
    CREATE TABLE verdicts (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        incident TEXT NOT NULL,
        verdict TEXT NOT NULL,
        fault_type TEXT NOT NULL,
        service TEXT NOT NULL,
        note TEXT NOT NULL,
        author TEXT NOT NULL,
        given_ns INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX verdicts_by_incident ON verdicts (incident, number);
    CREATE TABLE state (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
    """,
    """
    CREATE TABLE evidence (
        incident TEXT PRIMARY KEY,
        start_ns INTEGER NOT NULL,
        end_ns INTEGER NOT NULL,
        size INTEGER NOT NULL,
        parquet BLOB NOT NULL
    ) STRICT;
    CREATE TABLE adapters (
        id TEXT PRIMARY KEY,
        path TEXT NOT NULL,
        made_ns INTEGER NOT NULL,
        state TEXT NOT NULL,
        facts TEXT NOT NULL
    ) STRICT;
    CREATE TABLE adapter_changes (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        adapter TEXT NOT NULL,
        state TEXT NOT NULL,
        note TEXT NOT NULL,
        changed_ns INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE scores (time_ns INTEGER PRIMARY KEY, score REAL) STRICT;
    """,
)


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring a file up to date, each step whole or not at all.

    Raises:
        ConfigError: the file was written by a newer version.
    """
    for _ in range(len(STEPS) + 1):
        connection.execute("BEGIN IMMEDIATE")  # another process may be at it, too
        (seen,) = connection.execute("PRAGMA user_version").fetchone()
        if seen >= len(STEPS):
            connection.execute("ROLLBACK")
            break
        try:
            for statement in STEPS[seen].split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {seen + 1}")
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    if seen > len(STEPS):
        raise ConfigError(
            f"{path} was written by a newer version (its tables are at step {seen}, this one knows "
            f"{len(STEPS)}); install that version, or choose another file."
        )
