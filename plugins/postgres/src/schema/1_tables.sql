-- The tables and columns that readers of evaluations have always had, by the same names and types. Where they are there
-- already nothing happens. Ids are compared byte by byte, which is also the order that lists promise.
CREATE TABLE IF NOT EXISTS {evaluations} (
    id varchar(64) COLLATE "C" PRIMARY KEY,
    code_hash varchar(64) NOT NULL,
    status varchar(20) NOT NULL,
    created_at timestamptz DEFAULT now(),
    queued_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    engine varchar(50),
    worker_id varchar(100),
    runtime_ms integer,
    memory_used_mb integer,
    exit_code integer,
    code_location varchar(255),
    output_location varchar(255),
    error_location varchar(255),
    output text,
    error text,
    output_size bigint,
    error_size bigint,
    metadata json,
    output_truncated boolean,
    error_truncated boolean
);

CREATE TABLE IF NOT EXISTS {events} (
    id bigserial PRIMARY KEY,
    evaluation_id varchar(64) COLLATE "C" NOT NULL REFERENCES {evaluations} (id) ON DELETE CASCADE,
    timestamp timestamptz DEFAULT now(),
    event_type varchar(50) NOT NULL,
    message text,
    metadata jsonb
);

CREATE TABLE IF NOT EXISTS {metrics} (
    id bigserial PRIMARY KEY,
    evaluation_id varchar(64) COLLATE "C" NOT NULL REFERENCES {evaluations} (id) ON DELETE CASCADE,
    metric_name varchar(100) NOT NULL,
    metric_value double precision NOT NULL,
    timestamp timestamptz DEFAULT now(),
    unit varchar(50)
);
