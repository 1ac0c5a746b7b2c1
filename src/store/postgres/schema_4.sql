-- Refusals of strangers are counted for themselves: `ordinal` is an entry's number among those of its kind.
CREATE SEQUENCE tollgate.audit_of_known;
CREATE SEQUENCE tollgate.audit_of_strangers;
ALTER TABLE tollgate.audit ADD COLUMN stranger BOOLEAN NOT NULL DEFAULT FALSE;
ALTER TABLE tollgate.audit ADD COLUMN ordinal BIGINT NOT NULL DEFAULT 0;
UPDATE tollgate.audit SET ordinal = position, stranger =
    (outcome <> 'success' AND key IS NULL AND (actor IS NULL OR action = 'login'));
SELECT setval('tollgate.audit_of_known', coalesce(max(position), 0) + 1),
    setval('tollgate.audit_of_strangers', coalesce(max(position), 0) + 1) FROM tollgate.audit;
CREATE INDEX audit_by_ordinal ON tollgate.audit (stranger, ordinal);
