-- Finding the first entry that waits must not read all that were ever sent.

CREATE INDEX outbox_waiting ON outbox (seq) WHERE sent_at IS NULL;
