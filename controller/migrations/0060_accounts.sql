-- Agents that joined by a service account of a Kubernetes cluster: one for each account and name.

ALTER TABLE agents ADD COLUMN account TEXT;  -- namespace/name; NULL: it joined by a token
