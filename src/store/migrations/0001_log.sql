-- The evidence log of one appliance: append-only, dense, guarded by triggers against every later change.

CREATE TABLE entry (
  seq  INTEGER PRIMARY KEY,
  line BLOB NOT NULL,
  leaf BLOB NOT NULL CHECK (length(leaf) = 32)
) STRICT;

-- Complete subtrees above the leaves; level 0 is entry.leaf.
CREATE TABLE node (
  level INTEGER NOT NULL CHECK (level BETWEEN 1 AND 63),
  idx   INTEGER NOT NULL CHECK (idx >= 0),
  hash  BLOB NOT NULL CHECK (length(hash) = 32),
  PRIMARY KEY (level, idx)
) STRICT, WITHOUT ROWID;

-- Signed checkpoints, by the number of entries they cover.
CREATE TABLE head (
  size INTEGER PRIMARY KEY,
  note BLOB NOT NULL
) STRICT;

CREATE TABLE outbox (
  seq       INTEGER PRIMARY KEY REFERENCES entry (seq),
  queued_at TEXT NOT NULL,
  sent_at   TEXT
) STRICT;

-- The insert triggers also stop INSERT OR REPLACE, which deletes without asking the delete triggers.
CREATE TRIGGER entry_dense BEFORE INSERT ON entry
WHEN NEW.seq IS NOT (SELECT coalesce(max(seq) + 1, 0) FROM entry)
BEGIN SELECT RAISE(ABORT, 'entry: the next seq is one after the last'); END;
CREATE TRIGGER entry_no_update BEFORE UPDATE ON entry
BEGIN SELECT RAISE(ABORT, 'entry: the log is append-only'); END;
CREATE TRIGGER entry_no_delete BEFORE DELETE ON entry
BEGIN SELECT RAISE(ABORT, 'entry: the log is append-only'); END;

CREATE TRIGGER node_once BEFORE INSERT ON node
WHEN EXISTS (SELECT 1 FROM node WHERE level = NEW.level AND idx = NEW.idx)
BEGIN SELECT RAISE(ABORT, 'node: a complete subtree never changes'); END;
CREATE TRIGGER node_no_update BEFORE UPDATE ON node
BEGIN SELECT RAISE(ABORT, 'node: a complete subtree never changes'); END;
CREATE TRIGGER node_no_delete BEFORE DELETE ON node
BEGIN SELECT RAISE(ABORT, 'node: a complete subtree never changes'); END;

CREATE TRIGGER head_grows BEFORE INSERT ON head
WHEN NEW.size <= (SELECT coalesce(max(size), 0) FROM head)
BEGIN SELECT RAISE(ABORT, 'head: a new head covers more than the last'); END;
CREATE TRIGGER head_no_update BEFORE UPDATE ON head
BEGIN SELECT RAISE(ABORT, 'head: a signed head never changes'); END;
CREATE TRIGGER head_no_delete BEFORE DELETE ON head
BEGIN SELECT RAISE(ABORT, 'head: a signed head never changes'); END;
