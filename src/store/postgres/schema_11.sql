-- The audit log is read in the order of its times: of several processes one may look at the clock first and write second.
DROP INDEX tollgate.audit_by_actor;
DROP INDEX tollgate.audit_by_action;
CREATE INDEX audit_by_time ON tollgate.audit (at, position);
CREATE INDEX audit_by_actor ON tollgate.audit (actor, at, position);
CREATE INDEX audit_by_action ON tollgate.audit (action, at, position);
