-- Of a key that is disabled: its `revoked_at` is when, and can be undone, so that processes of before refuse it too. NULL like
-- false: what those write.
ALTER TABLE tollgate.api_key ADD COLUMN IF NOT EXISTS is_disabled BOOLEAN;
