/* Tests the plugin by its descriptor, with a worker that is made up. Built with the sanitizers: `make test`. */
#undef NDEBUG
#include <assert.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "storage_plugin.h"

#define CLOG (&storage_plugin_descriptor)

enum { MOST = 64 };

/* What a call was answered. */
static struct {
    char message[1024];
    size_t found;
    uint64_t versions[MOST];
    char texts[MOST][64]; /* The bytes of `get`, the ids of `scan`. */
    uint32_t answers[MOST];
    size_t enough; /* How many entries a scan may give. */
    int64_t figure;
    unsigned problems, warnings;
} seen;

static uint32_t on_fail(storage_call *call, uint32_t kind, const char *message) {
    (void)call;
    (void)snprintf(seen.message, sizeof seen.message, "%s", message);
    return kind;
}

static void on_document(storage_call *call, size_t index, uint64_t version, const void *bytes, size_t length) {
    (void)call;
    assert(index < MOST && length < sizeof seen.texts[0] && version != 0);
    memcpy(seen.texts[index], bytes, length);
    seen.texts[index][length] = '\0';
    seen.versions[index] = version;
    seen.found++;
}

static void on_answer(storage_call *call, size_t index, uint32_t answer, const char *message) {
    (void)call, (void)message;
    assert(index < MOST);
    seen.answers[index] = answer;
}

static uint32_t on_entry(storage_call *call, const char *id, size_t id_length, uint64_t version, const void *bytes,
                         size_t length) {
    (void)bytes, (void)length;
    assert(seen.found < MOST && id_length < sizeof seen.texts[0]);
    size_t index = seen.found;
    on_document(call, index, version, id, id_length);
    return seen.found < seen.enough;
}

static void on_figure(storage_call *call, const char *name, int64_t value) {
    (void)call;
    if (strcmp(name, "log_bytes") == 0) seen.figure = value;
}

static void on_problem(storage_call *call, const char *message) { (void)call, (void)message, seen.problems++; }
static void on_note(storage_call *call, const char *message) { (void)call, (void)message; }
static void on_log(const storage_host *host, uint32_t level, const char *message) {
    (void)host, (void)message;
    seen.warnings += level == STORAGE_WARN;
}
static void on_count(const storage_host *host, const char *name, uint64_t by) { (void)host, (void)name, (void)by; }
static void on_gauge(const storage_host *host, const char *name, double value) { (void)host, (void)name, (void)value; }

static const storage_host HOST = {sizeof HOST, 0, NULL, on_log, on_count, on_gauge};

static storage_call *new_call(void) {
    static storage_call call;
    memset(&seen, 0, sizeof seen);
    seen.enough = MOST;
    call = (storage_call){sizeof call, 0, 1000000, &HOST, NULL, on_fail, on_document, on_answer, on_entry, on_figure,
                          on_problem, on_note};
    return &call;
}

static storage_text text(const char *bytes) { return (storage_text){bytes, strlen(bytes)}; }

static uint32_t open_at(const char *path, uint32_t flags, int64_t compact_min, void **store) {
    storage_value values[] = {{1, 0, 0, text(path)}, {compact_min != 0, 0, compact_min, text("")}};
    storage_opening opening = {sizeof opening, flags, text("main"), values};
    return CLOG->open(new_call(), &opening, store);
}

static void *opened(const char *path) {
    void *store = NULL;
    uint32_t kind = open_at(path, 0, 4096, &store);
    if (kind != STORAGE_OK) fprintf(stderr, "open: %s\n", seen.message);
    assert(kind == STORAGE_OK);
    return store;
}

static void closed(void *store) { assert(CLOG->close(new_call(), store) == STORAGE_OK); }

static uint32_t put(void *store, const char *id, uint64_t expected, const char *bytes) {
    storage_put item = {text(id), expected, (const uint8_t *)bytes, strlen(bytes), text(""), text(""), 0, {0, 0}};
    uint32_t kind = CLOG->put(new_call(), store, &item, 1);
    return kind != STORAGE_OK ? kind : seen.answers[0];
}

static uint32_t drop(void *store, const char *id, uint64_t expected) {
    storage_remove item = {text(id), expected, 0};
    assert(CLOG->remove(new_call(), store, &item, 1) == STORAGE_OK);
    return seen.answers[0];
}

/* The version of a document, 0 if there is none; its bytes are then in seen.texts[0]. */
static uint64_t get(void *store, const char *id) {
    storage_text ids[] = {text(id)};
    assert(CLOG->get(new_call(), store, ids, 1) == STORAGE_OK);
    return seen.versions[0];
}

static size_t scan(void *store, const char *after, size_t limit) {
    assert(CLOG->scan(new_call(), store, text(after), limit) == STORAGE_OK);
    return seen.found;
}

static int64_t log_bytes(void *store) {
    assert(CLOG->health(new_call(), store) == STORAGE_OK);
    return seen.figure;
}

/* --- Files --- */

static char top[] = "/tmp/clog-test-XXXXXX";

static const char *path_of(const char *name) {
    static char paths[4][128];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof paths[0], "%s/%s", top, name);
    return path;
}

static size_t read_file(const char *path, unsigned char *bytes, size_t capacity) {
    FILE *file = fopen(path, "rb");
    assert(file != NULL);
    size_t length = fread(bytes, 1, capacity, file);
    (void)fclose(file);
    return length;
}

static void write_file(const char *path, const unsigned char *bytes, size_t length) {
    FILE *file = fopen(path, "wb");
    assert(file != NULL && fwrite(bytes, 1, length, file) == length && fclose(file) == 0);
}

/* --- Tests --- */

static void documents_are_kept_by_version(void) {
    void *store = opened(path_of("versions"));
    assert(get(store, "a") == 0);
    assert(put(store, "a", 1, "x") == STORAGE_CONFLICT && put(store, "a", 0, "one") == STORAGE_OK);
    uint64_t first = get(store, "a");
    assert(first != 0 && strcmp(seen.texts[0], "one") == 0);
    assert(put(store, "a", 0, "x") == STORAGE_CONFLICT && put(store, "a", first, "two") == STORAGE_OK);
    uint64_t second = get(store, "a");
    assert(second > first && strcmp(seen.texts[0], "two") == 0);
    assert(drop(store, "a", first) == STORAGE_CONFLICT && drop(store, "a", second) == STORAGE_OK && get(store, "a") == 0);
    assert(drop(store, "a", second) == STORAGE_CONFLICT && drop(store, "a", 0) == STORAGE_CONFLICT);
    closed(store);
    store = opened(path_of("versions"));
    assert(get(store, "a") == 0 && put(store, "a", 0, "") == STORAGE_OK && get(store, "a") > second);
    closed(store);
}

static void an_id_that_stands_twice_in_a_write_conflicts(void) {
    void *store = opened(path_of("twice"));
    const uint8_t bytes[] = "x";
    storage_put puts[] = {{text("a"), 0, bytes, 1, text(""), text(""), 0, {0, 0}},
                          {text("a"), 0, bytes, 1, text(""), text(""), 0, {0, 0}},
                          {text("b"), 0, bytes, 1, text(""), text(""), 0, {0, 0}}};
    assert(CLOG->put(new_call(), store, puts, 3) == STORAGE_OK);
    assert(seen.answers[0] == STORAGE_OK && seen.answers[1] == STORAGE_CONFLICT && seen.answers[2] == STORAGE_OK);
    closed(store);
}

static void pages_are_in_order(void) {
    void *store = opened(path_of("pages"));
    static const char *const ids[] = {"b", "a", "B", "a-1", "c", "aa"};
    for (size_t i = 0; i < 6; i++) assert(put(store, ids[i], 0, "x") == STORAGE_OK);
    static const char *const order[] = {"B", "a", "a-1", "aa", "b", "c"};
    assert(scan(store, "", 10) == 6);
    for (size_t i = 0; i < 6; i++) assert(strcmp(seen.texts[i], order[i]) == 0);
    assert(scan(store, "a", 2) == 2 && strcmp(seen.texts[0], "a-1") == 0);
    assert(scan(store, "ab", 9) == 2 && scan(store, "c", 9) == 0);
    storage_call *call = new_call();
    seen.enough = 3;
    assert(CLOG->scan(call, store, text(""), 10) == STORAGE_OK && seen.found == 3);
    closed(store);
}

/* Wherever a crash cuts the last write, or spoils a byte of it, all that was answered before is there. */
static void a_torn_write_is_cut_off(void) {
    static unsigned char bytes[4096], spoiled[4096];
    void *store = opened(path_of("torn"));
    assert(put(store, "a", 0, "kept") == STORAGE_OK);
    size_t whole = (size_t)log_bytes(store);
    assert(put(store, "b", 0, "torn") == STORAGE_OK);
    closed(store);
    size_t length = read_file(path_of("torn/log"), bytes, sizeof bytes);
    for (size_t at = whole; at < 2 * length - whole; at++) {
        size_t end = at < length ? at : length;
        memcpy(spoiled, bytes, end);
        if (at >= length) spoiled[at - length + whole] ^= 0x40;
        write_file(path_of("torn/log"), spoiled, end);
        if (end > whole) {
            assert(open_at(path_of("torn"), STORAGE_READ_ONLY, 0, &store) == STORAGE_OK && seen.warnings == 1);
            assert(get(store, "a") != 0 && get(store, "b") == 0);
            closed(store);
            assert(read_file(path_of("torn/log"), spoiled, sizeof spoiled) == end);
        }
        store = opened(path_of("torn"));
        assert(seen.warnings == (end > whole));
        assert(get(store, "a") != 0 && strcmp(seen.texts[0], "kept") == 0 && get(store, "b") == 0);
        assert(put(store, "b", 0, "again") == STORAGE_OK);
        closed(store);
        store = opened(path_of("torn"));
        assert(get(store, "b") != 0 && strcmp(seen.texts[0], "again") == 0);
        closed(store);
    }
}

static void damage_in_the_middle_is_refused_and_nothing_is_cut(void) {
    static unsigned char bytes[4096], again[4096];
    void *store = opened(path_of("damaged"));
    assert(put(store, "a", 0, "one") == STORAGE_OK && put(store, "b", 0, "two") == STORAGE_OK);
    closed(store);
    size_t length = read_file(path_of("damaged/log"), bytes, sizeof bytes);
    for (size_t at = 0; at < length / 2; at++) {
        bytes[at] ^= 1;
        write_file(path_of("damaged/log"), bytes, length);
        assert(open_at(path_of("damaged"), 0, 0, &store) == STORAGE_CONFIGURATION);
        assert(strstr(seen.message, "damaged at byte 0") != NULL);
        assert(read_file(path_of("damaged/log"), again, sizeof again) == length && memcmp(bytes, again, length) == 0);
        bytes[at] ^= 1;
    }
}

static void garbage_is_compacted_away(void) {
    void *store = opened(path_of("garbage"));
    char id[16];
    uint64_t most = 0;
    for (unsigned round = 0; round < 200; round++) {
        for (unsigned number = 0; number < 10; number++) {
            (void)snprintf(id, sizeof id, "e-%u", number);
            assert(put(store, id, get(store, id), "a document of some length") == STORAGE_OK);
            uint64_t bytes = (uint64_t)log_bytes(store);
            most = bytes > most ? bytes : most;
        }
    }
    assert(most < 3 * 4096 && scan(store, "", MOST) == 10);
    for (unsigned number = 1; number < 10; number++) {
        (void)snprintf(id, sizeof id, "e-%u", number);
        assert(drop(store, id, get(store, id)) == STORAGE_OK);
    }
    closed(store);
    write_file(path_of("garbage/log.new"), (const unsigned char *)"left by a crash", 15);
    store = opened(path_of("garbage"));
    assert(scan(store, "", MOST) == 1 && strcmp(seen.texts[0], "e-0") == 0 && get(store, "e-0") > 1990);
    assert(access(path_of("garbage/log.new"), F_OK) != 0);
    closed(store);
}

static void an_instance_is_for_one_process_and_reading_makes_nothing(void) {
    void *store = opened(path_of("one")), *other = NULL;
    assert(open_at(path_of("one"), 0, 0, &other) == STORAGE_CONFIGURATION && strstr(seen.message, "another process"));
    assert(open_at(path_of("one"), STORAGE_READ_ONLY, 0, &other) == STORAGE_CONFIGURATION);
    closed(store);
    assert(open_at(path_of("one"), STORAGE_READ_ONLY, 0, &store) == STORAGE_OK);
    assert(open_at(path_of("one"), STORAGE_READ_ONLY, 0, &other) == STORAGE_OK);
    closed(store);
    closed(other);
    assert(open_at(path_of("none"), STORAGE_READ_ONLY, 0, &store) == STORAGE_CONFIGURATION);
    assert(strstr(seen.message, "nothing is stored") && access(path_of("none"), F_OK) != 0);
    assert(open_at(path_of("no/parent"), 0, 0, &store) == STORAGE_CONFIGURATION);
}

/* A disk that is full, by a limit of this process. */
static void a_write_that_fails_changes_nothing(void) {
    void *store = opened(path_of("full"));
    assert(put(store, "a", 0, "one") == STORAGE_OK);
    uint64_t version = get(store, "a");
    struct rlimit limit = {(rlim_t)log_bytes(store) + 10, RLIM_INFINITY};
    assert(signal(SIGXFSZ, SIG_IGN) != SIG_ERR && setrlimit(RLIMIT_FSIZE, &limit) == 0);
    assert(put(store, "a", version, "two") == STORAGE_UNAVAILABLE && strstr(seen.message, "cannot write to the log"));
    assert(get(store, "a") == version && strcmp(seen.texts[0], "one") == 0);
    limit.rlim_cur = RLIM_INFINITY;
    assert(setrlimit(RLIMIT_FSIZE, &limit) == 0 && put(store, "a", version, "three") == STORAGE_OK);
    closed(store);
    store = opened(path_of("full"));
    assert(get(store, "a") > version && strcmp(seen.texts[0], "three") == 0);
    closed(store);
}

/* Made-up calls, each answered as by an array. */
static void a_model_agrees(void) {
    enum { IDS = 40 };
    char kept[IDS][16] = {{0}};
    char id[16];
    unsigned random = 12345;
    void *store = opened(path_of("model"));
    for (unsigned step = 0; step < 6000; step++) {
        random = random * 1103515245u + 12345u;
        unsigned number = (random >> 16) % IDS, what = (random >> 8) % 16;
        (void)snprintf(id, sizeof id, "e-%02u", number);
        uint64_t version = get(store, id);
        assert((version != 0) == (kept[number][0] != 0) && strcmp(seen.texts[0], kept[number]) == 0);
        if (what < 10) {
            char bytes[16];
            (void)snprintf(bytes, sizeof bytes, "step %u", step);
            assert(put(store, id, version, bytes) == STORAGE_OK);
            memcpy(kept[number], bytes, sizeof bytes);
        } else if (version != 0) {
            assert(drop(store, id, version) == STORAGE_OK);
            kept[number][0] = 0;
        }
        if (step % 500 == 499) {
            closed(store);
            store = opened(path_of("model"));
        }
        size_t expected = 0;
        for (unsigned i = 0; i < IDS; i++) expected += kept[i][0] != 0;
        assert(scan(store, "", MOST) == expected);
    }
    closed(store);
}

static void check_finds_what_is_wrong(void) {
    storage_value values[] = {{1, 0, 0, text("")}, {1, 0, -1, text("")}};
    storage_description description = {sizeof description, CLOG->flags, CLOG->parallel_calls};
    assert(CLOG->check(new_call(), values, &description) == STORAGE_OK && seen.problems == 2);
}

static void remove_all(void) {
    static const char *const names[] = {"versions", "twice", "pages", "torn", "damaged", "garbage", "one", "full", "model"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        for (const char *const *file = (const char *const[]){"log", "lock", NULL}; *file != NULL; file++) {
            (void)snprintf(path, sizeof path, "%s/%s/%s", top, names[i], *file);
            (void)unlink(path);
        }
        assert(rmdir(path_of(names[i])) == 0);
    }
    assert(rmdir(top) == 0);
}

int main(void) {
    assert(mkdtemp(top) != NULL);
    documents_are_kept_by_version();
    an_id_that_stands_twice_in_a_write_conflicts();
    pages_are_in_order();
    a_torn_write_is_cut_off();
    damage_in_the_middle_is_refused_and_nothing_is_cut();
    garbage_is_compacted_away();
    an_instance_is_for_one_process_and_reading_makes_nothing();
    a_write_that_fails_changes_nothing();
    a_model_agrees();
    check_finds_what_is_wrong();
    remove_all();
    puts("all is well");
    return 0;
}
