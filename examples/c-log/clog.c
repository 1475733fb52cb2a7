/*
 * A storage plugin in C: documents in a log of their own, each write synced before it is answered.
 *
 * This file is what the worker calls; log.c has the file, index.c what is in memory. One lock stands around all of it:
 * while one call waits for the disk, the worker merges what the next ones are to write.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "storage_plugin.h"

STORAGE_PLUGIN_MANIFEST("clog", "0.1.0")

enum { COMPACT_MIN = 1 << 20 };

/* The places of the options in what `check` and `open` are given. */
enum { OPTION_PATH, OPTION_COMPACT_MIN_BYTES };

static const storage_option OPTIONS[] = {
    {"path", STORAGE_TEXT, 1},
    {"compact_min_bytes", STORAGE_INTEGER, 0},
};

typedef struct store {
    const storage_host *host;
    pthread_mutex_t lock;
    int directory;
    int lock_file;
    log_file log;
} store;

static uint32_t check(storage_call *call, const storage_value *values, storage_description *description) {
    const char *path = values[OPTION_PATH].text.bytes;
    char note[1024];
    (void)description; /* As the descriptor says: durable, for one process. */
    if (path[0] == '\0') call->problem(call, "`path` is empty; give a directory");
    if (values[OPTION_COMPACT_MIN_BYTES].integer < 0) call->problem(call, "`compact_min_bytes` is negative");
    (void)snprintf(note, sizeof note, "keeps its log in `%s`", path);
    call->note(call, note);
    return STORAGE_OK;
}

/* Opens the directory; makes it, durably, unless it shall only be read. */
static uint32_t open_directory(storage_call *call, store *opened, const char *path, int read_only) {
    int made = !read_only && mkdir(path, 0700) == 0;
    if (!read_only && !made && errno != EEXIST) {
        return storage_fail(call, STORAGE_CONFIGURATION, "cannot make the directory `%s`: %s", path, strerror(errno));
    }
    opened->directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (opened->directory < 0 && errno == ENOENT) {
        return storage_fail(call, STORAGE_CONFIGURATION, "nothing is stored in `%s`", path);
    }
    if (opened->directory < 0) {
        return storage_fail(call, STORAGE_CONFIGURATION, "cannot open the directory `%s`: %s", path, strerror(errno));
    }
    if (read_only) return STORAGE_OK;
    /* Synced at every start, since the one that made the directory may have been killed. Who did not make it may not be
     * allowed to. */
    int above = openat(opened->directory, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int synced = above >= 0 && fsync(above) == 0;
    uint32_t kind = STORAGE_OK;
    if (made && !synced) {
        kind = storage_fail(call, STORAGE_CONFIGURATION, "cannot sync the directory of `%s`: %s", path, strerror(errno));
    }
    if (above >= 0) (void)close(above);
    return kind;
}

/* Takes the directory for this process; those that only read may share it. */
static uint32_t take_lock(storage_call *call, store *opened, const char *path, int read_only) {
    opened->lock_file = openat(opened->directory, "lock", O_CLOEXEC | (read_only ? O_RDONLY : O_RDWR | O_CREAT), 0600);
    if (opened->lock_file < 0 && errno == ENOENT) {
        return storage_fail(call, STORAGE_CONFIGURATION, "nothing is stored in `%s`", path);
    }
    if (opened->lock_file < 0) {
        return storage_fail(call, STORAGE_CONFIGURATION, "cannot open `%s/lock`: %s", path, strerror(errno));
    }
    if (flock(opened->lock_file, (read_only ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) return STORAGE_OK;
    if (errno == EWOULDBLOCK) {
        return storage_fail(call, STORAGE_CONFIGURATION,
                            "the directory `%s` is in use by another process; stop it, or give another `path`", path);
    }
    return storage_fail(call, STORAGE_CONFIGURATION, "cannot lock `%s/lock`: %s", path, strerror(errno));
}

static uint32_t read_log(storage_call *call, store *opened, const char *path, int read_only, uint64_t compact_min) {
    char message[LOG_MESSAGE];
    switch (log_open(&opened->log, opened->directory, read_only, compact_min, message)) {
    case LOG_OK: break;
    case LOG_MISSING: return storage_fail(call, STORAGE_CONFIGURATION, "nothing is stored in `%s`", path);
    case LOG_DAMAGED: return storage_fail(call, STORAGE_CONFIGURATION, "in `%s`: %s", path, message);
    case LOG_FAILED: return storage_fail(call, STORAGE_UNAVAILABLE, "in `%s`: %s", path, message);
    }
    if (opened->log.cut > 0) {
        storage_log(call->host, STORAGE_WARN, "the last %llu bytes of `%s/log` are of an interrupted write%s",
                    (unsigned long long)opened->log.cut, path, read_only ? "" : ", and were cut off");
    }
    return STORAGE_OK;
}

static void free_store(store *opened) {
    if (opened->lock_file >= 0) (void)close(opened->lock_file);
    if (opened->directory >= 0) (void)close(opened->directory);
    (void)pthread_mutex_destroy(&opened->lock);
    free(opened);
}

static uint32_t open_store(storage_call *call, const storage_opening *opening, void **result) {
    const char *path = opening->values[OPTION_PATH].text.bytes;
    const storage_value *compact_min = &opening->values[OPTION_COMPACT_MIN_BYTES];
    int read_only = (opening->flags & STORAGE_READ_ONLY) != 0;
    store *opened = calloc(1, sizeof *opened);
    if (opened == NULL) return storage_fail(call, STORAGE_UNAVAILABLE, "there is no memory");
    opened->host = call->host;
    opened->directory = opened->lock_file = -1;
    if (pthread_mutex_init(&opened->lock, NULL) != 0) {
        free(opened);
        return storage_fail(call, STORAGE_UNAVAILABLE, "the system gives no mutex");
    }
    uint32_t kind = open_directory(call, opened, path, read_only);
    if (kind == STORAGE_OK) kind = take_lock(call, opened, path, read_only);
    if (kind == STORAGE_OK) {
        kind = read_log(call, opened, path, read_only, compact_min->given ? (uint64_t)compact_min->integer : COMPACT_MIN);
    }
    if (kind != STORAGE_OK) {
        free_store(opened);
        return kind;
    }
    *result = opened;
    return STORAGE_OK;
}

static uint32_t close_store(storage_call *call, void *given) {
    store *opened = given;
    (void)call; /* All that was answered is on the disk. */
    log_close(&opened->log);
    free_store(opened);
    return STORAGE_OK;
}

static uint32_t get(storage_call *call, void *given, const storage_text *ids, size_t count) {
    store *opened = given;
    uint32_t kind = STORAGE_OK;
    char message[LOG_MESSAGE];
    (void)pthread_mutex_lock(&opened->lock);
    for (size_t i = 0; i < count && kind == STORAGE_OK; i++) {
        void *bytes;
        const index_node *node = index_find(&opened->log.index, ids[i].bytes, ids[i].length);
        if (node == NULL) continue;
        if (log_read(&opened->log, node, &bytes, message) != LOG_OK) {
            kind = storage_fail(call, STORAGE_UNAVAILABLE, "document `%s`: %s", node->id, message);
            continue;
        }
        call->document(call, i, node->version, bytes, node->length);
        free(bytes);
    }
    (void)pthread_mutex_unlock(&opened->lock);
    return kind;
}

static uint32_t scan(storage_call *call, void *given, storage_text after, size_t limit) {
    store *opened = given;
    uint32_t kind = STORAGE_OK, goes_on = 1;
    char message[LOG_MESSAGE];
    (void)pthread_mutex_lock(&opened->lock);
    const index_node *node = index_behind(&opened->log.index, after.bytes, after.length);
    for (; node != NULL && limit > 0 && goes_on && kind == STORAGE_OK; node = node->next[0], limit--) {
        void *bytes;
        if (log_read(&opened->log, node, &bytes, message) != LOG_OK) {
            kind = storage_fail(call, STORAGE_UNAVAILABLE, "document `%s`: %s", node->id, message);
            continue;
        }
        goes_on = call->entry(call, node->id, node->id_length, node->version, bytes, node->length);
        free(bytes);
    }
    (void)pthread_mutex_unlock(&opened->lock);
    return kind;
}

/* A write, while it is being prepared: the answers of its items are known before it is on the disk, and given after. */
typedef struct writing {
    log_batch batch;
    uint64_t last_version;
    uint32_t *answers;
    uint32_t failure;
} writing;

/* Adds an item to a write, or finds out why not. One that is in it already is of another version now. */
static void prepare(store *opened, writing *write, size_t item, storage_text id, uint64_t expected, const void *bytes,
                    size_t length) {
    const index_node *node = index_find(&opened->log.index, id.bytes, id.length);
    uint64_t version = node == NULL ? 0 : node->version;
    if (id.length > UINT16_MAX || length > UINT32_MAX) {
        write->answers[item] = STORAGE_INVALID_ITEM;
    } else if (version != expected || (bytes == NULL && node == NULL) || batch_has(&write->batch, id.bytes, id.length)) {
        write->answers[item] = STORAGE_CONFLICT;
    } else if (batch_add(&write->batch, id.bytes, id.length, ++write->last_version, bytes, (uint32_t)length) != LOG_OK) {
        write->failure = STORAGE_OVERLOADED;
    }
}

static uint32_t begin(storage_call *call, store *opened, writing *write, size_t count) {
    batch_init(&write->batch);
    write->failure = STORAGE_OK;
    write->answers = calloc(count + 1, sizeof *write->answers); /* STORAGE_OK is 0. */
    if (write->answers == NULL) return storage_fail(call, STORAGE_OVERLOADED, "there is no memory for the write");
    (void)pthread_mutex_lock(&opened->lock);
    write->last_version = opened->log.last_version;
    return STORAGE_OK;
}

static uint32_t finish(storage_call *call, store *opened, writing *write, size_t count) {
    char message[LOG_MESSAGE];
    uint32_t kind = STORAGE_OK;
    if (write->failure != STORAGE_OK) {
        kind = storage_fail(call, write->failure, "there is no memory for the write");
    } else if (log_write(&opened->log, &write->batch, write->last_version, message) != LOG_OK) {
        kind = storage_fail(call, STORAGE_UNAVAILABLE, "%s", message);
    }
    for (size_t i = 0; i < count && kind == STORAGE_OK; i++) {
        uint32_t answer = write->answers[i];
        call->answer(call, i, answer, answer == STORAGE_INVALID_ITEM ? "the id or the document is too long for the log" : NULL);
    }
    /* What is answered is safe whether this succeeds or not. */
    if (kind == STORAGE_OK && log_is_wasteful(&opened->log) && log_compact(&opened->log, message) != LOG_OK) {
        storage_log(opened->host, STORAGE_WARN, "%s", message);
    }
    (void)pthread_mutex_unlock(&opened->lock);
    batch_free(&write->batch);
    free(write->answers);
    return kind;
}

static uint32_t put(storage_call *call, void *given, const storage_put *puts, size_t count) {
    store *opened = given;
    writing write;
    uint32_t kind = begin(call, opened, &write, count);
    if (kind != STORAGE_OK) return kind;
    for (size_t i = 0; i < count; i++) {
        prepare(opened, &write, i, puts[i].id, puts[i].expected, puts[i].bytes, puts[i].length);
    }
    return finish(call, opened, &write, count);
}

static uint32_t remove_documents(storage_call *call, void *given, const storage_remove *removes, size_t count) {
    store *opened = given;
    writing write;
    uint32_t kind = begin(call, opened, &write, count);
    if (kind != STORAGE_OK) return kind;
    for (size_t i = 0; i < count; i++) prepare(opened, &write, i, removes[i].id, removes[i].expected, NULL, 0);
    return finish(call, opened, &write, count);
}

static uint32_t health(storage_call *call, void *given) {
    store *opened = given;
    uint32_t kind = STORAGE_OK;
    /* A call is running, so it lives; to wait for its end would be to wait for the disk. */
    if (pthread_mutex_trylock(&opened->lock) != 0) return STORAGE_OK;
    call->figure(call, "documents", (int64_t)opened->log.index.count);
    call->figure(call, "log_bytes", (int64_t)opened->log.size);
    call->figure(call, "live_bytes", (int64_t)opened->log.live);
    if (opened->log.broken) {
        kind = storage_fail(call, STORAGE_UNAVAILABLE, "a write failed half-way; start the worker again");
    }
    (void)pthread_mutex_unlock(&opened->lock);
    return kind;
}

STORAGE_PLUGIN_EXPORT const storage_descriptor storage_plugin_descriptor = {
    STORAGE_DESCRIPTOR_HEAD,
    .flags = STORAGE_DURABLE,
    .parallel_calls = 4,
    .options = OPTIONS,
    .option_count = sizeof OPTIONS / sizeof *OPTIONS,
    .check = check,
    .open = open_store,
    .close = close_store,
    .get = get,
    .put = put,
    .scan = scan,
    .remove = remove_documents,
    .health = health,
};
