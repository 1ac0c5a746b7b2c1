-- Shares of the audit log, by the numbers that `domain::audit` gives them; 10 is for what is there already, and for what processes
-- of before write meanwhile. Ordinals of a share begin behind all that there are, so that those processes take none for old.
ALTER TABLE tollgate.audit ADD COLUMN share SMALLINT NOT NULL DEFAULT 10;
UPDATE tollgate.audit SET share = 1 WHERE stranger;
CREATE SEQUENCE tollgate.audit_of_share_0;
CREATE SEQUENCE tollgate.audit_of_share_1;
CREATE SEQUENCE tollgate.audit_of_share_2;
CREATE SEQUENCE tollgate.audit_of_share_3;
CREATE SEQUENCE tollgate.audit_of_share_4;
CREATE SEQUENCE tollgate.audit_of_share_5;
CREATE SEQUENCE tollgate.audit_of_share_6;
CREATE SEQUENCE tollgate.audit_of_share_7;
CREATE SEQUENCE tollgate.audit_of_share_8;
CREATE SEQUENCE tollgate.audit_of_share_9;
SELECT setval(format('tollgate.audit_of_share_%s', share)::regclass,
    (SELECT coalesce(max(position), 0) + 1 FROM tollgate.audit))
    FROM generate_series(0, 9) AS share;
DROP INDEX tollgate.audit_by_ordinal;
CREATE INDEX audit_by_share ON tollgate.audit (share, ordinal);
CREATE INDEX audit_by_actor ON tollgate.audit (actor, position);
CREATE INDEX audit_by_action ON tollgate.audit (action, position);
