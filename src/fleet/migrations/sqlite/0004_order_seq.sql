-- Places in the sequences of orders stand apart from what appliances say of themselves, which is written all the time.

CREATE TABLE order_seq (
    site_id      TEXT NOT NULL,
    appliance_id TEXT NOT NULL,
    next         INTEGER NOT NULL,
    PRIMARY KEY (site_id, appliance_id),
    FOREIGN KEY (site_id, appliance_id) REFERENCES appliance (site_id, id)
) STRICT;
INSERT INTO order_seq (site_id, appliance_id, next) SELECT site_id, id, next_order_seq FROM appliance;
ALTER TABLE appliance DROP COLUMN next_order_seq;
