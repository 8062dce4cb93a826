-- What was to be told, to whom, and what became of it. An event is written with the fact that it tells, in
-- one transaction; everything after it may be repeated.

CREATE TABLE alert_events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT,
    id       TEXT    NOT NULL UNIQUE,
    at       INTEGER NOT NULL,
    record   TEXT    NOT NULL,              -- JSON: the event
    routed   INTEGER NOT NULL DEFAULT 0     -- 0: its routes were not looked at
) STRICT;
CREATE INDEX alert_events_unrouted ON alert_events (sequence) WHERE routed = 0;

-- What is wrong now: raised and not recovered.
CREATE TABLE alert_open (
    kind    TEXT    NOT NULL,
    subject TEXT    NOT NULL,
    since   INTEGER NOT NULL,
    told_at INTEGER NOT NULL,
    record  TEXT    NOT NULL,               -- JSON: the newest event
    PRIMARY KEY (kind, subject)
) STRICT, WITHOUT ROWID;

-- Events that are to go to a sink and are in no message yet.
CREATE TABLE alert_pending (
    sink  TEXT    NOT NULL,
    event INTEGER NOT NULL,                 -- alert_events (sequence)
    PRIMARY KEY (sink, event)
) STRICT, WITHOUT ROWID;

-- Messages. The id is theirs for good: a receiver that gets one twice can tell.
CREATE TABLE alert_outbox (
    id       TEXT    PRIMARY KEY,
    sink     TEXT    NOT NULL,
    made_at  INTEGER NOT NULL,
    state    TEXT    NOT NULL,              -- waiting, delivered, dead
    attempts INTEGER NOT NULL DEFAULT 0,
    next_at  INTEGER NOT NULL,
    ended_at INTEGER,
    error    TEXT,                          -- of the last attempt, without secrets
    record   TEXT    NOT NULL               -- JSON: the message
) STRICT, WITHOUT ROWID;
CREATE INDEX alert_outbox_waiting ON alert_outbox (sink, next_at) WHERE state = 'waiting';
CREATE INDEX alert_outbox_by_age ON alert_outbox (made_at DESC);
