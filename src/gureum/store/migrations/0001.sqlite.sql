-- Records by kind and id. The rows are wide (bodies of about 1 kB), so the table has rowids and narrow indexes.
CREATE TABLE records (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX records_by_revision ON records (revision);

-- What find() looks up: one row for each value of each indexed field.
CREATE TABLE entries (
    kind TEXT NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    id TEXT NOT NULL,
    PRIMARY KEY (kind, field, value, id)
) WITHOUT ROWID;

-- The indexed fields of each kind at the last start, comma-separated: a change rebuilds the kind's entries.
CREATE TABLE indexed (
    kind TEXT NOT NULL PRIMARY KEY,
    fields TEXT NOT NULL
) WITHOUT ROWID;

-- The latest deletions, for changes().
CREATE TABLE tombstones (
    kind TEXT NOT NULL,
    id TEXT NOT NULL,
    revision INTEGER NOT NULL,
    PRIMARY KEY (kind, id)
) WITHOUT ROWID;
CREATE INDEX tombstones_by_revision ON tombstones (revision);

-- revision: of the last commit. horizon: deletions up to this revision are no longer kept.
CREATE TABLE counters (
    name TEXT NOT NULL PRIMARY KEY,
    value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO counters VALUES ('revision', 0), ('horizon', 0);
