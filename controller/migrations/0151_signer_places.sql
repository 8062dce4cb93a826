-- In which sources each validator's key was seen, all of them: what was seen in one of them without a key may be its own.

CREATE TABLE signer_places (
    id        TEXT NOT NULL,  -- as in `signers`
    component TEXT NOT NULL,
    name      TEXT NOT NULL,
    PRIMARY KEY (id, component, name)
) STRICT, WITHOUT ROWID;

INSERT INTO signer_places (id, component, name)
    SELECT id, component, name FROM signers WHERE component <> '' AND id <> component || '/' || name;
