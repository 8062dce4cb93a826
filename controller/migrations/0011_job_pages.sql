-- Pages of the list of jobs go by age, and by id where two were ordered at once.
DROP INDEX jobs_by_age;
CREATE INDEX jobs_by_age ON jobs (created_at DESC, id DESC);
