-- Places in the sequences of orders stand apart from what appliances say of themselves, which is written all the time.

CREATE TABLE order_seq (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    next         BIGINT NOT NULL,
    PRIMARY KEY (site_id, appliance_id),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
);
INSERT INTO order_seq (site_id, appliance_id, next) SELECT site_id, id, next_order_seq FROM appliance;
ALTER TABLE appliance DROP COLUMN next_order_seq;

-- A reference locks the row it points to, and so collides with check-ins, too. What it was called depends on the release.
DO $$
DECLARE
    known TEXT;
BEGIN
    FOR known IN SELECT conname FROM pg_constraint
        WHERE contype = 'f' AND conrelid = 'appliance_order'::regclass AND confrelid = 'appliance'::regclass
    LOOP
        EXECUTE format('ALTER TABLE appliance_order DROP CONSTRAINT %I', known);
    END LOOP;
END $$;
ALTER TABLE appliance_order ADD FOREIGN KEY (site_id, appliance_id) REFERENCES order_seq (site_id, appliance_id);
