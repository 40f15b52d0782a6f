-- Sites, appliances, certificates, orders, logs, people, and who did what. Times are milliseconds of the epoch.

CREATE TABLE site (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    tier       TEXT NOT NULL CHECK (tier IN ('essential', 'professional', 'enterprise')),
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE enrol_token (
    hash         BLOB PRIMARY KEY,
    site_id      TEXT NOT NULL REFERENCES site (id),
    appliance_id TEXT NOT NULL,
    again        INTEGER NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL,
    used_at      INTEGER
) STRICT;

CREATE TABLE appliance (
    site_id         TEXT NOT NULL REFERENCES site (id),
    id              TEXT NOT NULL,
    origin          TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL CHECK (state IN ('active', 'rolled_back', 'revoked')),
    entry_key       TEXT NOT NULL,
    head_key        TEXT NOT NULL,
    recovery_key    TEXT,
    enrolled_at     INTEGER NOT NULL,
    last_seen_at    INTEGER,
    version         TEXT,
    order_key_seen  TEXT,
    order_seq_seen  INTEGER,
    clock_offset_ms INTEGER,
    outbox_depth    INTEGER,
    log_size        INTEGER,
    posture         TEXT,
    inventory       TEXT,
    next_order_seq  INTEGER NOT NULL,
    PRIMARY KEY (site_id, id)
) STRICT;

CREATE TABLE certificate (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    serial       TEXT NOT NULL UNIQUE,
    not_before   INTEGER NOT NULL,
    not_after    INTEGER NOT NULL,
    issued_at    INTEGER NOT NULL,
    revoked_at   INTEGER,
    PRIMARY KEY (site_id, serial),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
) STRICT;
CREATE INDEX certificate_revoked ON certificate (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE request (
    id          TEXT PRIMARY KEY,
    verb        TEXT NOT NULL,
    target      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    asked_by    TEXT NOT NULL,
    asked_at    INTEGER NOT NULL,
    life_s      INTEGER NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'issued', 'rejected')),
    decided_by  TEXT,
    decided_at  INTEGER
) STRICT;

CREATE TABLE appliance_order (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    id           TEXT NOT NULL UNIQUE,
    request_id   TEXT NOT NULL REFERENCES request (id),
    envelope     BLOB NOT NULL,
    expires_at   INTEGER NOT NULL,
    state        TEXT NOT NULL,
    queued_at    INTEGER NOT NULL,
    changed_at   INTEGER NOT NULL,
    say          TEXT NOT NULL,
    report       BLOB,
    PRIMARY KEY (site_id, appliance_id, seq),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
) STRICT;
CREATE INDEX order_open ON appliance_order (site_id, appliance_id, seq) WHERE state IN ('queued', 'delivered');
CREATE INDEX order_by_request ON appliance_order (request_id);

CREATE TABLE log (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    size         INTEGER NOT NULL,
    root         BLOB NOT NULL,
    prev         BLOB NOT NULL,
    note         BLOB NOT NULL,
    advanced_at  INTEGER NOT NULL,
    PRIMARY KEY (site_id, appliance_id),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
) STRICT;

-- Not WITHOUT ROWID: a line is longer than what such a table keeps in a page, and each would fill one more of its own.
CREATE TABLE entry (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    seq          INTEGER NOT NULL,
    line         BLOB NOT NULL,
    leaf         BLOB NOT NULL,
    kind         TEXT NOT NULL,
    outcome      TEXT,
    runbook      TEXT,
    claimed_at   INTEGER NOT NULL,
    received_at  INTEGER NOT NULL,
    PRIMARY KEY (site_id, appliance_id, seq)
) STRICT;

CREATE TABLE node (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    level        INTEGER NOT NULL,
    idx          INTEGER NOT NULL,
    hash         BLOB NOT NULL,
    PRIMARY KEY (site_id, appliance_id, level, idx)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    first        INTEGER NOT NULL,
    last         INTEGER NOT NULL,
    key          TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    version      TEXT NOT NULL,
    keep_until   INTEGER NOT NULL,
    written_at   INTEGER NOT NULL,
    PRIMARY KEY (site_id, appliance_id, first)
) STRICT;

CREATE TABLE quarantine (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    at           INTEGER NOT NULL,
    reason       TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    body         BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX quarantine_once ON quarantine (site_id, appliance_id, sha256, reason);

CREATE TABLE person (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    sites      TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    ended_at   INTEGER
) STRICT;

CREATE TABLE api_token (
    hash       BLOB PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    person_id  TEXT NOT NULL REFERENCES person (id),
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    sites      TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    used_at    INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE TABLE audit (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    site_id TEXT NOT NULL,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    act     TEXT NOT NULL,
    object  TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
CREATE INDEX audit_by_site ON audit (site_id, id);

CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry BEGIN SELECT RAISE(ABORT, 'entry: evidence never changes'); END;
CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry BEGIN SELECT RAISE(ABORT, 'entry: evidence never goes away'); END;
CREATE TRIGGER node_no_update BEFORE UPDATE ON node BEGIN SELECT RAISE(ABORT, 'node: a complete subtree never changes'); END;
CREATE TRIGGER node_no_delete BEFORE DELETE ON node BEGIN SELECT RAISE(ABORT, 'node: a complete subtree never changes'); END;
CREATE TRIGGER segment_no_update BEFORE UPDATE ON segment BEGIN SELECT RAISE(ABORT, 'segment: what is in WORM stays'); END;
CREATE TRIGGER segment_no_delete BEFORE DELETE ON segment BEGIN SELECT RAISE(ABORT, 'segment: what is in WORM stays'); END;
CREATE TRIGGER quarantine_no_update BEFORE UPDATE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine: it is kept as proof'); END;
CREATE TRIGGER quarantine_no_delete BEFORE DELETE ON quarantine BEGIN SELECT RAISE(ABORT, 'quarantine: it is kept as proof'); END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit: who did what never changes'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'audit: who did what never goes away'); END;
CREATE TRIGGER log_grows BEFORE UPDATE ON log WHEN NEW.size <= OLD.size
BEGIN SELECT RAISE(ABORT, 'log: a log only grows'); END;
CREATE TRIGGER log_no_delete BEFORE DELETE ON log BEGIN SELECT RAISE(ABORT, 'log: a log never goes away'); END;
