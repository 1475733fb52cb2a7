-- One row for each evaluation. The columns are views of the state, for lists; the state is everything.
-- The state is last, so that what only looks at the columns does not read it.
CREATE TABLE evaluations (
    number     INTEGER PRIMARY KEY,
    id         TEXT NOT NULL,
    status     TEXT NOT NULL,       -- a name, or 'unknown'
    language   TEXT,
    created_at INTEGER NOT NULL,    -- microseconds since 1970
    ended_at   INTEGER,             -- microseconds since 1970, of terminal ones
    state      TEXT NOT NULL        -- the stored form, JSON
) STRICT;

CREATE UNIQUE INDEX evaluations_by_id ON evaluations (id);
CREATE INDEX evaluations_by_created ON evaluations (created_at, id);
CREATE INDEX evaluations_by_status ON evaluations (status, created_at, id);
CREATE INDEX evaluations_by_language ON evaluations (language, created_at, id) WHERE language IS NOT NULL;
CREATE INDEX evaluations_by_end ON evaluations (ended_at) WHERE ended_at IS NOT NULL;

-- How many evaluations there are of each status. By triggers, so that it also holds for what people change by hand.
CREATE TABLE totals (
    status      TEXT NOT NULL PRIMARY KEY,
    evaluations INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER evaluation_added AFTER INSERT ON evaluations BEGIN
    INSERT INTO totals VALUES (new.status, 1) ON CONFLICT DO UPDATE SET evaluations = evaluations + 1;
END;

CREATE TRIGGER evaluation_moved AFTER UPDATE OF status ON evaluations WHEN new.status <> old.status BEGIN
    UPDATE totals SET evaluations = evaluations - 1 WHERE status = old.status;
    INSERT INTO totals VALUES (new.status, 1) ON CONFLICT DO UPDATE SET evaluations = evaluations + 1;
END;

CREATE TRIGGER evaluation_removed AFTER DELETE ON evaluations BEGIN
    UPDATE totals SET evaluations = evaluations - 1 WHERE status = old.status;
END;

-- Texts that a layer keeps apart from the states.
CREATE TABLE blobs (
    number     INTEGER PRIMARY KEY,
    key        TEXT NOT NULL,
    touched_at INTEGER NOT NULL,    -- microseconds since 1970
    bytes      BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX blobs_by_key ON blobs (key);
