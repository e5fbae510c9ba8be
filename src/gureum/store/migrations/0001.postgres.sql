-- Records by kind and id. Texts are in the order of their bytes, which is Python's.
CREATE TABLE records (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX records_by_revision ON records (revision);

-- What find() looks up: one row for each value of each indexed field.
CREATE TABLE entries (
    kind text COLLATE "C" NOT NULL,
    field text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    PRIMARY KEY (kind, field, value, id)
);

-- The indexed fields of each kind at the last start, comma-separated: a change rebuilds the kind's entries.
CREATE TABLE indexed (
    kind text NOT NULL PRIMARY KEY,
    fields text NOT NULL
);

-- The latest deletions, for changes().
CREATE TABLE tombstones (
    kind text COLLATE "C" NOT NULL,
    id text COLLATE "C" NOT NULL,
    revision bigint NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX tombstones_by_revision ON tombstones (revision);

-- One row. revision: of the last commit, whose store is `writer`. horizon: deletions up to this revision are no
-- longer kept; tombstones: how many are. epoch: of the manager that leads; only it may commit.
CREATE TABLE state (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL DEFAULT 0,
    horizon bigint NOT NULL DEFAULT 0,
    tombstones bigint NOT NULL DEFAULT 0,
    epoch bigint NOT NULL DEFAULT 0,
    writer text NOT NULL DEFAULT ''
) WITH (fillfactor = 10);
INSERT INTO state DEFAULT VALUES;

-- One row: whose store this is, who leads, and how often it has said so. Beside `state`, so that saying so waits for
-- no commit.
CREATE TABLE leader (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    epoch bigint NOT NULL DEFAULT 0,
    beat bigint NOT NULL DEFAULT 0,
    cloud text NOT NULL DEFAULT '',
    name text NOT NULL DEFAULT '',
    endpoint text NOT NULL DEFAULT ''
) WITH (fillfactor = 10);
INSERT INTO leader DEFAULT VALUES;

-- Commits what transactions wrote that began at revision `base` and end at `last`. One statement, so that a client
-- that stops in the middle holds no lock. GU001: others committed since `base`. GU002: another manager leads.
-- GU003: what is stored is not what it should be.
CREATE FUNCTION commit_writes(
    base bigint, last bigint, fence bigint, by_writer text, tombstones_kept bigint,
    new_kinds text[], new_ids text[], new_revisions bigint[], new_bodies text[],
    changed_kinds text[], changed_ids text[], changed_from bigint[], changed_revisions bigint[], changed_bodies text[],
    gone_kinds text[], gone_ids text[], gone_from bigint[], gone_revisions bigint[],
    lost_kinds text[], lost_fields text[], lost_values text[], lost_ids text[],
    won_kinds text[], won_fields text[], won_values text[], won_ids text[]
) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    touched bigint;
    kept bigint;
    pruned bigint;
    oldest bigint;
    leads bigint;
BEGIN
    UPDATE state SET revision = last, writer = by_writer WHERE revision = base AND epoch = fence
        RETURNING tombstones INTO kept;
    IF NOT FOUND THEN
        SELECT epoch INTO leads FROM state;
        IF leads <> fence THEN
            RAISE EXCEPTION 'epoch % leads, not %', leads, fence USING ERRCODE = 'GU002';
        END IF;
        RAISE EXCEPTION 'others committed after revision %', base USING ERRCODE = 'GU001';
    END IF;
    IF cardinality(new_ids) > 0 THEN
        INSERT INTO records (kind, id, revision, body)
            SELECT * FROM unnest(new_kinds, new_ids, new_revisions, new_bodies);
        IF kept > 0 THEN
            DELETE FROM tombstones t USING unnest(new_kinds, new_ids) AS n (kind, id)
                WHERE t.kind = n.kind AND t.id = n.id;
            GET DIAGNOSTICS touched = ROW_COUNT;
            kept := kept - touched;
        END IF;
    END IF;
    IF cardinality(changed_ids) > 0 THEN
        UPDATE records r SET revision = c.revision, body = c.body
            FROM unnest(changed_kinds, changed_ids, changed_from, changed_revisions, changed_bodies)
                AS c (kind, id, before, revision, body)
            WHERE r.kind = c.kind AND r.id = c.id AND r.revision = c.before;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched <> cardinality(changed_ids) THEN
            RAISE EXCEPTION 'a record to be changed is not there as it was read' USING ERRCODE = 'GU003';
        END IF;
    END IF;
    IF cardinality(gone_ids) > 0 THEN
        DELETE FROM records r USING unnest(gone_kinds, gone_ids, gone_from) AS g (kind, id, before)
            WHERE r.kind = g.kind AND r.id = g.id AND r.revision = g.before;
        GET DIAGNOSTICS touched = ROW_COUNT;
        IF touched <> cardinality(gone_ids) THEN
            RAISE EXCEPTION 'a record to be deleted is not there as it was read' USING ERRCODE = 'GU003';
        END IF;
        INSERT INTO tombstones (kind, id, revision) SELECT * FROM unnest(gone_kinds, gone_ids, gone_revisions);
        kept := kept + cardinality(gone_ids);
    END IF;
    IF cardinality(lost_ids) > 0 THEN
        DELETE FROM entries e USING unnest(lost_kinds, lost_fields, lost_values, lost_ids) AS l (kind, field, value, id)
            WHERE e.kind = l.kind AND e.field = l.field AND e.value = l.value AND e.id = l.id;
    END IF;
    IF cardinality(won_ids) > 0 THEN
        INSERT INTO entries (kind, field, value, id)
            SELECT * FROM unnest(won_kinds, won_fields, won_values, won_ids);
    END IF;
    IF kept > tombstones_kept * 5 / 4 THEN
        SELECT max(revision) INTO oldest
            FROM (SELECT revision FROM tombstones ORDER BY revision LIMIT kept - tombstones_kept) AS surplus;
        DELETE FROM tombstones WHERE revision <= oldest;
        GET DIAGNOSTICS pruned = ROW_COUNT;
        kept := kept - pruned;
        UPDATE state SET horizon = oldest;
    END IF;
    UPDATE state SET tombstones = kept WHERE tombstones <> kept;
    PERFORM pg_notify('gureum', last || ' ' || by_writer);
END
$$;

-- Makes `by_name` the leader if the one that was seen has not said anything since. The new epoch, or null. GU004: this
-- is the store of another cloud.
CREATE FUNCTION take_over(seen_epoch bigint, seen_beat bigint, by_cloud text, by_name text, at_endpoint text)
RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    led bigint;
    owner text;
BEGIN
    SELECT cloud INTO owner FROM leader;
    IF owner NOT IN ('', by_cloud) THEN
        RAISE EXCEPTION '%', owner USING ERRCODE = 'GU004';
    END IF;
    UPDATE leader SET epoch = epoch + 1, beat = 0, cloud = by_cloud, name = by_name, endpoint = at_endpoint
        WHERE epoch = seen_epoch AND beat = seen_beat
        RETURNING epoch INTO led;
    IF led IS NOT NULL THEN
        UPDATE state SET epoch = led;
    END IF;
    RETURN led;
END
$$;
