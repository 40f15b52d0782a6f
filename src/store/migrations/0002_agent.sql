-- The agent's own memory: what was found, what is open, what was done, what people decided.

CREATE TABLE setting (
    name       TEXT PRIMARY KEY,
    value      TEXT NOT NULL,
    changed_by TEXT NOT NULL,
    changed_at TEXT NOT NULL
) STRICT;

CREATE TABLE finding (
    check_id     TEXT NOT NULL,
    target       TEXT NOT NULL,
    observed_at  TEXT NOT NULL,
    since        TEXT NOT NULL,
    fails_in_row INTEGER NOT NULL,
    last_pass    TEXT,
    body         TEXT NOT NULL,
    PRIMARY KEY (check_id, target)
) STRICT;

CREATE TABLE failure (
    check_id TEXT NOT NULL,
    target   TEXT NOT NULL,
    at       TEXT NOT NULL,
    PRIMARY KEY (check_id, target, at)
) STRICT;

CREATE TABLE incident (
    id        TEXT PRIMARY KEY,
    check_id  TEXT NOT NULL,
    target    TEXT NOT NULL,
    state     TEXT NOT NULL,
    opened_at TEXT NOT NULL,
    body      TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_open_incident ON incident (check_id, target) WHERE state <> 'resolved';
CREATE INDEX incident_by_time ON incident (opened_at, id);

CREATE TABLE execution (
    id          TEXT PRIMARY KEY,
    incident_id TEXT NOT NULL REFERENCES incident (id),
    target      TEXT NOT NULL,
    runbook     TEXT NOT NULL,
    disruptive  INTEGER NOT NULL,
    plan        TEXT NOT NULL,
    started_at  TEXT NOT NULL,
    ended_at    TEXT,
    outcome     TEXT
) STRICT;
CREATE INDEX execution_open ON execution (target) WHERE ended_at IS NULL;
CREATE INDEX execution_by_start ON execution (started_at);

CREATE TABLE journal (
    execution_id TEXT NOT NULL REFERENCES execution (id),
    n            INTEGER NOT NULL,
    at           TEXT NOT NULL,
    event        TEXT NOT NULL,
    PRIMARY KEY (execution_id, n)
) STRICT;
CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;
CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END;

CREATE TABLE approval (
    id           TEXT PRIMARY KEY,
    incident_id  TEXT NOT NULL REFERENCES incident (id),
    plan_sha256  TEXT NOT NULL,
    state        TEXT NOT NULL CHECK (state IN ('pending', 'granted', 'rejected', 'used', 'expired')),
    requested_at TEXT NOT NULL,
    expires_at   TEXT NOT NULL,
    decided_by   TEXT,
    decided_at   TEXT,
    note         TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE UNIQUE INDEX one_open_approval ON approval (incident_id) WHERE state IN ('pending', 'granted');

CREATE TABLE exception (
    id         TEXT PRIMARY KEY,
    created_at TEXT NOT NULL,
    body       TEXT NOT NULL,
    removed_at TEXT,
    removed_by TEXT
) STRICT;
