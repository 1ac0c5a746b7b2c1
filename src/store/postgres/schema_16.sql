-- The call that a correction gives back: the position of its row, and its request's id.
ALTER TABLE tollgate.credit ADD COLUMN IF NOT EXISTS refunded BIGINT, ADD COLUMN IF NOT EXISTS request_id TEXT;
CREATE INDEX IF NOT EXISTS credit_by_call ON tollgate.credit (refunded) WHERE refunded IS NOT NULL;
