-- A volume can have several attachments; it had one, and repeated its instance.
UPDATE records
SET body = json_set(
    json_remove(body, '$.attachment', '$.instance'),
    '$.attachments', json_array(json_extract(body, '$.attachment'))
)
WHERE kind = 'volume' AND json_type(body, '$.attachment') = 'object';
