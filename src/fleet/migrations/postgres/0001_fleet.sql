-- Sites, appliances, certificates, orders, logs, people, and who did what. Times are milliseconds of the epoch.

CREATE TABLE site (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    tier       TEXT NOT NULL CHECK (tier IN ('essential', 'professional', 'enterprise')),
    created_at BIGINT NOT NULL
);

CREATE TABLE enrol_token (
    hash         BYTEA PRIMARY KEY,
    site_id      TEXT NOT NULL REFERENCES site (id),
    appliance_id TEXT NOT NULL,
    again        BIGINT NOT NULL,
    created_by   TEXT NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT NOT NULL,
    used_at      BIGINT
);

CREATE TABLE appliance (
    site_id         TEXT NOT NULL REFERENCES site (id),
    id              TEXT NOT NULL,
    origin          TEXT NOT NULL UNIQUE,
    state           TEXT NOT NULL CHECK (state IN ('active', 'rolled_back', 'revoked')),
    entry_key       TEXT NOT NULL,
    head_key        TEXT NOT NULL,
    recovery_key    TEXT,
    enrolled_at     BIGINT NOT NULL,
    last_seen_at    BIGINT,
    version         TEXT,
    order_key_seen  TEXT,
    order_seq_seen  BIGINT,
    clock_offset_ms BIGINT,
    outbox_depth    BIGINT,
    log_size        BIGINT,
    posture         TEXT,
    inventory       TEXT,
    next_order_seq  BIGINT NOT NULL,
    PRIMARY KEY (site_id, id)
);

CREATE TABLE certificate (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    serial       TEXT NOT NULL UNIQUE,
    not_before   BIGINT NOT NULL,
    not_after    BIGINT NOT NULL,
    issued_at    BIGINT NOT NULL,
    revoked_at   BIGINT,
    PRIMARY KEY (site_id, serial),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
);
CREATE INDEX certificate_revoked ON certificate (revoked_at) WHERE revoked_at IS NOT NULL;

CREATE TABLE request (
    id          TEXT PRIMARY KEY,
    verb        TEXT NOT NULL,
    target      TEXT NOT NULL,
    reason      TEXT NOT NULL,
    asked_by    TEXT NOT NULL,
    asked_at    BIGINT NOT NULL,
    life_s      BIGINT NOT NULL,
    state       TEXT NOT NULL CHECK (state IN ('waiting', 'issued', 'rejected')),
    decided_by  TEXT,
    decided_at  BIGINT
);

CREATE TABLE appliance_order (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    seq          BIGINT NOT NULL,
    id           TEXT NOT NULL UNIQUE,
    request_id   TEXT NOT NULL REFERENCES request (id),
    envelope     BYTEA NOT NULL,
    expires_at   BIGINT NOT NULL,
    state        TEXT NOT NULL,
    queued_at    BIGINT NOT NULL,
    changed_at   BIGINT NOT NULL,
    say          TEXT NOT NULL,
    report       BYTEA,
    PRIMARY KEY (site_id, appliance_id, seq),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
);
CREATE INDEX order_open ON appliance_order (site_id, appliance_id, seq) WHERE state IN ('queued', 'delivered');
CREATE INDEX order_by_request ON appliance_order (request_id);

CREATE TABLE log (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    size         BIGINT NOT NULL,
    root         BYTEA NOT NULL,
    prev         BYTEA NOT NULL,
    note         BYTEA NOT NULL,
    advanced_at  BIGINT NOT NULL,
    PRIMARY KEY (site_id, appliance_id),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
);

CREATE TABLE entry (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    seq          BIGINT NOT NULL,
    line         BYTEA NOT NULL,
    leaf         BYTEA NOT NULL,
    kind         TEXT NOT NULL,
    outcome      TEXT,
    runbook      TEXT,
    claimed_at   BIGINT NOT NULL,
    received_at  BIGINT NOT NULL,
    PRIMARY KEY (site_id, appliance_id, seq)
);

CREATE TABLE node (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    level        BIGINT NOT NULL,
    idx          BIGINT NOT NULL,
    hash         BYTEA NOT NULL,
    PRIMARY KEY (site_id, appliance_id, level, idx)
);

CREATE TABLE segment (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    first        BIGINT NOT NULL,
    last         BIGINT NOT NULL,
    key          TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    version      TEXT NOT NULL,
    keep_until   BIGINT NOT NULL,
    written_at   BIGINT NOT NULL,
    PRIMARY KEY (site_id, appliance_id, first)
);

CREATE TABLE quarantine (
    id           BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    at           BIGINT NOT NULL,
    reason       TEXT NOT NULL,
    sha256       TEXT NOT NULL,
    body         BYTEA NOT NULL
);
CREATE UNIQUE INDEX quarantine_once ON quarantine (site_id, appliance_id, sha256, reason);

CREATE TABLE person (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    sites      TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    ended_at   BIGINT
);

CREATE TABLE api_token (
    hash       BYTEA PRIMARY KEY,
    id         TEXT NOT NULL UNIQUE,
    person_id  TEXT NOT NULL REFERENCES person (id),
    name       TEXT NOT NULL,
    role       TEXT NOT NULL,
    sites      TEXT NOT NULL,
    created_by TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    used_at    BIGINT,
    revoked_at BIGINT
);

CREATE TABLE audit (
    id      BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id TEXT NOT NULL,
    at      BIGINT NOT NULL,
    actor   TEXT NOT NULL,
    act     TEXT NOT NULL,
    object  TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail  TEXT NOT NULL
);
CREATE INDEX audit_by_site ON audit (site_id, id);

CREATE FUNCTION never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%: never changes and never goes away', TG_TABLE_NAME;
END $$;
CREATE TRIGGER entry_never BEFORE UPDATE OR DELETE ON entry FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER entry_never_all BEFORE TRUNCATE ON entry FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER node_never BEFORE UPDATE OR DELETE ON node FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER node_never_all BEFORE TRUNCATE ON node FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER segment_never BEFORE UPDATE OR DELETE ON segment FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER segment_never_all BEFORE TRUNCATE ON segment FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER quarantine_never BEFORE UPDATE OR DELETE ON quarantine FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER quarantine_never_all BEFORE TRUNCATE ON quarantine FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE TRIGGER audit_never BEFORE UPDATE OR DELETE ON audit FOR EACH ROW EXECUTE FUNCTION never();
CREATE TRIGGER audit_never_all BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION never();
CREATE FUNCTION log_grows() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.size <= OLD.size THEN
        RAISE EXCEPTION 'log: a log only grows';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER log_grows BEFORE UPDATE ON log FOR EACH ROW EXECUTE FUNCTION log_grows();
CREATE TRIGGER log_never BEFORE DELETE ON log FOR EACH ROW EXECUTE FUNCTION never();
