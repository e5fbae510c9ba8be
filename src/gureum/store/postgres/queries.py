"""Every SQL statement of the PostgreSQL store, except the schema (``gureum.store.migrations``)."""

from __future__ import annotations

BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
# The next transaction of the same kind begins; it has no snapshot before its first query.
READ_AGAIN = "ROLLBACK AND CHAIN"

REVISION = "SELECT revision FROM state"

RECORD = "SELECT body FROM records WHERE kind = $1 AND id = $2"
RECORDS = "SELECT id, body FROM records WHERE kind = $1 AND id = ANY($2::text[]) ORDER BY id"
RECORDS_PAGE = "SELECT id, body FROM records WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3"
RECORDS_COUNT = "SELECT count(*) FROM records WHERE kind = $1"

EXISTING = (
    "SELECT r.kind, r.id FROM records r"
    " JOIN unnest($1::text[], $2::text[]) AS n (kind, id) ON r.kind = n.kind AND r.id = n.id"
)

# find(): the entries of one field drive, the other fields are probed or joined. $1 is the kind, $2 the id
# that all are above, $3 the limit; then come each condition's field and values. What is probed is a scalar
# subquery, so that no planner makes it drive.
ENTRIES_DRIVE = (
    "SELECT {distinct} e.id FROM entries e WHERE e.kind = $1 AND e.field = ${field} AND {value} AND e.id > $2"
)
ENTRIES_PROBE = (
    " AND (SELECT true FROM entries p"
    " WHERE p.kind = $1 AND p.field = ${field} AND {value} AND p.id = e.id LIMIT 1)"
)
ENTRIES_JOIN = (
    " AND e.id IN (SELECT p.id FROM entries p WHERE p.kind = $1 AND p.field = ${field} AND {value} OFFSET 0)"
)
ENTRIES_ORDER = " ORDER BY e.id LIMIT $3"
ENTRIES_COUNT = "SELECT count(*) FROM ({drive}) AS found"
ENTRIES_SAMPLE = (
    "(SELECT count(*) FROM (SELECT 1 FROM entries e"
    " WHERE e.kind = $1 AND e.field = ${field} AND {value} LIMIT $2) AS sample)"
)
VALUE_IS = "{alias}.value = ${values}"
VALUE_IN = "{alias}.value = ANY(${values}::text[])"

# $1: after this revision, $2: limit, which the last transaction may exceed. A record's version is its
# revision.
CHANGES = (
    "SELECT s.horizon, c.revision, c.kind, c.id, c.body FROM state s LEFT JOIN"
    " (SELECT * FROM ("
    "(SELECT revision, kind, id, body FROM records"
    " WHERE revision > $1 ORDER BY revision FETCH FIRST $2 ROWS WITH TIES)"
    " UNION ALL "
    "(SELECT revision, kind, id, NULL FROM tombstones"
    " WHERE revision > $1 ORDER BY revision FETCH FIRST $2 ROWS WITH TIES)"
    ") AS both_of ORDER BY revision FETCH FIRST $2 ROWS WITH TIES) AS c ON true"
    " ORDER BY c.revision, c.kind, c.id"
)
# $1: of these kinds, $2: after this revision.
CHANGES_OF = (
    "SELECT s.horizon, c.kind, c.id, c.body FROM state s LEFT JOIN"
    " (SELECT kind, id, body FROM records WHERE revision > $2 AND kind = ANY($1::text[])"
    " UNION ALL SELECT kind, id, NULL FROM tombstones WHERE revision > $2 AND kind = ANY($1::text[])"
    ") AS c ON true"
)
# What was touched after $1, to forget what is remembered of it.
TOUCHED = (
    "SELECT s.revision, s.horizon, t.kind, t.id FROM state s LEFT JOIN"
    " (SELECT kind, id FROM records WHERE revision > $1"
    " UNION ALL SELECT kind, id FROM tombstones WHERE revision > $1 LIMIT $2) AS t ON true"
)

COMMIT = f"SELECT commit_writes({', '.join(f'${number}' for number in range(1, 27))})"
# For a commit whose answer was lost: if it succeeds, that commit never will.
SUPERSEDE = "UPDATE state SET revision = revision + 1, writer = '' WHERE revision = $1 RETURNING revision"
LAST_COMMIT = "SELECT revision, writer FROM state"

LEADER = "SELECT epoch, beat, cloud, name, endpoint FROM leader"
TAKE_OVER = "SELECT take_over($1, $2, $3, $4, $5)"
BEAT = "UPDATE leader SET beat = beat + 1 WHERE epoch = $1 RETURNING beat"
# Of a manager that stands by while one of an earlier gureum leads, which has not made this yet.
CAN_STAND_BY = "SELECT to_regprocedure('stand_by(text)') IS NOT NULL"
STAND_BY = "SELECT stand_by($1)"
STANDBYS = "SELECT machine, extract(epoch FROM clock_timestamp() - seen)::float8, key FROM standbys"
# One that was said meanwhile with another key stays.
FORGET_STANDBY = "DELETE FROM standbys WHERE machine = $1 AND key = $2"
RESIGN = "UPDATE leader SET name = '', endpoint = '' WHERE epoch = $1"

LISTEN_CHANNEL = "gureum"

# One process at a time looks after the schema.
SCHEMA_LOCK = "SELECT pg_advisory_xact_lock(1735750253)"
SCHEMA_TABLE = "SELECT to_regclass('gureum_schema') IS NOT NULL"
SCHEMA_VERSION = "SELECT version FROM gureum_schema"
CREATE_SCHEMA_TABLE = "CREATE TABLE gureum_schema (version integer NOT NULL)"
INSERT_SCHEMA_VERSION = "INSERT INTO gureum_schema VALUES (0)"
SET_SCHEMA_VERSION = "UPDATE gureum_schema SET version = $1"
TABLES_COUNT = (
    "SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
    " WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'v', 'p')"
)
# Epochs, commits and signs of life wait for the disk, and for the replicas that there have to be: a server
# that another has replaced confirms nothing.
DURABLE = (
    "SELECT set_config('synchronous_commit', 'on', false)"
    " WHERE current_setting('synchronous_commit') IN ('off', 'local')"
)

SERVER = (
    "SELECT current_setting('server_version_num')::int, current_setting('server_version'),"
    " pg_is_in_recovery(),"
    " ARRAY(SELECT name FROM pg_settings WHERE name IN ('fsync', 'full_page_writes') AND setting = 'off'),"
    " current_setting('synchronous_standby_names') <> ''"
)

INDEXED = "SELECT kind, fields FROM indexed"
SET_INDEXED = (
    "INSERT INTO indexed (kind, fields) VALUES ($1, $2)"
    " ON CONFLICT (kind) DO UPDATE SET fields = EXCLUDED.fields"
)
DELETE_ENTRIES = "DELETE FROM entries WHERE kind = $1"
INSERT_ENTRY = "INSERT INTO entries (kind, field, value, id) VALUES ($1, $2, $3, $4)"
