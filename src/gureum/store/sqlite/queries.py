"""Every SQL statement of the SQLite store, except the schema (``gureum.store.migrations``)."""

from __future__ import annotations

BEGIN_READ = "BEGIN"
BEGIN_WRITE = "BEGIN IMMEDIATE"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

REVISION = "SELECT value FROM counters WHERE name = 'revision'"
HORIZON = "SELECT value FROM counters WHERE name = 'horizon'"
SET_REVISION = "UPDATE counters SET value = ? WHERE name = 'revision'"
SET_HORIZON = "UPDATE counters SET value = ? WHERE name = 'horizon'"

RECORD = "SELECT body FROM records WHERE kind = ? AND id = ?"
RECORDS = "SELECT id, body FROM records WHERE kind = ? AND id IN (SELECT value FROM json_each(?)) ORDER BY id"
RECORDS_PAGE = "SELECT id, body FROM records WHERE kind = ? AND id > ? ORDER BY id LIMIT ?"
RECORDS_COUNT = "SELECT count(*) FROM records WHERE kind = ?"

# find(): the entries of one field drive, the other fields are probed or joined. Built by ``Search``.
ENTRIES_DRIVE = (
    "SELECT {distinct} e.id FROM entries e WHERE e.kind = ? AND e.field = ? AND {value} AND e.id > ?"
)
ENTRIES_PROBE = (
    " AND EXISTS (SELECT 1 FROM entries p WHERE p.kind = ? AND p.field = ? AND {value} AND p.id = e.id)"
)
ENTRIES_JOIN = " AND e.id IN (SELECT p.id FROM entries p WHERE p.kind = ? AND p.field = ? AND {value})"
ENTRIES_ORDER = " ORDER BY e.id LIMIT ?"
ENTRIES_COUNT = "SELECT count(*) FROM ({drive})"
ENTRIES_SAMPLE = (
    "SELECT count(*) FROM (SELECT 1 FROM entries e WHERE e.kind = ? AND e.field = ? AND {value} LIMIT ?)"
)
VALUE_IS = "{alias}.value = ?"
VALUE_IN = "{alias}.value IN (SELECT value FROM json_each(?))"

# ?1: after this revision, ?2: up to this one, ?3: limit. A record's version is its revision.
CHANGES = (
    "SELECT * FROM"
    " (SELECT revision, kind, id, body FROM records"
    " WHERE revision > ?1 AND revision <= ?2 ORDER BY revision, kind, id LIMIT ?3)"
    " UNION ALL SELECT * FROM"
    " (SELECT revision, kind, id, NULL FROM tombstones"
    " WHERE revision > ?1 AND revision <= ?2 ORDER BY revision, kind, id LIMIT ?3)"
    " ORDER BY 1, 2, 3 LIMIT ?3"
)

# ?1: of these kinds, ?2: after this revision.
CHANGES_OF = (
    "SELECT kind, id, body FROM records"
    " WHERE revision > ?2 AND +kind IN (SELECT value FROM json_each(?1))"
    " UNION ALL SELECT kind, id, NULL FROM tombstones"
    " WHERE revision > ?2 AND +kind IN (SELECT value FROM json_each(?1))"
)

INSERT_RECORD = "INSERT OR IGNORE INTO records (kind, id, revision, body) VALUES (?, ?, ?, ?)"
UPDATE_RECORD = "UPDATE records SET revision = ?, body = ? WHERE kind = ? AND id = ? AND revision = ?"
DELETE_RECORD = "DELETE FROM records WHERE kind = ? AND id = ? AND revision = ?"
INSERT_ENTRY = "INSERT OR IGNORE INTO entries (kind, field, value, id) VALUES (?, ?, ?, ?)"
DELETE_ENTRY = "DELETE FROM entries WHERE kind = ? AND field = ? AND value = ? AND id = ?"
INSERT_TOMBSTONE = "INSERT OR REPLACE INTO tombstones (kind, id, revision) VALUES (?, ?, ?)"
DELETE_TOMBSTONE = "DELETE FROM tombstones WHERE kind = ? AND id = ?"

TOMBSTONES_COUNT = "SELECT count(*) FROM tombstones"
TOMBSTONES_HORIZON = "SELECT max(revision) FROM (SELECT revision FROM tombstones ORDER BY revision LIMIT ?)"
PRUNE_TOMBSTONES = "DELETE FROM tombstones WHERE revision <= ?"

INDEXED = "SELECT kind, fields FROM indexed"
SET_INDEXED = "INSERT OR REPLACE INTO indexed (kind, fields) VALUES (?, ?)"
DELETE_ENTRIES = "DELETE FROM entries WHERE kind = ?"

SCHEMA_VERSION = "PRAGMA user_version"
SET_SCHEMA_VERSION = "PRAGMA user_version = {version}"
APPLICATION_ID = "PRAGMA application_id"
SET_APPLICATION_ID = "PRAGMA application_id = {number}"
TABLES_COUNT = "SELECT count(*) FROM sqlite_master"
BUSY_TIMEOUT = "PRAGMA busy_timeout = {milliseconds}"
BACKUP = "VACUUM INTO ?"

WRITER_SETUP = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA journal_size_limit = 67108864",
    "PRAGMA cache_size = -4096",
    "PRAGMA temp_store = MEMORY",
)
READER_SETUP = (
    "PRAGMA query_only = 1",
    "PRAGMA cache_size = -2048",
    "PRAGMA temp_store = MEMORY",
)
