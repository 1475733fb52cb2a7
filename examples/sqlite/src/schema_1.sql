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

-- Texts that a layer keeps apart from the states.
CREATE TABLE blobs (
    number     INTEGER PRIMARY KEY,
    key        TEXT NOT NULL,
    touched_at INTEGER NOT NULL,    -- microseconds since 1970
    bytes      BLOB NOT NULL
) STRICT;

CREATE UNIQUE INDEX blobs_by_key ON blobs (key);
