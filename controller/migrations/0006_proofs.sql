-- What verifications have proven and when, so that not everything is read each time. Trusted, and no loss
-- where it is lost: then it is read again. Not in the repository, because the storage is what is in doubt.

CREATE TABLE pack_proofs (
    pack      BLOB    PRIMARY KEY,    -- its id
    domain    BLOB    NOT NULL,
    seen_at   INTEGER NOT NULL,       -- when a verification first knew of it
    hashed_at INTEGER,                -- its SHA-256 was its name
    opened_at INTEGER,                -- and every blob in it opened
    bad_at    INTEGER                 -- it was found bad, and nothing else since
) STRICT, WITHOUT ROWID;
CREATE INDEX pack_proofs_of_domain ON pack_proofs (domain);

-- Pages all of whose entries had their contents: by these a run goes on that was interrupted.
CREATE TABLE page_proofs (
    page      BLOB    PRIMARY KEY,    -- the id of its blob
    domain    BLOB    NOT NULL,
    at        INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- When the newest run over everything began, and the one before it.
CREATE TABLE verification_runs (
    depth     TEXT    PRIMARY KEY,
    at        INTEGER NOT NULL,
    before_at INTEGER
) STRICT, WITHOUT ROWID;

-- Bytes of packs that an archive needs: read then, read earlier, not read; and when the oldest was read.
ALTER TABLE verifications ADD COLUMN now_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE verifications ADD COLUMN earlier_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE verifications ADD COLUMN unread_bytes INTEGER NOT NULL DEFAULT 0;
ALTER TABLE verifications ADD COLUMN oldest_at INTEGER;
