-- Content and configuration for appliances; each is kept, the newest is in force. And whose fleet this is.

CREATE TABLE bundle (
    kind     TEXT NOT NULL CHECK (kind IN ('content', 'config')),
    number   BIGINT NOT NULL,
    site_id  TEXT NOT NULL,
    manifest BYTEA NOT NULL,
    files    TEXT NOT NULL,
    made_by  TEXT NOT NULL,
    made_at  BIGINT NOT NULL,
    PRIMARY KEY (kind, number)
);
CREATE INDEX bundle_by_site ON bundle (kind, site_id, number);

CREATE TABLE authority (
    one         BIGINT PRIMARY KEY CHECK (one = 1),
    fingerprint TEXT NOT NULL
);

CREATE TRIGGER bundle_never BEFORE UPDATE OR DELETE ON bundle FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER bundle_never_all BEFORE TRUNCATE ON bundle FOR EACH STATEMENT EXECUTE FUNCTION never();
