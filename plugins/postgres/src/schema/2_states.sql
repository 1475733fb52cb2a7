-- What the merge needs beside what is shown: a change of the catalog only, no row is touched.
ALTER TABLE {evaluations} ADD COLUMN IF NOT EXISTS language text;
ALTER TABLE {evaluations} ADD COLUMN IF NOT EXISTS state bytea;
ALTER TABLE {events} ADD COLUMN IF NOT EXISTS event_id text;

-- Bodies that are kept and not shown, say the output of an outcome that another one came before.
CREATE TABLE IF NOT EXISTS {bodies} (
    evaluation_id varchar(64) COLLATE "C" NOT NULL REFERENCES {evaluations} (id) ON DELETE CASCADE,
    name text COLLATE "C" NOT NULL,
    body text NOT NULL,
    PRIMARY KEY (evaluation_id, name)
);
