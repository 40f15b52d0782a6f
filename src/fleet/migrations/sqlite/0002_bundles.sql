-- Content and configuration for appliances; each is kept, the newest is in force. And whose fleet this is.

CREATE TABLE bundle (
    kind     TEXT NOT NULL CHECK (kind IN ('content', 'config')),
    number   INTEGER NOT NULL,
    site_id  TEXT NOT NULL,
    manifest BLOB NOT NULL,
    files    TEXT NOT NULL,
    made_by  TEXT NOT NULL,
    made_at  INTEGER NOT NULL,
    PRIMARY KEY (kind, number)
) STRICT;
CREATE INDEX bundle_by_site ON bundle (kind, site_id, number);

CREATE TABLE authority (
    one         INTEGER PRIMARY KEY CHECK (one = 1),
    fingerprint TEXT NOT NULL
) STRICT;

CREATE TRIGGER bundle_no_update BEFORE UPDATE ON bundle BEGIN SELECT RAISE(ABORT, 'bundle: what was published never changes'); END;
CREATE TRIGGER bundle_no_delete BEFORE DELETE ON bundle BEGIN SELECT RAISE(ABORT, 'bundle: what was published never goes away'); END;
