"""What has to outlast the process: incidents, what people said of them, rows to learn from, adapters, scores.

One SQLite file in WAL mode, so that a reader (`foreshock label list`) never waits for the service, and a kill
at any moment leaves the last whole write. Every verdict is kept; the newest counts. A Store may be used from
several threads; each call is one transaction.

Not here: what a verdict teaches (service.learn), who may give one (service.api).
"""

from __future__ import annotations

import json
import math
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from foreshock.errors import ConfigError, InputError, NotFoundError, OutputError
from foreshock.store.evidence import Evidence, from_parquet, to_parquet
from foreshock.store.schema import migrate

__all__ = ["ADAPTER_STATES", "VERDICTS", "Evidence", "Scored", "Store"]

VERDICTS = ("confirmed", "false_alarm")
ADAPTER_STATES = ("candidate", "shadow", "promoted", "replaced", "rolled_back")
BUSY_S = 10.0  # how long a write waits for one of another process
EVIDENCE_BYTES = 256 * 2**20  # rows kept in all; the oldest without a verdict go first
TEXT_CHARS = 2000  # longest note
NAME_CHARS = 200  # longest fault type, service, author
MOST_SCORES = 20_000  # the newest rows' scores are kept, as many as a threshold remembers
SCORED_BY = "scored_by"  # key of the state: what the scores kept are of


@dataclass(frozen=True, slots=True)
class Scored:
    """What rows were scored with, so that thresholds go on where an earlier process left them."""

    by: str  # detector and step; scores of others mean something else
    time_ns: np.ndarray  # (T,) int64, rising
    system: np.ndarray  # (T,) float, NaN where nothing was observed


class Store:
    """An open store file."""

    def __init__(self, path: Path | str, evidence_bytes: int = EVIDENCE_BYTES) -> None:
        """Open it, made or brought up to date as needed; ":memory:" is one that nothing outlasts.

        Raises:
            OutputError: it can't be opened or written.
            InputError: the file is something else, or of a newer version.
        """
        self.path = str(path)
        self.evidence_bytes = evidence_bytes
        self._lock = threading.RLock()
        try:
            if self.path != ":memory:":
                Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(
                self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise OutputError(f"{self.path} can't be opened ({error}); choose another store.") from error
        try:
            self._db.row_factory = sqlite3.Row
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")  # a power cut loses nothing either; writes are few
            migrate(self._db, self.path)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise OutputError(f"{self.path} can't be used ({error}); is another process at it?") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise InputError(f"{self.path} is no store of ours ({error}); choose another file.") from error
        except ConfigError:
            self._db.close()
            raise

    def close(self) -> None:
        """Fold the log into the file and let go of it."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing.

        Raises:
            OutputError: the disk is full, or another process holds the file too long.
        """
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                    self._db.execute("COMMIT")
                except BaseException:
                    if self._db.in_transaction:
                        self._db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise OutputError(f"{self.path} could not be written ({error}).") from error

    def _read(self, query: str, values: Sequence[object] = ()) -> list[sqlite3.Row]:
        with self._lock:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise OutputError(f"{self.path} could not be read ({error}).") from error

    # ------------------------------------------------------------------------------------ incidents

    def save_incident(self, incident: Mapping[str, Any]) -> None:
        """Keep an incident as it is now, in the place of what was known of it."""
        self.put_many({}, [incident])

    def put_many(
        self, values: Mapping[str, str], incidents: Sequence[Mapping[str, Any]] = (),
        scored: Scored | None = None,
    ) -> None:  # fmt: skip
        """Small state, incidents and newly scored rows in one transaction: all after a crash, or none."""
        with self._write() as db:
            if scored is not None:
                values = {**values, SCORED_BY: scored.by}
                self._add_scores(db, scored)
            for incident in incidents:
                closed = incident.get("closed_ns")
                db.execute(
                    "INSERT INTO incidents (id, start_ns, found_ns, closed_ns, body) VALUES (?, ?, ?, ?, ?) "
                    "ON CONFLICT (id) DO UPDATE SET start_ns = excluded.start_ns, "
                    "found_ns = excluded.found_ns, closed_ns = excluded.closed_ns, body = excluded.body",
                    (
                        str(incident["id"]), start_of(incident), int(incident["found_ns"]),
                        None if closed is None else int(closed),
                        json.dumps(incident, allow_nan=False, separators=(",", ":")),
                    ),
                )  # fmt: skip
            db.executemany(
                "INSERT INTO state (key, value) VALUES (?, ?) "
                "ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                list(values.items()),
            )

    def _add_scores(self, db: sqlite3.Connection, scored: Scored) -> None:
        if self.get(SCORED_BY) not in (None, scored.by):
            db.execute("DELETE FROM scores")
        rows = zip(scored.time_ns.tolist(), scored.system.tolist(), strict=True)
        db.executemany(
            "INSERT OR REPLACE INTO scores (time_ns, score) VALUES (?, ?)",
            [(time_ns, score if math.isfinite(score) else None) for time_ns, score in rows],
        )
        db.execute(
            "DELETE FROM scores WHERE time_ns <= "
            "(SELECT time_ns FROM scores ORDER BY time_ns DESC LIMIT 1 OFFSET ?)",
            (MOST_SCORES,),
        )

    def scored(self, by: str) -> Scored | None:
        """The newest rows' scores, if they are of this detector and step."""
        if self.get(SCORED_BY) != by:
            return None
        rows = self._read("SELECT time_ns, score FROM scores ORDER BY time_ns")
        scores = [math.nan if row["score"] is None else row["score"] for row in rows]
        return Scored(by, np.array([row["time_ns"] for row in rows], np.int64), np.array(scores, float))

    def forget_scores(self, after_ns: int) -> None:
        """Those of later rows don't count: they will come once more."""
        with self._write() as db:
            db.execute("DELETE FROM scores WHERE time_ns > ?", (after_ns,))

    def incidents(
        self, since_ns: int | None = None, until_ns: int | None = None, state: str | None = None,
        limit: int = 100,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """Incidents that touch since_ns..until_ns, newest first; `state` is "open" or "closed"."""
        if state not in (None, "open", "closed"):
            raise ConfigError(f"there is no state {state!r}; known: open, closed.")
        words, values = ["1"], []
        if since_ns is not None:
            words.append("coalesce(closed_ns, 9223372036854775807) >= ?")
            values.append(since_ns)
        if until_ns is not None:
            words.append("start_ns <= ?")
            values.append(until_ns)
        if state is not None:
            words.append(f"closed_ns IS {'NOT ' if state == 'closed' else ''}NULL")
        found = self._read(
            f"SELECT body FROM incidents WHERE {' AND '.join(words)} ORDER BY start_ns DESC, id DESC LIMIT ?",
            (*values, limit),
        )
        return [json.loads(row["body"]) for row in found]

    def incident(self, id: str) -> dict[str, Any] | None:
        """One incident as it was last saved."""
        found = self._read("SELECT body FROM incidents WHERE id = ?", (id,))
        return dict(json.loads(found[0]["body"])) if found else None

    # ------------------------------------------------------------------------------------- verdicts

    def add_verdict(
        self, incident_id: str, verdict: str, fault_type: str = "", service: str = "", note: str = "",
        author: str = "",
    ) -> dict[str, Any]:  # fmt: skip
        """What somebody says of an incident; earlier verdicts stay, this one counts from now on.

        Raises:
            NotFoundError: no such incident.
            ConfigError: another word than "confirmed" or "false_alarm", or a text that is too long.
        """
        if verdict not in VERDICTS:
            raise ConfigError(f"there is no verdict {verdict!r}; known: {', '.join(VERDICTS)}.")
        told = {"fault_type": fault_type, "service": service, "note": note, "author": author}
        told = {
            name: " ".join(text.split()) if name != "note" else text.strip() for name, text in told.items()
        }
        for name, text in told.items():
            most = TEXT_CHARS if name == "note" else NAME_CHARS
            if len(text) > most:
                raise ConfigError(f"{name} has {len(text):,} characters; it may have {most:,}.")
        given = {"incident": incident_id, "verdict": verdict, **told, "given_ns": time.time_ns()}
        with self._write() as db:
            if db.execute("SELECT 1 FROM incidents WHERE id = ?", (incident_id,)).fetchone() is None:
                raise NotFoundError(
                    f"there is no incident {incident_id!r}; `foreshock label list` shows what there is."
                )
            names = ", ".join(given)
            marks = ", ".join("?" * len(given))
            cursor = db.execute(f"INSERT INTO verdicts ({names}) VALUES ({marks})", list(given.values()))
        return {"number": cursor.lastrowid, **given}

    def verdicts(self, incident_id: str | None = None, newest: bool = False) -> list[dict[str, Any]]:
        """Verdicts in the order they were given; with `newest` the one that counts of each incident."""
        where = "" if incident_id is None else "WHERE incident = ?"
        keep = "WHERE number IN (SELECT max(number) FROM verdicts GROUP BY incident)" if newest else ""
        found = self._read(
            f"SELECT * FROM (SELECT * FROM verdicts {where}) {keep} ORDER BY number",
            () if incident_id is None else (incident_id,),
        )
        return [dict(row) for row in found]

    def fault_types(self) -> list[str]:
        """Fault types that somebody named, the most frequent first."""
        found = self._read(
            "SELECT fault_type FROM verdicts WHERE fault_type <> '' GROUP BY fault_type "
            "ORDER BY count(*) DESC, fault_type"
        )
        return [row["fault_type"] for row in found]

    # ------------------------------------------------------------------------------------- evidence

    def save_evidence(self, incident_id: str, evidence: Evidence) -> int:
        """Keep the rows of an incident; gives the bytes they take.

        When all rows together pass `evidence_bytes`, the oldest without a verdict go first, then the oldest.
        """
        blob = to_parquet(evidence)
        time_ns = evidence.frame.time_ns
        with self._write() as db:
            db.execute(
                "INSERT INTO evidence (incident, start_ns, end_ns, size, parquet) VALUES (?, ?, ?, ?, ?) "
                "ON CONFLICT (incident) DO UPDATE SET start_ns = excluded.start_ns, "
                "end_ns = excluded.end_ns, size = excluded.size, parquet = excluded.parquet",
                (incident_id, int(time_ns[0]), int(time_ns[-1]), len(blob), blob),
            )
            self._drop_evidence(db)
        return len(blob)

    def _drop_evidence(self, db: sqlite3.Connection) -> None:
        held = db.execute(
            "SELECT incident, size FROM evidence ORDER BY "
            "incident IN (SELECT incident FROM verdicts), start_ns, incident"
        ).fetchall()
        over = sum(row["size"] for row in held) - self.evidence_bytes
        for row in held:
            if over <= 0:
                break
            db.execute("DELETE FROM evidence WHERE incident = ?", (row["incident"],))
            over -= row["size"]

    def evidence(self, incident_id: str) -> Evidence | None:
        """The rows kept of an incident, if they are.

        Raises:
            SourceError: they are damaged.
        """
        found = self._read("SELECT parquet FROM evidence WHERE incident = ?", (incident_id,))
        return from_parquet(found[0]["parquet"], incident_id) if found else None

    def evidence_ids(self) -> list[str]:
        """Incidents whose rows are kept, oldest first."""
        return [row["incident"] for row in self._read("SELECT incident FROM evidence ORDER BY start_ns")]

    # ------------------------------------------------------------------------------------- adapters

    def add_adapter(self, id: str, path: Path | str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Note an adapter that was learned; it begins as a candidate."""
        with self._write() as db:
            db.execute(
                "INSERT INTO adapters (id, path, made_ns, state, facts) VALUES (?, ?, ?, 'candidate', ?)",
                (id, str(path), time.time_ns(), json.dumps(facts, allow_nan=False)),
            )
            self._note_change(db, id, "candidate", "learned")
        return self.adapter(id)

    def adapter(self, id: str) -> dict[str, Any]:
        """One adapter, with all that became of it.

        Raises:
            NotFoundError: no such adapter.
        """
        found = self._read("SELECT * FROM adapters WHERE id = ?", (id,))
        if not found:
            raise NotFoundError(f"there is no adapter {id!r}; `foreshock adapt --from-labels` makes one.")
        changes = self._read(
            "SELECT state, note, changed_ns FROM adapter_changes WHERE adapter = ? ORDER BY number", (id,)
        )
        one = dict(found[0])
        return {**one, "facts": json.loads(one["facts"]), "changes": [dict(row) for row in changes]}

    def adapters(self) -> list[dict[str, Any]]:
        """All adapters, newest first."""
        found = self._read("SELECT id FROM adapters ORDER BY made_ns DESC, id DESC")
        return [self.adapter(row["id"]) for row in found]

    def promoted(self) -> dict[str, Any] | None:
        """The adapter in use; None means zero-shot."""
        found = self._read("SELECT id FROM adapters WHERE state = 'promoted'")
        return self.adapter(found[0]["id"]) if found else None

    def note_trial(self, id: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """What a shadow trial found; added to the adapter's facts."""
        with self._write() as db:
            known = self.adapter(id)
            db.execute(
                "UPDATE adapters SET facts = ? WHERE id = ?",
                (json.dumps({**known["facts"], **facts}, allow_nan=False), id),
            )
            if known["state"] == "candidate":
                self._set_state(db, id, "shadow", "tried in the shadow")
        return self.adapter(id)

    def promote(self, id: str, note: str = "") -> dict[str, Any]:
        """Put this adapter into use in place of the one before, which stays known and on disk."""
        with self._write() as db:
            self.adapter(id)
            for row in db.execute("SELECT id FROM adapters WHERE state = 'promoted'").fetchall():
                if row["id"] != id:
                    self._set_state(db, row["id"], "replaced", f"by {id}")
            self._set_state(db, id, "promoted", note)
        return self.adapter(id)

    def before(self, id: str) -> dict[str, Any] | None:
        """The adapter that a roll-back of this one leads to: the last one replaced, or None: zero-shot."""
        found = self._read(
            "SELECT adapter FROM adapter_changes WHERE state = 'replaced' AND note = ? "
            "AND adapter IN (SELECT id FROM adapters WHERE state = 'replaced') ORDER BY number DESC LIMIT 1",
            (f"by {id}",),
        )
        return self.adapter(found[0]["adapter"]) if found else None

    def roll_back(self, note: str = "") -> dict[str, Any] | None:
        """Take the adapter in use out again; gives the one that was in use before it, None for zero-shot.

        Raises:
            NotFoundError: none is in use.
        """
        with self._write() as db:
            now = self.promoted()
            if now is None:
                raise NotFoundError("no adapter is in use; there is nothing to roll back.")
            earlier = self.before(now["id"])
            self._set_state(db, now["id"], "rolled_back", note)
            if earlier is not None:
                self._set_state(db, earlier["id"], "promoted", f"after {now['id']} was rolled back")
        return self.promoted()

    def _set_state(self, db: sqlite3.Connection, id: str, state: str, note: str) -> None:
        db.execute("UPDATE adapters SET state = ? WHERE id = ?", (state, id))
        self._note_change(db, id, state, note)

    def _note_change(self, db: sqlite3.Connection, id: str, state: str, note: str) -> None:
        db.execute(
            "INSERT INTO adapter_changes (adapter, state, note, changed_ns) VALUES (?, ?, ?, ?)",
            (id, state, note, time.time_ns()),
        )

    # ----------------------------------------------------------------------------------- small state

    def get(self, key: str) -> str | None:
        """A small value, as it was last put."""
        found = self._read("SELECT value FROM state WHERE key = ?", (key,))
        return str(found[0]["value"]) if found else None

    def put(self, key: str, value: str) -> None:
        """Keep a small value in the place of the one before."""
        self.put_many({key: value})


def start_of(incident: Mapping[str, Any]) -> int:
    """When an incident as a dict began, in nanoseconds since 1970 UTC."""
    told = str(incident["event"]["start_time"]).rstrip("Z")
    return int(np.datetime64(told, "ns").astype(np.int64))
