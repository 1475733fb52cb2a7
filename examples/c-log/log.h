/*
 * The log: a file to which writes are only appended, and the index of what it has. Not for several threads at once.
 *
 * The file is a row of frames, one for each call that wrote; all numbers are little-endian:
 *
 *     frame   "CLG1", CRC-32 of all that follows (4 bytes), length of the records (8), last version given (8), records
 *     record  1 for a document or 2 for its removal (1), 0 (1), length of the id (2), length of the bytes (4),
 *             version (8), id, bytes
 *
 * A frame counts as a whole or not at all. What is left of the last one after a crash is cut off when the log is opened:
 * it was never answered.
 */
#ifndef CLOG_LOG_H
#define CLOG_LOG_H

#include "index.h"

#define LOG_MESSAGE 512

typedef struct log_file {
    int directory; /* The open directory in which it lies; not closed with it. */
    int file;
    int read_only;
    int broken; /* What is on the disk is not known any more: nothing is written until it is opened again. */
    uint64_t size;
    uint64_t live;         /* How many bytes of it are records that the index leads to. */
    uint64_t cut;          /* How many bytes were cut off when it was opened. */
    uint64_t last_version; /* The last one given; each is given once. */
    uint64_t compact_at;   /* From this size on it is written anew when more than half of it is garbage. */
    uint64_t compact_min;
    index_list index;
} log_file;

/* Records that are to be written as one frame. */
typedef struct log_batch {
    unsigned char *bytes;
    size_t length;
    size_t capacity;
} log_batch;

/* What a function says when it fails; `message` then has the reason. */
typedef enum log_result {
    LOG_OK,
    LOG_FAILED,  /* The system did not do it. */
    LOG_MISSING, /* There is no log, and it shall not be made. */
    LOG_DAMAGED  /* There is a log that cannot be read. */
} log_result;

log_result log_open(log_file *log, int directory, int read_only, uint64_t compact_min, char message[LOG_MESSAGE]);
void log_close(log_file *log);

/* Begins a batch. */
void batch_init(log_batch *batch);
void batch_free(log_batch *batch);
/* Adds a record; `bytes` is NULL for a removal. LOG_FAILED if there is no memory. */
log_result batch_add(log_batch *batch, const char *id, size_t id_length, uint64_t version, const void *bytes,
                     uint32_t length);
/* True if the batch has a record of that id. */
int batch_has(const log_batch *batch, const char *id, size_t id_length);

/* Writes and syncs a batch, and brings the index up to date. Nothing is changed if it fails. */
log_result log_write(log_file *log, log_batch *batch, uint64_t last_version, char message[LOG_MESSAGE]);
/* Reads the bytes of a document into memory that is freed by the caller. */
log_result log_read(const log_file *log, const index_node *node, void **bytes, char message[LOG_MESSAGE]);
/* True if it is time to write the log anew. */
int log_is_wasteful(const log_file *log);
/* Writes the log anew, without garbage. If that fails, the old one is still there, and used. */
log_result log_compact(log_file *log, char message[LOG_MESSAGE]);

#endif
