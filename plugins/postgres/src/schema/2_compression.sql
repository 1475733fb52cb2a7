-- Holds for what is written from now on. A server without lz4, or one before 14, goes on with its own compression.
ALTER TABLE {evaluations}
    ALTER COLUMN output SET COMPRESSION lz4,
    ALTER COLUMN error SET COMPRESSION lz4,
    ALTER COLUMN metadata SET COMPRESSION lz4,
    ALTER COLUMN state SET COMPRESSION lz4;
ALTER TABLE {bodies} ALTER COLUMN body SET COMPRESSION lz4;
