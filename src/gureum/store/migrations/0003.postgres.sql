-- Managers that stand by: when each machine's last said that it does, and the fingerprint of its key.
CREATE TABLE standbys (
    machine text COLLATE "C" NOT NULL PRIMARY KEY,
    seen timestamptz NOT NULL,
    key text NOT NULL
) WITH (fillfactor = 50);

-- GU005: the machine that asks, the session's setting gureum.machine, was revoked as one with managers.
CREATE FUNCTION refuse_revoked() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    asking text := coalesce(current_setting('gureum.machine', true), '');
BEGIN
    IF EXISTS (
        SELECT FROM records
            WHERE kind = 'manager-machine' AND id = asking AND body::jsonb ->> 'revoked' = 'true'
    ) THEN
        RAISE EXCEPTION '%', asking USING ERRCODE = 'GU005';
    END IF;
END
$$;

-- Nothing is decided by such a sign, so it waits neither for the disk nor for replicas.
CREATE FUNCTION stand_by(by_key text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM refuse_revoked();
    PERFORM set_config('synchronous_commit', 'off', true);
    INSERT INTO standbys (machine, seen, key) VALUES (current_setting('gureum.machine'), clock_timestamp(), by_key)
        ON CONFLICT (machine) DO UPDATE SET seen = EXCLUDED.seen, key = EXCLUDED.key;
END
$$;

-- As in 0002, but for revoked machines. They are looked for once `state` is locked: a revocation was committed before
-- that, or never will be.
CREATE OR REPLACE FUNCTION take_over(
    seen_epoch bigint, seen_beat bigint, by_cloud text, by_name text, at_endpoint text
)
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
        UPDATE state SET epoch = led, revision = greatest(
            revision + 1000000, floor(extract(epoch FROM clock_timestamp()) * 1000000)::bigint
        );
        PERFORM refuse_revoked();
    END IF;
    RETURN led;
END
$$;
