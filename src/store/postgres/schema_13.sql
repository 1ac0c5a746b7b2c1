-- Holds that were resolved without their owner, for a day: a settlement that comes late is charged, less what was charged
-- then. fingerprint, key_ends: of the idempotency key, where it was freed.
CREATE TABLE IF NOT EXISTS tollgate.abandoned (
    instance BIGINT NOT NULL,
    number BIGINT NOT NULL,
    charged BIGINT NOT NULL,
    fingerprint BYTEA CHECK (octet_length(fingerprint) = 32),
    key_ends TIMESTAMPTZ,
    at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (instance, number)
);
CREATE INDEX IF NOT EXISTS abandoned_by_time ON tollgate.abandoned (at);
