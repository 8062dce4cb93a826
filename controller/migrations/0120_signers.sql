-- How far validators have signed, by their key and not by where it was seen: what backups have seen, the highest,
-- and what somebody has stated since, which is a lower height at times.

CREATE TABLE signers (
    id        TEXT    NOT NULL PRIMARY KEY,  -- as manifests name the key; where no key was seen: component/source
    address   TEXT,                          -- of the key, 40 hex digits; none after a rebuild until it is seen again
    component TEXT    NOT NULL,              -- the source in which it was seen last; empty: it was only stated
    name      TEXT    NOT NULL,
    height    INTEGER NOT NULL,
    round     INTEGER NOT NULL,
    step      INTEGER NOT NULL,
    seen_at   INTEGER NOT NULL,
    stated_at INTEGER,                       -- what backups before it have seen counts no more
    stated_by TEXT,
    reason    TEXT
) STRICT, WITHOUT ROWID;

INSERT INTO signers (id, component, name, height, round, step, seen_at)
    SELECT component || '/' || name, component, name, height, round, step, 0 FROM signed_heights;

DROP TABLE signed_heights;
