#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_NAME "log"
#define LOG_WRITING "log.new"

enum { FRAME_HEAD = 24, RECORD_HEAD = 16, RECORD_DOCUMENT = 1, RECORD_REMOVAL = 2, CHUNK = 1 << 20 };

static const unsigned char MAGIC[4] = {'C', 'L', 'G', '1'};

/* A record, as read. */
typedef struct record {
    unsigned kind;
    const char *id;
    size_t id_length;
    uint32_t length;
    uint64_t version;
    size_t offset; /* Of its bytes, from the start of the records. */
} record;

static log_result failed(log_result result, char message[LOG_MESSAGE], const char *what) {
    (void)snprintf(message, LOG_MESSAGE, "cannot %s the log: %s", what, strerror(errno));
    return result;
}

static void put_number(unsigned char *to, uint64_t number, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) to[i] = (unsigned char)(number >> (8 * i));
}

static uint64_t get_number(const unsigned char *from, size_t bytes) {
    uint64_t number = 0;
    for (size_t i = 0; i < bytes; i++) number |= (uint64_t)from[i] << (8 * i);
    return number;
}

/* CRC-32 (IEEE 802.3), continued from `crc`; 0 to begin. */
static uint32_t crc32(uint32_t crc, const unsigned char *bytes, size_t length) {
    crc = ~crc;
    for (size_t i = 0; i < length; i++) {
        static const uint32_t table[16] = {
            0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
            0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
        };
        crc = (crc >> 4) ^ table[(crc ^ bytes[i]) & 15];
        crc = (crc >> 4) ^ table[(crc ^ ((uint32_t)bytes[i] >> 4)) & 15];
    }
    return ~crc;
}

static int write_all(int file, const unsigned char *bytes, size_t length, uint64_t offset) {
    while (length > 0) {
        ssize_t written = pwrite(file, bytes, length, (off_t)offset);
        if (written < 0 && errno == EINTR) continue;
        if (written <= 0) return -1;
        bytes += written;
        length -= (size_t)written;
        offset += (uint64_t)written;
    }
    return 0;
}

/* Gives how many bytes were read, fewer only at the end of the file; -1 if it failed. */
static ssize_t read_all(int file, unsigned char *bytes, size_t length, uint64_t offset) {
    size_t total = 0;
    while (total < length) {
        ssize_t got = pread(file, bytes + total, length - total, (off_t)(offset + total));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return -1;
        if (got == 0) break;
        total += (size_t)got;
    }
    return (ssize_t)total;
}

/* fdatasync is not everywhere, and on macOS fsync does not reach the disk. */
static int sync_file(int file) {
#if defined(__APPLE__)
    return fcntl(file, F_FULLFSYNC);
#else
    return fsync(file);
#endif
}

/* --- Batches --- */

void batch_init(log_batch *batch) {
    memset(batch, 0, sizeof *batch);
}

void batch_free(log_batch *batch) {
    free(batch->bytes);
    batch_init(batch);
}

static int batch_reserve(log_batch *batch, size_t more) {
    if (batch->length == 0) more += FRAME_HEAD;
    if (more > batch->capacity - batch->length) {
        size_t capacity = (batch->length + more) * 2;
        unsigned char *bytes = realloc(batch->bytes, capacity);
        if (bytes == NULL) return -1;
        batch->bytes = bytes;
        batch->capacity = capacity;
    }
    if (batch->length == 0) batch->length = FRAME_HEAD;
    return 0;
}

log_result batch_add(log_batch *batch, const char *id, size_t id_length, uint64_t version, const void *bytes,
                     uint32_t length) {
    if (batch_reserve(batch, RECORD_HEAD + id_length + length) != 0) return LOG_FAILED;
    unsigned char *to = batch->bytes + batch->length;
    to[0] = bytes != NULL ? RECORD_DOCUMENT : RECORD_REMOVAL;
    to[1] = 0;
    put_number(to + 2, id_length, 2);
    put_number(to + 4, length, 4);
    put_number(to + 8, version, 8);
    memcpy(to + RECORD_HEAD, id, id_length);
    if (length > 0) memcpy(to + RECORD_HEAD + id_length, bytes, length);
    batch->length += RECORD_HEAD + id_length + length;
    return LOG_OK;
}

/* Reads the record at `*at`, and moves it behind. Gives 0 at the end, -1 if there is no whole record. */
static int next_record(const unsigned char *records, size_t length, size_t *at, record *found) {
    if (*at == length) return 0;
    if (length - *at < RECORD_HEAD) return -1;
    const unsigned char *from = records + *at;
    found->kind = from[0];
    found->id_length = (size_t)get_number(from + 2, 2);
    found->length = (uint32_t)get_number(from + 4, 4);
    found->version = get_number(from + 8, 8);
    found->id = (const char *)from + RECORD_HEAD;
    found->offset = *at + RECORD_HEAD + found->id_length;
    uint64_t end = (uint64_t)*at + RECORD_HEAD + found->id_length + found->length;
    if (end > length || (found->kind != RECORD_DOCUMENT && found->kind != RECORD_REMOVAL)) return -1;
    *at = (size_t)end;
    return 1;
}

int batch_has(const log_batch *batch, const char *id, size_t id_length) {
    if (batch->length == 0) return 0;
    record found;
    size_t at = 0;
    while (next_record(batch->bytes + FRAME_HEAD, batch->length - FRAME_HEAD, &at, &found) > 0) {
        if (found.id_length == id_length && memcmp(found.id, id, id_length) == 0) return 1;
    }
    return 0;
}

static void batch_finish(log_batch *batch, uint64_t last_version) {
    memcpy(batch->bytes, MAGIC, sizeof MAGIC);
    put_number(batch->bytes + 8, batch->length - FRAME_HEAD, 8);
    put_number(batch->bytes + 16, last_version, 8);
    put_number(batch->bytes + 4, crc32(0, batch->bytes + 8, batch->length - 8), 4);
}

/* --- Opening --- */

static uint64_t record_size(const index_node *node) {
    return RECORD_HEAD + node->id_length + node->length;
}

/* Brings the index up to date with the records of a frame, which begin at `offset` in the file. */
static int apply(log_file *log, const unsigned char *records, size_t length, uint64_t offset) {
    record found;
    size_t at = 0;
    int more;
    while ((more = next_record(records, length, &at, &found)) > 0) {
        index_node *node = index_find(&log->index, found.id, found.id_length);
        if (node != NULL) log->live -= record_size(node);
        if (found.kind == RECORD_REMOVAL) {
            index_remove(&log->index, found.id, found.id_length);
            continue;
        }
        node = index_insert(&log->index, found.id, found.id_length);
        if (node == NULL) {
            errno = ENOMEM;
            return -1;
        }
        node->version = found.version;
        node->offset = offset + found.offset;
        node->length = found.length;
        log->live += record_size(node);
    }
    return more;
}

/* Reads the frame at `offset`; its records are then in `*records`, to be freed. Gives 1 if there is a whole one, 0 if
 * not, -1 if the system failed. */
static int read_frame(int file, uint64_t offset, uint64_t size, unsigned char **records, uint64_t *length,
                      uint64_t *last_version) {
    unsigned char head[FRAME_HEAD];
    *records = NULL;
    if (size - offset < FRAME_HEAD) return 0;
    if (read_all(file, head, FRAME_HEAD, offset) != FRAME_HEAD) return -1;
    *length = get_number(head + 8, 8);
    *last_version = get_number(head + 16, 8);
    if (memcmp(head, MAGIC, sizeof MAGIC) != 0 || *length > size - offset - FRAME_HEAD) return 0;
    unsigned char *bytes = malloc((size_t)*length + 1);
    if (bytes == NULL) return -1;
    if (read_all(file, bytes, (size_t)*length, offset + FRAME_HEAD) != (ssize_t)*length) {
        free(bytes);
        return -1;
    }
    if (crc32(crc32(0, head + 8, FRAME_HEAD - 8), bytes, (size_t)*length) != get_number(head + 4, 4)) {
        free(bytes);
        return 0;
    }
    *records = bytes;
    return 1;
}

/* Looks for a whole frame from `offset` on; gives 1 and where it is, 0 if there is none, -1 if the system failed. */
static int find_frame(int file, uint64_t offset, uint64_t size, uint64_t *found) {
    unsigned char *chunk = malloc(CHUNK);
    int result = chunk == NULL ? -1 : 0;
    while (result == 0 && size - offset >= FRAME_HEAD) {
        ssize_t length = read_all(file, chunk, CHUNK, offset);
        if (length < FRAME_HEAD) {
            result = length < 0 ? -1 : 0;
            break;
        }
        size_t last = (size_t)length - FRAME_HEAD;
        for (size_t at = 0; result == 0 && at <= last; at++) {
            unsigned char *records;
            uint64_t records_length, last_version;
            if (memcmp(chunk + at, MAGIC, sizeof MAGIC) != 0) continue;
            result = read_frame(file, offset + at, size, &records, &records_length, &last_version);
            free(records);
            *found = offset + at;
        }
        offset += last + 1;
    }
    free(chunk);
    return result;
}

/* Reads the whole log. What is behind its last whole frame is the rest of a write that a crash interrupted. */
static log_result replay(log_file *log, uint64_t size, char message[LOG_MESSAGE]) {
    while (log->size < size) {
        unsigned char *records;
        uint64_t length, last_version, other;
        int whole = read_frame(log->file, log->size, size, &records, &length, &last_version);
        if (whole < 0) return failed(LOG_FAILED, message, "read");
        if (whole == 0) {
            int damaged = find_frame(log->file, log->size + 1, size, &other);
            if (damaged < 0) return failed(LOG_FAILED, message, "read");
            if (damaged == 0) break;
            (void)snprintf(message, LOG_MESSAGE,
                           "the log is damaged at byte %llu, and whole again at byte %llu; restore it from a backup",
                           (unsigned long long)log->size, (unsigned long long)other);
            return LOG_DAMAGED;
        }
        int applied = apply(log, records, (size_t)length, log->size + FRAME_HEAD);
        free(records);
        if (applied < 0) {
            (void)snprintf(message, LOG_MESSAGE, "the log has a frame at byte %llu that this plugin cannot read",
                           (unsigned long long)log->size);
            return LOG_DAMAGED;
        }
        log->last_version = last_version > log->last_version ? last_version : log->last_version;
        log->size += FRAME_HEAD + length;
    }
    log->cut = size - log->size;
    if (log->cut > 0 && !log->read_only && (ftruncate(log->file, (off_t)log->size) != 0 || sync_file(log->file) != 0)) {
        return failed(LOG_FAILED, message, "cut");
    }
    return LOG_OK;
}

log_result log_open(log_file *log, int directory, int read_only, uint64_t compact_min, char message[LOG_MESSAGE]) {
    memset(log, 0, sizeof *log);
    index_init(&log->index);
    log->directory = directory;
    log->read_only = read_only;
    log->compact_min = log->compact_at = compact_min;
    log->file = openat(directory, LOG_NAME, O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR | O_CREAT), 0600);
    if (log->file < 0) return failed(errno == ENOENT ? LOG_MISSING : LOG_FAILED, message, "open");
    struct stat status;
    log_result result = LOG_OK;
    if (fstat(log->file, &status) != 0) {
        result = failed(LOG_FAILED, message, "open");
    } else if (!read_only && ((unlinkat(directory, LOG_WRITING, 0) != 0 && errno != ENOENT) || fsync(directory) != 0)) {
        result = failed(LOG_FAILED, message, "make");
    } else {
        result = replay(log, (uint64_t)status.st_size, message);
    }
    if (result != LOG_OK) log_close(log);
    return result;
}

void log_close(log_file *log) {
    if (log->file >= 0) (void)close(log->file);
    log->file = -1;
    index_free(&log->index);
}

/* --- Reading and writing --- */

log_result log_read(const log_file *log, const index_node *node, void **bytes, char message[LOG_MESSAGE]) {
    *bytes = malloc((size_t)node->length + 1);
    if (*bytes == NULL) return failed(LOG_FAILED, message, "read");
    ssize_t length = read_all(log->file, *bytes, node->length, node->offset);
    if (length == (ssize_t)node->length) return LOG_OK;
    free(*bytes);
    *bytes = NULL;
    if (length >= 0) errno = EIO;
    return failed(LOG_FAILED, message, "read");
}

log_result log_write(log_file *log, log_batch *batch, uint64_t last_version, char message[LOG_MESSAGE]) {
    if (batch->length == 0) return LOG_OK;
    if (log->broken) {
        (void)snprintf(message, LOG_MESSAGE, "an earlier write failed half-way; start the worker again");
        return LOG_FAILED;
    }
    batch_finish(batch, last_version);
    if (write_all(log->file, batch->bytes, batch->length, log->size) != 0) {
        log_result result = failed(LOG_FAILED, message, "write to");
        log->broken = ftruncate(log->file, (off_t)log->size) != 0;
        return result;
    }
    /* After a sync that failed nobody knows what is on the disk, and another one would not tell. */
    if (sync_file(log->file) != 0) {
        log->broken = 1;
        return failed(LOG_FAILED, message, "sync");
    }
    if (apply(log, batch->bytes + FRAME_HEAD, batch->length - FRAME_HEAD, log->size + FRAME_HEAD) != 0) {
        log->broken = 1;
        return failed(LOG_FAILED, message, "index");
    }
    log->size += batch->length;
    log->last_version = last_version;
    return LOG_OK;
}

/* --- Compaction --- */

int log_is_wasteful(const log_file *log) {
    return !log->broken && log->size >= log->compact_at && log->size - log->live > log->size / 2;
}

/* Writes what the index leads to into another file, in the order of the ids; gives its size. */
static log_result write_anew(log_file *log, int file, uint64_t *size, char message[LOG_MESSAGE]) {
    log_batch batch;
    batch_init(&batch);
    log_result result = LOG_OK;
    *size = 0;
    index_node *node = log->index.first[0];
    /* One frame at least: it has the last version that was given. */
    do {
        if (batch_reserve(&batch, 0) != 0) result = failed(LOG_FAILED, message, "compact");
        while (result == LOG_OK && node != NULL && batch.length < CHUNK) {
            void *bytes;
            result = log_read(log, node, &bytes, message);
            if (result != LOG_OK) break;
            result = batch_add(&batch, node->id, node->id_length, node->version, bytes, node->length);
            free(bytes);
            if (result != LOG_OK) (void)failed(result, message, "compact");
            node->moved = *size + batch.length - node->length;
            node = node->next[0];
        }
        if (result != LOG_OK) break;
        batch_finish(&batch, log->last_version);
        if (write_all(file, batch.bytes, batch.length, *size) != 0) result = failed(LOG_FAILED, message, "compact");
        *size += batch.length;
        batch.length = 0;
    } while (result == LOG_OK && node != NULL);
    batch_free(&batch);
    if (result == LOG_OK && sync_file(file) != 0) result = failed(LOG_FAILED, message, "compact");
    return result;
}

log_result log_compact(log_file *log, char message[LOG_MESSAGE]) {
    uint64_t size;
    /* If it fails it is tried again when the log has grown. */
    log->compact_at = log->size * 2;
    int file = openat(log->directory, LOG_WRITING, O_CLOEXEC | O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0) return failed(LOG_FAILED, message, "compact");
    log_result result = write_anew(log, file, &size, message);
    if (result == LOG_OK && renameat(log->directory, LOG_WRITING, log->directory, LOG_NAME) != 0) {
        result = failed(LOG_FAILED, message, "compact");
    }
    if (result != LOG_OK) {
        (void)close(file);
        (void)unlinkat(log->directory, LOG_WRITING, 0);
        return result;
    }
    /* From here on the new file is the log; whether it still is after a crash is known once the directory is synced. */
    (void)close(log->file);
    log->file = file;
    log->size = size;
    log->compact_at = log->compact_min;
    for (index_node *node = log->index.first[0]; node != NULL; node = node->next[0]) node->offset = node->moved;
    if (fsync(log->directory) != 0) {
        log->broken = 1;
        return failed(LOG_FAILED, message, "compact");
    }
    return LOG_OK;
}
