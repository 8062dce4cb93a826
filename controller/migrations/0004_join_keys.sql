-- Join keys beside one-time tokens; which key belongs to which agent; clones.

-- A public key belongs to one agent for good.
CREATE TABLE agent_keys (
    key   BLOB PRIMARY KEY,   -- SHA-256 of the SubjectPublicKeyInfo
    agent TEXT NOT NULL,      -- agents (id)
    token BLOB                -- hash of the token it joined with; that token may be gone
) STRICT;
CREATE INDEX agent_keys_by_token ON agent_keys (token);

INSERT OR IGNORE INTO agent_keys (key, agent, token)
    SELECT used_key, used_by, hash FROM join_tokens WHERE used_by IS NOT NULL AND used_key IS NOT NULL;

CREATE TABLE invitations (
    hash       BLOB    PRIMARY KEY,  -- SHA-256 of the secret; the secret itself is not kept
    name       TEXT    NOT NULL,     -- of the agent that may use it; empty: any; of a join key: a pattern
    reusable   INTEGER NOT NULL,     -- 0: a one-time token, 1: a join key
    uses       INTEGER NOT NULL,     -- how many agents may join with it
    sources    TEXT    NOT NULL,     -- what they may serve: patterns, a blank between them; empty: anything
    created_at INTEGER NOT NULL,
    ends_at    INTEGER NOT NULL
) STRICT;

INSERT INTO invitations (hash, name, reusable, uses, sources, created_at, ends_at)
    SELECT hash, name, 0, 1, '', created_at, ends_at FROM join_tokens;
DROP TABLE join_tokens;

-- For people; what counts is the agent's certificate.
ALTER TABLE agents ADD COLUMN may_serve TEXT NOT NULL DEFAULT '';
ALTER TABLE agents ADD COLUMN clone_seen_at INTEGER;
ALTER TABLE agents ADD COLUMN clone_host TEXT NOT NULL DEFAULT '';
