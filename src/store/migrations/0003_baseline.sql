-- What people accepted as right; each acceptance is kept, the newest version is in force.

CREATE TABLE baseline (
    check_id    TEXT NOT NULL,
    target      TEXT NOT NULL,
    version     INTEGER NOT NULL CHECK (version >= 1),
    accepted_at TEXT NOT NULL,
    body        TEXT NOT NULL,
    PRIMARY KEY (check_id, target, version)
) STRICT;
CREATE TRIGGER baseline_no_update BEFORE UPDATE ON baseline BEGIN SELECT RAISE(ABORT, 'an accepted baseline never changes'); END;
CREATE TRIGGER baseline_no_delete BEFORE DELETE ON baseline BEGIN SELECT RAISE(ABORT, 'an accepted baseline never goes away'); END;
