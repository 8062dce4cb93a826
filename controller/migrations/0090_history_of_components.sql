-- What became of each component in each backup, so that nobody who tells of years has to read the records of
-- all backups. It is taken from them whenever one is written (catalog/backups.rs).

CREATE TABLE backup_components (
    backup    TEXT    NOT NULL REFERENCES backups (name) ON DELETE CASCADE,
    component TEXT    NOT NULL,
    sequence  INTEGER NOT NULL,   -- of the backup
    outcome   INTEGER NOT NULL,   -- the worst of its sources: 1 complete, 2 incomplete, 3 failed
    bytes     INTEGER NOT NULL,   -- of all its files
    safety    INTEGER NOT NULL,   -- 1: the backup was made before a restore
    PRIMARY KEY (backup, component)
) STRICT, WITHOUT ROWID;
CREATE INDEX backup_components_newest ON backup_components (component, safety, sequence, outcome, backup);

-- One archive after the other: to group them would sort them together with their records, which are large.
INSERT INTO backup_components (backup, component, sequence, outcome, bytes, safety)
    SELECT name, json_extract(archive.value, '$.component'), sequence,
           CASE json_extract(archive.value, '$.outcome') WHEN 'complete' THEN 1 WHEN 'incomplete' THEN 2 ELSE 3 END,
           CAST(coalesce(json_extract(archive.value, '$.counts.bytes'), 0) AS INTEGER),
           coalesce(json_extract(record, '$.pin') GLOB 'safety backup before restore *', 0)
    FROM backups, json_each(record, '$.archives') AS archive
    WHERE true
    ON CONFLICT (backup, component) DO UPDATE SET
        outcome = max(outcome, excluded.outcome),
        bytes = CAST(CAST(bytes AS REAL) + excluded.bytes AS INTEGER);
