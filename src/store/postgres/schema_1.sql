-- Money is in nano-dollars. A day and a month are named by their first second since 1970.

CREATE TABLE tollgate.api_key (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    digest BYTEA NOT NULL UNIQUE CHECK (octet_length(digest) = 32),
    preview TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    environment TEXT,
    roles TEXT[] NOT NULL,
    resource TEXT,
    networks TEXT[] NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ,
    revoked_at TIMESTAMPTZ,
    last_used_at TIMESTAMPTZ,
    rotated_from TEXT,
    lineage TEXT NOT NULL,
    metadata JSONB NOT NULL
);
CREATE INDEX api_key_by_owner ON tollgate.api_key (owner, position);

CREATE TABLE tollgate.users (
    position BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    password_version BIGINT NOT NULL CHECK (password_version >= 0),
    roles TEXT[] NOT NULL,
    attributes JSONB NOT NULL,
    active BOOLEAN NOT NULL,
    created_at TIMESTAMPTZ NOT NULL
);

-- A login may be of a user whom another store keeps, so it refers to none here.
CREATE TABLE tollgate.session (
    id TEXT PRIMARY KEY,
    user_id TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    ended_at TIMESTAMPTZ,
    generation BIGINT NOT NULL CHECK (generation >= 0),
    refreshed_at TIMESTAMPTZ
);
CREATE INDEX session_by_user ON tollgate.session (user_id);
CREATE INDEX session_by_expiry ON tollgate.session (expires_at);

-- Half of a page stays free, so that a row that changes at every call stays on its page and out of the index.
CREATE TABLE tollgate.account (
    number BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    deposited BIGINT NOT NULL DEFAULT 0,
    settled BIGINT NOT NULL DEFAULT 0,
    held BIGINT NOT NULL DEFAULT 0,
    credit_line BIGINT NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Whoever writes a budget, a hold or a row of the log has locked the account's row.
CREATE TABLE tollgate.budget (
    account BIGINT NOT NULL REFERENCES tollgate.account,
    id TEXT NOT NULL,
    daily BIGINT,
    monthly BIGINT,
    total BIGINT,
    day BIGINT NOT NULL,
    month BIGINT NOT NULL,
    day_settled BIGINT NOT NULL,
    day_held BIGINT NOT NULL,
    month_settled BIGINT NOT NULL,
    month_held BIGINT NOT NULL,
    total_settled BIGINT NOT NULL,
    total_held BIGINT NOT NULL,
    soft_daily BIGINT,
    soft_monthly BIGINT,
    soft_total BIGINT,
    PRIMARY KEY (account, id)
) WITH (fillfactor = 50);

-- beats: grows while the instance lives.
CREATE TABLE tollgate.instance (
    id BIGINT PRIMARY KEY,
    beats BIGINT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
) WITH (fillfactor = 50);

-- ends: microseconds on the monotonic clock of the instance, which alone judges it. charges: whether it is charged if
-- nobody settles it. Here and in usage a principal is NULL where it is called like its account, as most are.
CREATE TABLE tollgate.hold (
    instance BIGINT NOT NULL,
    number BIGINT NOT NULL,
    ends BIGINT NOT NULL,
    account BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    day BIGINT NOT NULL,
    month BIGINT NOT NULL,
    budgets JSON NOT NULL,
    request_id TEXT NOT NULL,
    principal TEXT,
    key TEXT,
    route TEXT NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    charges BOOLEAN NOT NULL,
    idempotency_key TEXT,
    PRIMARY KEY (instance, number)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- Usage and payments share their order. Both are written under the lock of their account, so the positions of
-- one account grow in the order of its commits.
CREATE SEQUENCE tollgate.log_position;

CREATE TABLE tollgate.usage (
    position BIGINT PRIMARY KEY DEFAULT nextval('tollgate.log_position'),
    account BIGINT NOT NULL,
    request_id TEXT NOT NULL,
    principal TEXT,
    key TEXT,
    route TEXT NOT NULL,
    started_at TIMESTAMPTZ NOT NULL,
    settled_at TIMESTAMPTZ NOT NULL,
    held BIGINT NOT NULL,
    charged BIGINT NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    latency_micros BIGINT NOT NULL,
    input_tokens BIGINT,
    output_tokens BIGINT,
    bytes BIGINT,
    model TEXT
);
CREATE INDEX usage_by_account ON tollgate.usage (account, position);
CREATE INDEX charge_by_account ON tollgate.usage (account, position) WHERE charged <> 0;

CREATE TABLE tollgate.credit (
    position BIGINT PRIMARY KEY DEFAULT nextval('tollgate.log_position'),
    account BIGINT NOT NULL REFERENCES tollgate.account,
    reference TEXT NOT NULL UNIQUE,
    amount BIGINT NOT NULL CHECK (amount <> 0),
    paid_at TIMESTAMPTZ NOT NULL
);
CREATE INDEX credit_by_account ON tollgate.credit (account, position);

-- Idempotency keys. ends: the time of day, from which on a settled one is forgotten.
CREATE TABLE tollgate.once (
    account BIGINT NOT NULL REFERENCES tollgate.account,
    key TEXT NOT NULL,
    fingerprint BYTEA NOT NULL CHECK (octet_length(fingerprint) = 32),
    settled BOOLEAN NOT NULL,
    ends TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (account, key)
);
CREATE INDEX once_by_end ON tollgate.once (ends) WHERE settled;

-- Every change that a resolver must hear of is told on one channel, whoever makes it: this crate, another version
-- of it, or an operator by hand. `k` and the digest, `s` and the login, `u` and the user.
CREATE FUNCTION tollgate.tell_of_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND
        to_jsonb(OLD) - 'last_used_at' IS NOT DISTINCT FROM to_jsonb(NEW) - 'last_used_at' THEN
        RETURN NULL;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        PERFORM pg_notify('tollgate', 'k' || encode(OLD.digest, 'hex'));
    END IF;
    IF TG_OP = 'INSERT' OR (TG_OP = 'UPDATE' AND NEW.digest <> OLD.digest) THEN
        PERFORM pg_notify('tollgate', 'k' || encode(NEW.digest, 'hex'));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON tollgate.api_key
    FOR EACH ROW EXECUTE FUNCTION tollgate.tell_of_key();

CREATE FUNCTION tollgate.tell_of_session() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    -- That a login is cleared away after its time is no news.
    IF TG_OP = 'UPDATE' OR OLD.expires_at > now() THEN
        PERFORM pg_notify('tollgate', 's' || OLD.id);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER UPDATE OR DELETE ON tollgate.session
    FOR EACH ROW EXECUTE FUNCTION tollgate.tell_of_session();

CREATE FUNCTION tollgate.tell_of_user() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tollgate', 'u' || OLD.id);
    RETURN NULL;
END $$;
CREATE TRIGGER tell AFTER UPDATE OR DELETE ON tollgate.users
    FOR EACH ROW EXECUTE FUNCTION tollgate.tell_of_user();

-- TRUNCATE and the like: everything is to be forgotten.
CREATE FUNCTION tollgate.tell_of_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('tollgate', '*');
    RETURN NULL;
END $$;
CREATE TRIGGER tell_of_all AFTER TRUNCATE ON tollgate.api_key
    FOR EACH STATEMENT EXECUTE FUNCTION tollgate.tell_of_all();
CREATE TRIGGER tell_of_all AFTER TRUNCATE ON tollgate.session
    FOR EACH STATEMENT EXECUTE FUNCTION tollgate.tell_of_all();
CREATE TRIGGER tell_of_all AFTER TRUNCATE ON tollgate.users
    FOR EACH STATEMENT EXECUTE FUNCTION tollgate.tell_of_all();
