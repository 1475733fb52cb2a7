/*
 * The contract between storage-worker and a storage plugin that is written in C, or in any language that speaks its ABI.
 *
 * A plugin keeps documents: opaque bytes under an id, each with a version. The worker merges, lists and counts. A whole
 * plugin to copy is examples/c-log, a guide is docs/plugin-c.md. A plugin is a shared library, named
 * libstorage_backend_<name>.so, with two things in it:
 *
 *     STORAGE_PLUGIN_MANIFEST("mine", "0.1.0")
 *
 *     STORAGE_PLUGIN_EXPORT const storage_descriptor storage_plugin_descriptor = {
 *         STORAGE_DESCRIPTOR_HEAD,
 *         .flags = STORAGE_DURABLE, .parallel_calls = 1,
 *         .open = mine_open, .close = mine_close,
 *         .get = mine_get, .put = mine_put, .scan = mine_scan, .remove = mine_remove,
 *     };
 *
 * Memory. No memory changes hands. What the worker passes in is valid until the call returns, and is the worker's; copy
 * what is to be kept. Answers are given by calling a function of the `storage_call` before the call returns; what is
 * passed to it is copied at once, and stays the plugin's.
 *
 * Threads. `get`, `put`, `scan`, `remove` and `flush` of an instance come from any thread, at most `parallel_calls` of
 * them at once; `health` comes at any time beside them. `open` comes before all of them, `close` after all of them.
 * The functions of a `storage_call` are for the thread that was called, those of a `storage_host` for every thread from
 * `open` until `close` returns, or until an `open` that fails does. Several instances of a plugin may be open at once. A
 * library is never unloaded.
 *
 * Deadlines. Calls are synchronous, and should be back within `budget_us` microseconds. A call that is late holds up
 * others and makes the worker unready; it cannot be ended from outside. A call that cannot do its work in time
 * answers STORAGE_UNAVAILABLE or STORAGE_OVERLOADED: it will come again.
 *
 * Text is UTF-8. A NUL stands behind every text that is passed in and does not count in its length. Texts that are
 * passed out end with a NUL, unless they have a length.
 *
 * No exception, longjmp or signal may leave a function of the plugin. A crash in it is a crash of the worker.
 *
 * Growth. Structs that begin with `struct_size` grow at their end: before using a member that a later version of this
 * header added, see that `struct_size` covers it. All others never change. What is reserved is 0.
 */
#ifndef STORAGE_PLUGIN_H
#define STORAGE_PLUGIN_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The version of the contract. A plugin runs in workers of the same major version, older ones and newer ones. */
#define STORAGE_PLUGIN_API "1.0.0"
/* How the descriptor begins: "storplug" in the bytes of a little-endian machine. */
#define STORAGE_PLUGIN_MAGIC UINT64_C(0x67756c70726f7473)
/* The version of the layout of this header. */
#define STORAGE_PLUGIN_ABI 1

/* What a function answers. Those from 1 to 5 are errors, and say what happens next. */
enum {
    /* It is done. */
    STORAGE_OK = 0,
    /* What the plugin stores in is away. The same call comes again, however long it takes. */
    STORAGE_UNAVAILABLE = 1,
    /* Too much at once. The same call comes again. */
    STORAGE_OVERLOADED = 2,
    /* This document can never be stored. Its events become dead letters. */
    STORAGE_INVALID_ITEM = 3,
    /* The operator must change something. Stops a start; later, as STORAGE_UNAVAILABLE. */
    STORAGE_CONFIGURATION = 4,
    /* A defect. */
    STORAGE_INTERNAL = 5,
    /* Only to `answer`: the version is another one, and nothing was done. */
    STORAGE_CONFLICT = 6
};

/* What an instance promises; in `flags` of storage_descriptor and storage_description. */
enum {
    /* What `put` and `remove` answered STORAGE_OK survives a crash of the process and of the machine. */
    STORAGE_DURABLE = 1,
    /* Several processes may have it open at once. Else `open` refuses what another process has open. */
    STORAGE_SHARED = 2
};

/* In `flags` of storage_opening: a command opens the instance to read. Make nothing that is not there, change nothing;
 * what cannot be opened so is refused as STORAGE_CONFIGURATION. Only `get`, `scan`, `health` and `close` follow. */
enum { STORAGE_READ_ONLY = 1 };

/* Types of options. */
enum { STORAGE_TEXT = 1, STORAGE_INTEGER = 2, STORAGE_BOOLEAN = 3 };

/* Levels of the log. */
enum { STORAGE_ERROR = 1, STORAGE_WARN = 2, STORAGE_INFO = 3, STORAGE_DEBUG = 4, STORAGE_TRACE = 5 };

typedef struct storage_host storage_host;
typedef struct storage_call storage_call;

/* A text that the worker passes in. */
typedef struct storage_text {
    const char *bytes; /* Never NULL. */
    size_t length;     /* Without the NUL behind it. */
} storage_text;

/* An option that the plugin takes. The worker refuses every other one, and values of another type. */
typedef struct storage_option {
    const char *name;
    uint32_t type;     /* STORAGE_TEXT, STORAGE_INTEGER or STORAGE_BOOLEAN. */
    uint32_t required; /* 1: the worker refuses a configuration without it. */
} storage_option;

/* The value of an option. Values come in the order of the descriptor's options, and as many. */
typedef struct storage_value {
    uint32_t given;    /* 0: the configuration does not have it; then the rest is 0, and an empty text. */
    uint32_t reserved;
    int64_t integer;   /* Of STORAGE_INTEGER; of STORAGE_BOOLEAN 0 or 1. */
    storage_text text; /* Of STORAGE_TEXT; has no NUL within. */
} storage_value;

/* A document to write. */
typedef struct storage_put {
    storage_text id;
    uint64_t expected;    /* The version that it must have now; 0: it must not be there. */
    const uint8_t *bytes; /* Never NULL. */
    size_t length;
    storage_text status;   /* May be indexed; empty if not known. */
    storage_text language; /* May be indexed; empty if not known. */
    int64_t created_at;    /* May be indexed; microseconds since 1970. */
    uint64_t reserved[2];
} storage_put;

/* A document to remove. */
typedef struct storage_remove {
    storage_text id;
    uint64_t expected; /* The version that it must have now. */
    uint64_t reserved;
} storage_remove;

/* The worker, as an instance sees it. */
struct storage_host {
    uint32_t struct_size;
    uint32_t reserved;
    void *context; /* The worker's. */
    /* Writes a line to the worker's log, under the instance's name. See also storage_log below. */
    void (*log)(const storage_host *host, uint32_t level, const char *message);
    /* Adds to a counter, or sets a gauge, of the worker's metrics. */
    void (*count)(const storage_host *host, const char *name, uint64_t by);
    void (*gauge)(const storage_host *host, const char *name, double value);
};

/* A call, and how it is answered. */
struct storage_call {
    uint32_t struct_size;
    uint32_t attempt;         /* How often the same call failed before; 0 at first. */
    uint64_t budget_us;       /* How long the answer is of use, in microseconds from now. */
    const storage_host *host;
    void *context;            /* The worker's. */
    /* In every call: says why it fails. Gives `kind` back, to be returned. See also storage_fail below. */
    uint32_t (*fail)(storage_call *call, uint32_t kind, const char *message);
    /* In `get`: the document of ids[index] is there. Not called for one that is not. */
    void (*document)(storage_call *call, size_t index, uint64_t version, const void *bytes, size_t length);
    /* In `put` and `remove`: what became of item `index`: STORAGE_OK, STORAGE_CONFLICT, or an error with its message
     * (else NULL). Every item is answered once. */
    void (*answer)(storage_call *call, size_t index, uint32_t answer, const char *message);
    /* In `scan`: the next document. Gives 0 when the worker has enough; the plugin then returns STORAGE_OK. */
    uint32_t (*entry)(storage_call *call, const char *id, size_t id_length, uint64_t version, const void *bytes,
                      size_t length);
    /* In `health`: a figure, say a number of documents. */
    void (*figure)(storage_call *call, const char *name, int64_t value);
    /* In `check`: what is wrong with the options, in the operator's words. */
    void (*problem)(storage_call *call, const char *message);
    /* In `check`: what the operator should know, say where it stores; shown by `storage-worker explain`. */
    void (*note)(storage_call *call, const char *message);
};

/* What an instance of these options would be. It comes filled in from the descriptor. */
typedef struct storage_description {
    uint32_t struct_size;
    uint32_t flags;
    uint64_t parallel_calls;
} storage_description;

/* How an instance is opened. */
typedef struct storage_opening {
    uint32_t struct_size;
    uint32_t flags;              /* STORAGE_READ_ONLY */
    storage_text instance;       /* Its name in the configuration. */
    const storage_value *values; /* As many as the descriptor has options. */
} storage_opening;

/* What a plugin exports under the name `storage_plugin_descriptor`. A function that is not named as optional must be
 * there. All return STORAGE_OK or a kind of error; an error of the whole call means that nothing is known of any item. */
typedef struct storage_descriptor {
    uint64_t magic;       /* STORAGE_PLUGIN_MAGIC */
    uint32_t abi;         /* STORAGE_PLUGIN_ABI */
    uint32_t struct_size;
    uint32_t flags;       /* STORAGE_DURABLE, STORAGE_SHARED */
    uint32_t reserved;
    uint64_t parallel_calls; /* How many calls it makes use of at once; at least 1. */
    const storage_option *options;
    size_t option_count;

    /* Optional. Looks at the values of options before `open`, and adjusts the description. Touches nothing, and keeps
     * nothing: the host of this call is gone when it returns. */
    uint32_t (*check)(storage_call *call, const storage_value *values, storage_description *description);
    /* Opens an instance: sets `*store` to whatever the other functions shall be given. After an error there is none. */
    uint32_t (*open)(storage_call *call, const storage_opening *opening, void **store);
    /* Ends what runs and frees what is held, even when it answers an error. Called once, last. */
    uint32_t (*close)(storage_call *call, void *store);
    /* Reads documents; calls `document` for those that are there. */
    uint32_t (*get)(storage_call *call, void *store, const storage_text *ids, size_t count);
    /* Writes each document whose version is the expected one, and gives it a version that no document of this id ever
     * had; never 0. Calls `answer` for each. Whoever reads after that sees it. */
    uint32_t (*put)(storage_call *call, void *store, const storage_put *puts, size_t count);
    /* Reads documents in the order of the bytes of their ids, those behind `after` (empty: from the first one), and calls
     * `entry` for each: until `limit` were given, or none is left, or `entry` gives 0. One that ends earlier, and is no
     * error, says that none is left. */
    uint32_t (*scan)(storage_call *call, void *store, storage_text after, size_t limit);
    /* Removes each document whose version is the expected one. One that is not there is a conflict. Calls `answer` for each. */
    uint32_t (*remove)(storage_call *call, void *store, const storage_remove *removes, size_t count);
    /* Optional. STORAGE_OK if it can do its work; calls `figure` as it likes. Cheap, and never waits. */
    uint32_t (*health)(storage_call *call, void *store);
    /* Optional. Makes durable what was answered. */
    uint32_t (*flush)(storage_call *call, void *store);
} storage_descriptor;

/* The first members of a descriptor. */
#define STORAGE_DESCRIPTOR_HEAD STORAGE_PLUGIN_MAGIC, STORAGE_PLUGIN_ABI, (uint32_t)sizeof(storage_descriptor)

#if defined(__GNUC__)
#define STORAGE_PLUGIN_EXPORT __attribute__((visibility("default")))
#define STORAGE_PRINTF(text, first) __attribute__((format(printf, text, first)))
#if defined(__APPLE__)
#define STORAGE_PLUGIN_SECTION __attribute__((used, section("__DATA,__storage_plugin")))
#else
#define STORAGE_PLUGIN_SECTION __attribute__((used, section(".storage_plugin")))
#endif
#else
#error "this compiler has no known way to put the manifest into a section of its own; use gcc or clang"
#endif

/* The target as rustc calls it. Define it yourself for one that is not known here: `rustc -vV` tells. */
#if !defined(STORAGE_PLUGIN_TARGET)
#if defined(__x86_64__)
#define STORAGE_PLUGIN_CPU "x86_64"
#elif defined(__aarch64__)
#define STORAGE_PLUGIN_CPU "aarch64"
#endif
#if defined(STORAGE_PLUGIN_CPU) && defined(__APPLE__)
#define STORAGE_PLUGIN_TARGET STORAGE_PLUGIN_CPU "-apple-darwin"
#elif defined(STORAGE_PLUGIN_CPU) && defined(__linux__) && defined(__GLIBC__)
#define STORAGE_PLUGIN_TARGET STORAGE_PLUGIN_CPU "-unknown-linux-gnu"
#elif defined(STORAGE_PLUGIN_CPU) && defined(__linux__)
#define STORAGE_PLUGIN_TARGET STORAGE_PLUGIN_CPU "-unknown-linux-musl"
#else
#error "define STORAGE_PLUGIN_TARGET as the target of the worker, as rustc calls it"
#endif
#endif

#if defined(__clang__)
#define STORAGE_PLUGIN_COMPILER "clang " __clang_version__
#else
#define STORAGE_PLUGIN_COMPILER "gcc " __VERSION__
#endif

/* Writes the manifest, which the worker reads from the file before it runs anything of it. Both are string literals
 * without quotes; the name is that of the file: libstorage_backend_<name>.so. Stands once, outside of any function. */
#define STORAGE_PLUGIN_MANIFEST(plugin_name, plugin_version)                                                           \
    STORAGE_PLUGIN_SECTION static const char storage_plugin_manifest[] =                                               \
        "{\"magic\":\"storage-plugin\",\"abi\":\"c-1\",\"api\":\"" STORAGE_PLUGIN_API "\",\"kind\":\"documents\",\"name\":\""  \
        plugin_name "\",\"version\":\"" plugin_version "\",\"compiler\":\"" STORAGE_PLUGIN_COMPILER "\",\"target\":\""      \
        STORAGE_PLUGIN_TARGET "\"}";

extern STORAGE_PLUGIN_EXPORT const storage_descriptor storage_plugin_descriptor;

/* Says why a call fails, as printf does: `return storage_fail(call, STORAGE_UNAVAILABLE, "cannot open `%s`", path);` */
STORAGE_PRINTF(3, 4)
static inline uint32_t storage_fail(storage_call *call, uint32_t kind, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return call->fail(call, kind, message);
}

/* Writes a line to the worker's log, as printf does. */
STORAGE_PRINTF(3, 4)
static inline void storage_log(const storage_host *host, uint32_t level, const char *format, ...) {
    char message[1024];
    va_list arguments;
    va_start(arguments, format);
    (void)vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    host->log(host, level, message);
}

#ifdef __cplusplus
}
#endif

#endif
