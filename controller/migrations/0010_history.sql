-- 1: a file of history in the repository has this job, with everything that was told of it.
ALTER TABLE jobs ADD COLUMN stored INTEGER NOT NULL DEFAULT 0;
CREATE INDEX jobs_unstored ON jobs (created_at) WHERE ended = 1 AND stored = 0;
