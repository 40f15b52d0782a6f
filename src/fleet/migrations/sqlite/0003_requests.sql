-- Whom a request is for, a row each, so that a site's people find theirs; and requests nobody decided in time.

-- The orders of before refer to the table that is made anew; at the end of the transaction all of them find theirs.
PRAGMA defer_foreign_keys = ON;
CREATE TABLE request_before AS SELECT * FROM request;
DROP TABLE request;

CREATE TABLE request (
    id          TEXT PRIMARY KEY,
    verb        TEXT NOT NULL,
    reason      TEXT NOT NULL,
    asked_by    TEXT NOT NULL,
    asked_at    INTEGER NOT NULL,
    life_s      INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'issued', 'rejected', 'expired')),
    decided_by  TEXT,
    decided_at  INTEGER
) STRICT;
INSERT INTO request (id, verb, reason, asked_by, asked_at, life_s, state, decided_by, decided_at)
    SELECT id, verb, reason, asked_by, asked_at, life_s, state, decided_by, decided_at FROM request_before;
CREATE INDEX request_by_time ON request (asked_at, id);

CREATE TABLE request_target (
    request_id   TEXT NOT NULL REFERENCES request (id),
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    PRIMARY KEY (request_id, site_id, appliance_id)
) STRICT;
INSERT INTO request_target (request_id, site_id, appliance_id)
    SELECT r.id, substr(t.value, 1, instr(t.value, '/') - 1), substr(t.value, instr(t.value, '/') + 1)
    FROM request_before r, json_each('["' || replace(r.target, ',', '","') || '"]') t WHERE t.value <> '';
CREATE INDEX request_target_by_site ON request_target (site_id, request_id);

DROP TABLE request_before;
