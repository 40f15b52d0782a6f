-- What passed between this appliance and its server: orders that were used, and heads the server cosigned.

CREATE TABLE used_order (
    seq         INTEGER PRIMARY KEY,
    id          TEXT NOT NULL,
    nonce       TEXT NOT NULL UNIQUE,
    envelope    BLOB NOT NULL,
    received_at TEXT NOT NULL,
    state       TEXT NOT NULL,
    say         TEXT NOT NULL,
    told        INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TRIGGER used_order_no_delete BEFORE DELETE ON used_order BEGIN SELECT RAISE(ABORT, 'a used order stays used'); END;

CREATE TABLE cosigned (
    size        INTEGER PRIMARY KEY,
    note        BLOB NOT NULL,
    received_at TEXT NOT NULL
) STRICT;
CREATE TRIGGER cosigned_no_update BEFORE UPDATE ON cosigned BEGIN SELECT RAISE(ABORT, 'a receipt never changes'); END;
CREATE TRIGGER cosigned_no_delete BEFORE DELETE ON cosigned BEGIN SELECT RAISE(ABORT, 'a receipt never goes away'); END;
