-- The audit log.
CREATE TABLE tollgate.audit (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at TIMESTAMPTZ NOT NULL,
    actor TEXT,
    key TEXT,
    address TEXT,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id TEXT,
    route TEXT,
    target TEXT,
    reason TEXT
);
