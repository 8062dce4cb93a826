-- Which agent serves a source: the first that said so. Another agent's claim is kept apart, for people to see.

CREATE TABLE source_owners (
    component TEXT NOT NULL,
    name      TEXT NOT NULL,
    agent     TEXT NOT NULL,            -- agents (id)
    PRIMARY KEY (component, name)
) STRICT, WITHOUT ROWID;

INSERT INTO source_owners (component, name, agent)
    SELECT component, name, min(agent) FROM sources GROUP BY component, name;

CREATE TABLE refused_sources (
    agent     TEXT NOT NULL REFERENCES agents (id) ON DELETE CASCADE,
    component TEXT NOT NULL,
    name      TEXT NOT NULL,
    owner     TEXT NOT NULL,            -- the owner's name, for people
    PRIMARY KEY (agent, component, name)
) STRICT, WITHOUT ROWID;

-- 1: the operator chose the agent's name with its token; 0: the agent chose it.
ALTER TABLE agents ADD COLUMN invited INTEGER NOT NULL DEFAULT 0;
