//! The tables, and every step that led to them.
//!
//! All amounts are INTEGER: money in nano-dollars, times in microseconds since 1970.
//! `usage.previous`, `usage.previous_charge` and `credit.previous_charge` link to the account's
//! previous row, so a page of the log is read without an index, which every call would have to
//! update.

const FIRST: &str = "
CREATE TABLE IF NOT EXISTS api_key (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    digest BLOB NOT NULL UNIQUE CHECK (length(digest) = 32),
    preview TEXT NOT NULL,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    environment TEXT,
    roles TEXT NOT NULL,
    resource TEXT,
    networks TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER,
    last_used_at INTEGER,
    rotated_from TEXT,
    lineage TEXT NOT NULL,
    metadata TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS api_key_by_owner ON api_key (owner, position);

CREATE TABLE IF NOT EXISTS user (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    email TEXT NOT NULL UNIQUE,
    password_hash TEXT NOT NULL,
    password_version INTEGER NOT NULL CHECK (password_version >= 0),
    roles TEXT NOT NULL,
    attributes TEXT NOT NULL,
    active INTEGER NOT NULL CHECK (active IN (0, 1)),
    created_at INTEGER NOT NULL
) STRICT;

-- A login may be of a user whom another store keeps, so it refers to none here.
CREATE TABLE IF NOT EXISTS session (
    id TEXT NOT NULL PRIMARY KEY,
    user TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    ended_at INTEGER
) STRICT, WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS session_by_user ON session (user);
CREATE INDEX IF NOT EXISTS session_by_expiry ON session (expires_at);

CREATE TABLE IF NOT EXISTS account (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    deposited INTEGER NOT NULL,
    settled INTEGER NOT NULL,
    held INTEGER NOT NULL,
    latest_usage INTEGER,
    latest_charge INTEGER
) STRICT;

CREATE TABLE IF NOT EXISTS budget (
    account INTEGER NOT NULL REFERENCES account,
    id TEXT NOT NULL,
    daily INTEGER,
    monthly INTEGER,
    total INTEGER,
    day INTEGER NOT NULL,
    month INTEGER NOT NULL,
    day_settled INTEGER NOT NULL,
    day_held INTEGER NOT NULL,
    month_settled INTEGER NOT NULL,
    month_held INTEGER NOT NULL,
    total_settled INTEGER NOT NULL,
    total_held INTEGER NOT NULL,
    PRIMARY KEY (account, id)
) STRICT, WITHOUT ROWID;

-- seen_at: when it last said that it lives.
CREATE TABLE IF NOT EXISTS instance (
    id INTEGER PRIMARY KEY,
    seen_at INTEGER NOT NULL
) STRICT;

-- ends: on the monotonic clock of the instance, which alone judges it. The writer sees to it that account
-- exists; to have it looked up for every row would cost a tenth of the throughput.
CREATE TABLE IF NOT EXISTS hold (
    instance INTEGER NOT NULL,
    number INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    account INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    day INTEGER NOT NULL,
    month INTEGER NOT NULL,
    budgets BLOB NOT NULL,
    request_id TEXT NOT NULL,
    key TEXT,
    route TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    PRIMARY KEY (instance, number)
) STRICT, WITHOUT ROWID;

CREATE TABLE IF NOT EXISTS usage (
    position INTEGER PRIMARY KEY,
    account INTEGER NOT NULL,
    previous INTEGER,
    previous_charge INTEGER,
    request_id TEXT NOT NULL,
    key TEXT,
    route TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    settled_at INTEGER NOT NULL,
    held INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    outcome TEXT NOT NULL,
    status INTEGER,
    latency INTEGER NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER
) STRICT;

CREATE TABLE IF NOT EXISTS credit (
    position INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account,
    previous_charge INTEGER,
    reference TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL CHECK (amount > 0),
    paid_at INTEGER NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS credit_by_account ON credit (account, position);

-- The next position in usage and credit, which share their order.
CREATE TABLE IF NOT EXISTS log (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    next INTEGER NOT NULL
) STRICT;
INSERT OR IGNORE INTO log VALUES (1, 1);
";

/// Refresh tokens.
const SECOND: &str = "
ALTER TABLE session ADD COLUMN generation INTEGER NOT NULL DEFAULT 0 CHECK (generation >= 0);
ALTER TABLE session ADD COLUMN refreshed_at INTEGER;
";

/// Hashing schemes, and a key's own rate quotas: JSON, `null` if none.
const KEYS: &str = "
ALTER TABLE api_key ADD COLUMN proof TEXT NOT NULL DEFAULT 'sha256';
ALTER TABLE api_key ADD COLUMN quotas TEXT NOT NULL DEFAULT 'null';
";

/// Credit lines, soft limits, idempotency keys, corrections, and more about a call.
///
/// hold.charges: whether it is charged if nobody settles it. A principal is NULL if it is named
/// like its account, as most are. once.ends is the time of day.
const MONEY: &str = "
ALTER TABLE account ADD COLUMN credit_line INTEGER NOT NULL DEFAULT 0;
ALTER TABLE budget ADD COLUMN soft_daily INTEGER;
ALTER TABLE budget ADD COLUMN soft_monthly INTEGER;
ALTER TABLE budget ADD COLUMN soft_total INTEGER;
ALTER TABLE hold ADD COLUMN charges INTEGER NOT NULL DEFAULT 0;
ALTER TABLE hold ADD COLUMN principal TEXT;
ALTER TABLE hold ADD COLUMN idempotency_key TEXT;
ALTER TABLE usage ADD COLUMN principal TEXT;
ALTER TABLE usage ADD COLUMN model TEXT;
ALTER TABLE usage ADD COLUMN bytes INTEGER;

CREATE TABLE once (
    account INTEGER NOT NULL REFERENCES account,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL CHECK (length(fingerprint) = 32),
    settled INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    PRIMARY KEY (account, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX once_by_end ON once (ends);

ALTER TABLE credit RENAME TO payment;
CREATE TABLE credit (
    position INTEGER PRIMARY KEY,
    account INTEGER NOT NULL REFERENCES account,
    previous_charge INTEGER,
    reference TEXT NOT NULL UNIQUE,
    amount INTEGER NOT NULL CHECK (amount <> 0),
    paid_at INTEGER NOT NULL
) STRICT;
INSERT INTO credit SELECT position, account, previous_charge, reference, amount, paid_at FROM payment;
DROP TABLE payment;
CREATE INDEX credit_by_account ON credit (account, position);
";

const AUDIT: &str = "
CREATE TABLE IF NOT EXISTS audit (
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    at INTEGER NOT NULL,
    actor TEXT,
    key TEXT,
    address TEXT,
    action TEXT NOT NULL,
    outcome TEXT NOT NULL,
    request_id TEXT,
    route TEXT,
    target TEXT,
    reason TEXT
) STRICT;
";

/// Refusals of strangers are counted separately: `ordinal` is an entry's number within its kind.
const STRANGERS: &str = "
ALTER TABLE audit ADD COLUMN stranger INTEGER NOT NULL DEFAULT 0 CHECK (stranger IN (0, 1));
ALTER TABLE audit ADD COLUMN ordinal INTEGER NOT NULL DEFAULT 0;
UPDATE audit SET ordinal = position, stranger =
    (outcome <> 'success' AND key IS NULL AND (actor IS NULL OR action = 'login'));
CREATE INDEX audit_by_ordinal ON audit (stranger, ordinal);
";

/// Money that a node spends by itself. step: the last one applied. prepaid: what was charged when
/// the lease was resolved without its node, minus the calls reported since; NULL while it is open.
const LEASES: &str = "
CREATE TABLE lease (
    instance INTEGER NOT NULL,
    number INTEGER NOT NULL,
    step INTEGER NOT NULL,
    account INTEGER NOT NULL REFERENCES account,
    amount INTEGER NOT NULL,
    day INTEGER NOT NULL,
    month INTEGER NOT NULL,
    budgets BLOB NOT NULL,
    charges INTEGER NOT NULL,
    prepaid INTEGER,
    ended_at INTEGER,
    PRIMARY KEY (instance, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX lease_by_end ON lease (ended_at) WHERE ended_at IS NOT NULL;
";

/// A key is replaced once. For those that were replaced several times before this rule, the latest
/// successor counts. The index is for counting an owner's valid keys.
const ROTATIONS: &str = "
ALTER TABLE api_key ADD COLUMN rotated_to TEXT;
UPDATE api_key SET rotated_to = next.id
    FROM (SELECT rotated_from, id, max(position) FROM api_key
          WHERE rotated_from IS NOT NULL GROUP BY rotated_from) AS next
    WHERE api_key.id = next.rotated_from;

CREATE INDEX api_key_live ON api_key (owner, expires_at, id) WHERE revoked_at IS NULL;
";

/// The rolling window: text, because a budget has all of it or none. NULL: it never had such a
/// limit.
const ROLLING: &str = "
ALTER TABLE budget ADD COLUMN rolling TEXT;
";

/// Holds are numbered throughout the file, and all but a few of their columns are one blob: see
/// `holds`, which writes the same form. A process of an older version that still has the file open
/// refuses all calls from then on.
const COMPACT_HOLDS: &str = "
CREATE TABLE open_hold (
    number INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL,
    ends INTEGER NOT NULL,
    account INTEGER NOT NULL,
    amount INTEGER NOT NULL,
    call BLOB NOT NULL
) STRICT;
INSERT INTO open_hold (instance, ends, account, amount, call)
    SELECT instance, ends, account, amount, unhex(
        printf('%02X%016X%016X%016X', (charges <> 0) + 2 * (key IS NOT NULL) + 4 * (principal IS NOT NULL)
            + 8 * (idempotency_key IS NOT NULL), day, month, started_at)
        || printf('%08X', length(budgets)) || hex(budgets)
        || printf('%08X', octet_length(request_id)) || hex(request_id)
        || printf('%08X', octet_length(route)) || hex(route)
        || iif(key IS NULL, '', printf('%08X', octet_length(key)) || hex(key))
        || iif(principal IS NULL, '', printf('%08X', octet_length(principal)) || hex(principal))
        || iif(idempotency_key IS NULL, '', printf('%08X', octet_length(idempotency_key)) || hex(idempotency_key)))
    FROM hold;
DROP TABLE hold;
ALTER TABLE open_hold RENAME TO hold;
ALTER TABLE log ADD COLUMN next_hold INTEGER NOT NULL DEFAULT 1;
UPDATE log SET next_hold = (SELECT coalesce(max(number), 0) + 1 FROM hold);
";

/// A process of an older version that still has the file open numbers holds differently: under the
/// old table name it could end another hold.
const OPEN_HOLDS: &str = "
ALTER TABLE hold RENAME TO open_hold;
";

/// Shares of the audit log, by their numbers in `domain::audit`; existing entries get 10. The other
/// indexes are for queries.
const SHARES: &str = "
ALTER TABLE audit ADD COLUMN share INTEGER NOT NULL DEFAULT 10;
UPDATE audit SET share = 1 WHERE stranger = 1;
DROP INDEX audit_by_ordinal;
ALTER TABLE audit DROP COLUMN stranger;
CREATE INDEX audit_by_share ON audit (share, ordinal);
CREATE INDEX audit_by_actor ON audit (actor, position);
CREATE INDEX audit_by_action ON audit (action, position);
";

/// Of the input tokens, those that came from a cache, and those that were written to one.
const CACHED_TOKENS: &str = "
ALTER TABLE usage ADD COLUMN cached_tokens INTEGER;
ALTER TABLE usage ADD COLUMN cache_write_tokens INTEGER;
";

/// The holds that one transaction opens are a bundle: see `bundles`. Existing holds become a bundle
/// each. A process of an older version that still has the file open refuses all calls from then on.
const BUNDLES: &str = "
CREATE TABLE bundle (
    first INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL,
    open BLOB NOT NULL,
    stored INTEGER NOT NULL
) STRICT;
CREATE INDEX bundle_by_instance ON bundle (instance);
CREATE TABLE bundled (
    first INTEGER PRIMARY KEY,
    holds BLOB NOT NULL
) STRICT;
INSERT INTO bundle (first, instance, open, stored) SELECT number, instance, x'01', 1 FROM open_hold;
INSERT INTO bundled (first, holds) SELECT number, unhex(
        printf('%08X%016X%016X%08X', 0, account, amount, length(call)) || hex(call))
    FROM open_hold;
DROP TABLE open_hold;
";

/// 1 for a call that reported no usage, otherwise NULL.
const MISSING_USAGE: &str = "
ALTER TABLE usage ADD COLUMN usage_is_missing INTEGER;
";

/// The audit log is read in order of time, because whoever reads the clock first may be written
/// second. Each index ends with the position.
const TIMES: &str = "
DROP INDEX audit_by_actor;
DROP INDEX audit_by_action;
CREATE INDEX audit_by_time ON audit (at);
CREATE INDEX audit_by_actor ON audit (actor, at);
CREATE INDEX audit_by_action ON audit (action, at);
";

/// Holds that were resolved without their owner, for a day: a settlement that comes late is
/// charged, less what was charged then. fingerprint, key_ends: of the idempotency key, where it was
/// freed.
const ABANDONED: &str = "
CREATE TABLE abandoned (
    number INTEGER PRIMARY KEY,
    instance INTEGER NOT NULL,
    charged INTEGER NOT NULL,
    fingerprint BLOB CHECK (length(fingerprint) = 32),
    key_ends INTEGER,
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX abandoned_by_time ON abandoned (at);
";

/// 1 for a key that is disabled: its `revoked_at` is when, and can be undone. So a process of an
/// older version refuses it too.
const DISABLED_KEYS: &str = "
ALTER TABLE api_key ADD COLUMN is_disabled INTEGER;
";

/// Kinds of tokens, searches and a tier, as JSON, for the calls that have any.
const USAGE_DETAILS: &str = "
ALTER TABLE usage ADD COLUMN details TEXT;
";

/// The call that a correction gives back: the position of its row, and its request's id.
const REFUNDS: &str = "
ALTER TABLE credit ADD COLUMN refunded INTEGER;
ALTER TABLE credit ADD COLUMN request_id TEXT;
CREATE INDEX credit_by_call ON credit (refunded) WHERE refunded IS NOT NULL;
";

/// To which budgets a correction gave something back, as JSON; '' for none, NULL in older rows.
const REFUNDED_BUDGETS: &str = "
ALTER TABLE credit ADD COLUMN budgets TEXT;
";

/// The soft limits of windows that have several: see `store::thresholds`. NULL: none has.
const THRESHOLDS: &str = "
ALTER TABLE budget ADD COLUMN thresholds TEXT;
";

/// All changes of the tables, in order.
pub(super) const STEPS: [&str; 22] = [
    FIRST,
    SECOND,
    MONEY,
    AUDIT,
    KEYS,
    STRANGERS,
    LEASES,
    ROTATIONS,
    ROLLING,
    COMPACT_HOLDS,
    OPEN_HOLDS,
    SHARES,
    CACHED_TOKENS,
    BUNDLES,
    MISSING_USAGE,
    TIMES,
    ABANDONED,
    DISABLED_KEYS,
    USAGE_DETAILS,
    REFUNDS,
    REFUNDED_BUDGETS,
    THRESHOLDS,
];

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;

    #[test]
    fn who_knows_holds_by_older_numbers_ends_none() {
        let connection = Connection::open_in_memory().unwrap();
        for step in STEPS {
            connection.execute_batch(step).unwrap();
        }
        // As versions before the compact form, and before bundles, wrote them.
        for table in ["hold", "open_hold"] {
            let end = format!("DELETE FROM {table} WHERE instance = 1 AND number = 1");
            assert!(connection.execute(&end, []).is_err());
        }
    }

    #[test]
    fn of_keys_that_were_rotated_before_the_latest_successor_is_known() {
        let connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(FIRST).unwrap();
        for (id, of) in [
            ("old", None),
            ("lost", Some("old")),
            ("new", Some("old")),
            ("orphan", Some("deleted")),
        ] {
            let insert = "INSERT INTO api_key (id, digest, preview, name, owner, roles, networks, created_at,
                rotated_from, lineage, metadata)
                VALUES (?, randomblob(32), '', '', 'ann', '[]', '[]', 0, ?, 'old', '{}')";
            connection.execute(insert, [Some(id), of]).unwrap();
        }
        connection.execute_batch(ROTATIONS).unwrap();
        let mut list = connection
            .prepare("SELECT id, rotated_to FROM api_key WHERE rotated_to IS NOT NULL")
            .unwrap();
        let found: Vec<(String, String)> = list
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert_eq!(found, [("old".to_owned(), "new".to_owned())]);
    }
}
