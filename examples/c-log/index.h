/* What is stored, by id, in the order of the bytes of the ids: a skip list (Pugh, 1990) in memory. */
#ifndef CLOG_INDEX_H
#define CLOG_INDEX_H

#include <stddef.h>
#include <stdint.h>

#define INDEX_LEVELS 24 /* Enough for 2^24 documents; more are only found more slowly. */

/* A document, and where the log has it. */
typedef struct index_node {
    char *id;
    size_t id_length;
    uint64_t version;
    uint64_t offset; /* Of its bytes in the log. */
    uint64_t moved;  /* The same in the log that is being written in its place. */
    uint32_t length;
    uint32_t levels;
    struct index_node *next[]; /* As many as `levels`; next[0] is the one behind. */
} index_node;

typedef struct index_list {
    index_node *first[INDEX_LEVELS];
    uint64_t random;
    uint64_t count;
} index_list;

void index_init(index_list *list);
void index_free(index_list *list);
/* NULL if there is none. */
index_node *index_find(index_list *list, const char *id, size_t id_length);
/* The first one behind an id, which need not be there; NULL if there is none. */
index_node *index_behind(index_list *list, const char *id, size_t id_length);
/* The one of an id, made if there was none, with version 0; NULL if there is no memory. */
index_node *index_insert(index_list *list, const char *id, size_t id_length);
void index_remove(index_list *list, const char *id, size_t id_length);

#endif
