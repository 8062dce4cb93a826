-- Schedules, and what became of their planned times. Times are microseconds since 1970 (UTC).

CREATE TABLE schedules (
    name       TEXT    PRIMARY KEY,
    origin     TEXT    NOT NULL,     -- declared: by the configuration; default; set: by somebody
    definition TEXT    NOT NULL,     -- JSON, as in the configuration
    time_zone  TEXT    NOT NULL,
    owed_from  INTEGER NOT NULL,     -- what was planned up to here is not owed
    paused_at  INTEGER               -- NULL: it is not paused
) STRICT, WITHOUT ROWID;

-- One row for each planned time that was decided about, written with the job that it starts.
CREATE TABLE schedule_runs (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,  -- the order of deciding
    schedule      TEXT    NOT NULL,  -- its name; the schedule may be gone
    planned_at    INTEGER,           -- NULL: somebody ran it by hand
    ran_at        INTEGER NOT NULL,  -- when it was decided
    state         TEXT    NOT NULL,  -- started, waiting, skipped, missed, empty
    open          INTEGER NOT NULL,  -- 1: something is still to be done about it
    job           TEXT,              -- jobs (id)
    retention_job TEXT,              -- jobs (id)
    record        TEXT    NOT NULL,  -- JSON: what else is known
    UNIQUE (schedule, planned_at)    -- no planned time runs twice
) STRICT;
CREATE INDEX schedule_runs_open ON schedule_runs (id) WHERE open = 1;
CREATE INDEX schedule_runs_by_age ON schedule_runs (schedule, id);
