-- Whom a request is for, a row each, so that a site's people find theirs; and requests nobody decided in time.

ALTER TABLE request DROP CONSTRAINT request_state_check;
ALTER TABLE request ADD CONSTRAINT request_state_check CHECK (state IN ('waiting', 'issued', 'rejected', 'expired'));
CREATE INDEX request_by_time ON request (asked_at, id);

CREATE TABLE request_target (
    request_id   TEXT NOT NULL REFERENCES request (id),
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    PRIMARY KEY (request_id, site_id, appliance_id)
);
INSERT INTO request_target (request_id, site_id, appliance_id)
    SELECT r.id, split_part(t.one, '/', 1), split_part(t.one, '/', 2)
    FROM request r, unnest(string_to_array(r.target, ',')) AS t (one) WHERE t.one <> '';
CREATE INDEX request_target_by_site ON request_target (site_id, request_id);

ALTER TABLE request DROP COLUMN target;
