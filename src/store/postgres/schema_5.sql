-- Money that a node spends by itself. step: the last one that was taken. prepaid: what was charged when the lease was
-- resolved without its node, less the calls that were heard of since; NULL while it is open.
CREATE TABLE tollgate.lease (
    instance BIGINT NOT NULL,
    number BIGINT NOT NULL,
    step BIGINT NOT NULL,
    account BIGINT NOT NULL REFERENCES tollgate.account,
    amount BIGINT NOT NULL,
    day BIGINT NOT NULL,
    month BIGINT NOT NULL,
    budgets JSON NOT NULL,
    charges BOOLEAN NOT NULL,
    prepaid BIGINT,
    ended_at TIMESTAMPTZ,
    PRIMARY KEY (instance, number)
) WITH (fillfactor = 50);
CREATE INDEX lease_by_end ON tollgate.lease (ended_at) WHERE ended_at IS NOT NULL;
