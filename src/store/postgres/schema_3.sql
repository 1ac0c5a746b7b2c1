-- Schemes of hashing, and rate quotas of a key's own.
ALTER TABLE tollgate.api_key ADD COLUMN proof TEXT NOT NULL DEFAULT 'sha256';
ALTER TABLE tollgate.api_key ADD COLUMN quotas JSONB;
