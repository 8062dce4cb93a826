-- Workloads that the controller has stopped for a restore, one row for each restore pod that is in use.

CREATE TABLE restore_pods (
    namespace  TEXT    NOT NULL,
    deployment TEXT    NOT NULL,
    job        TEXT    NOT NULL,
    part       INTEGER NOT NULL,
    hold       TEXT    NOT NULL,  -- JSON: what ran, and how far it is
    PRIMARY KEY (namespace, deployment)
) STRICT, WITHOUT ROWID;
