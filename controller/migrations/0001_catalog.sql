-- What the controller knows. Times are microseconds since 1970 (UTC). Backups, archives and what agents
-- serve can be lost: they are read again from the repository and told again by the agents.

CREATE TABLE agents (
    id                  TEXT    PRIMARY KEY,
    name                TEXT    NOT NULL,
    host                TEXT    NOT NULL DEFAULT '',
    version             TEXT    NOT NULL DEFAULT '',
    joined_at           INTEGER NOT NULL,
    last_seen_at        INTEGER,
    certificate_ends_at INTEGER NOT NULL,
    revoked_at          INTEGER
) STRICT;

CREATE TABLE join_tokens (
    hash       BLOB    PRIMARY KEY,  -- SHA-256 of the secret; the secret itself is not kept
    name       TEXT    NOT NULL,     -- of the agent that may use it; empty: any
    created_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL,
    used_by    TEXT    REFERENCES agents (id),
    used_key   BLOB                  -- SHA-256 of the public key that joined with it
) STRICT;

CREATE TABLE sources (
    agent     TEXT    NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    component TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    kind      TEXT    NOT NULL,
    location  TEXT    NOT NULL,
    PRIMARY KEY (agent, component, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE backups (
    name     TEXT    PRIMARY KEY,
    sequence INTEGER NOT NULL UNIQUE,
    record   TEXT    NOT NULL         -- JSON: the backup as the repository's backup.json tells it
) STRICT;

CREATE TABLE verifications (
    backup    TEXT    NOT NULL REFERENCES backups (name) ON DELETE CASCADE,
    component TEXT    NOT NULL,
    source    TEXT    NOT NULL,
    depth     TEXT    NOT NULL,
    at        INTEGER NOT NULL,
    intact    INTEGER NOT NULL,
    findings  TEXT    NOT NULL,       -- JSON: a list of lines
    PRIMARY KEY (backup, component, source, depth)
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    id         TEXT    PRIMARY KEY,
    request_id TEXT    UNIQUE,        -- of the call that started it
    ended      INTEGER NOT NULL,      -- 0 or 1
    created_at INTEGER NOT NULL,
    record     TEXT    NOT NULL       -- JSON: the whole job
) STRICT;
CREATE INDEX jobs_by_age ON jobs (created_at DESC);
CREATE INDEX jobs_alive ON jobs (created_at) WHERE ended = 0;

CREATE TABLE job_events (
    job      TEXT    NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    at       INTEGER NOT NULL,
    level    TEXT    NOT NULL,
    line     TEXT    NOT NULL,
    PRIMARY KEY (job, sequence)
) STRICT, WITHOUT ROWID;
