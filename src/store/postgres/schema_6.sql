-- A key is replaced once. Of those that were replaced more than once before that, the latest successor is it.
ALTER TABLE tollgate.api_key ADD COLUMN rotated_to TEXT;
UPDATE tollgate.api_key SET rotated_to = next.id
    FROM (SELECT DISTINCT ON (rotated_from) rotated_from, id FROM tollgate.api_key
          WHERE rotated_from IS NOT NULL ORDER BY rotated_from, position DESC) AS next
    WHERE api_key.id = next.rotated_from;

-- By it the keys of an owner that are good are counted.
CREATE INDEX IF NOT EXISTS api_key_live ON tollgate.api_key (owner, expires_at, id) WHERE revoked_at IS NULL;
