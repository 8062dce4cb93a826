-- How far validators have signed, as backups have seen it: the highest of each source.

CREATE TABLE signed_heights (
    component TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    height    INTEGER NOT NULL,
    round     INTEGER NOT NULL,
    step      INTEGER NOT NULL,
    PRIMARY KEY (component, name)
) STRICT, WITHOUT ROWID;
