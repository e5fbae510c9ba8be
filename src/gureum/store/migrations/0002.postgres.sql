-- Who leads begins with a revision above all that there were, also in a server that lacks the last commits of the one
-- that was lost, or in a backup that was put back: what agents have of those is to be old. So revisions are at least
-- microseconds since 1970; nobody commits more often than that. See 0001 for the rest of it.
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
    END IF;
    RETURN led;
END
$$;
