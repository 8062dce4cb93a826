-- How people and automation are known on the TLS port. A token that is not in here is refused, so a catalog
-- that was lost brings no revoked token back.

CREATE TABLE api_tokens (
    id           TEXT    PRIMARY KEY,
    name         TEXT    NOT NULL,
    role         TEXT    NOT NULL,     -- viewer, operator, admin
    hash         BLOB    NOT NULL,     -- SHA-256 of the secret, which has 256 random bits and is not kept
    created_at   INTEGER NOT NULL,
    ends_at      INTEGER NOT NULL,
    revoked_at   INTEGER,
    last_used_at INTEGER,              -- to the minute
    created_by   TEXT    NOT NULL
) STRICT;

-- Where the audit log ends, so that lines cannot be taken off its end.
CREATE TABLE audit_head (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    sequence INTEGER NOT NULL,
    hash     BLOB    NOT NULL,         -- SHA-256 of the newest line
    mac      BLOB    NOT NULL          -- proves that the controller wrote this row
) STRICT;
