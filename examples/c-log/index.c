#include "index.h"

#include <stdlib.h>
#include <string.h>

void index_init(index_list *list) {
    memset(list, 0, sizeof *list);
    list->random = UINT64_C(0x9e3779b97f4a7c15);
}

void index_free(index_list *list) {
    index_node *node = list->first[0];
    while (node != NULL) {
        index_node *next = node->next[0];
        free(node->id);
        free(node);
        node = next;
    }
    index_init(list);
}

static int compare(const index_node *node, const char *id, size_t id_length) {
    size_t shared = node->id_length < id_length ? node->id_length : id_length;
    int order = memcmp(node->id, id, shared);
    return order != 0 ? order : (node->id_length > id_length) - (node->id_length < id_length);
}

/* The node of an id, or the one behind its place. `links` gets, for each level, the pointer that leads to there. */
static index_node *search(index_list *list, const char *id, size_t id_length, index_node **links[INDEX_LEVELS]) {
    index_node **next = list->first;
    for (size_t level = INDEX_LEVELS; level-- > 0;) {
        while (next[level] != NULL && compare(next[level], id, id_length) < 0) next = next[level]->next;
        links[level] = &next[level];
    }
    return *links[0];
}

index_node *index_find(index_list *list, const char *id, size_t id_length) {
    index_node **links[INDEX_LEVELS];
    index_node *node = search(list, id, id_length, links);
    return node != NULL && compare(node, id, id_length) == 0 ? node : NULL;
}

index_node *index_behind(index_list *list, const char *id, size_t id_length) {
    index_node **links[INDEX_LEVELS];
    index_node *node = search(list, id, id_length, links);
    return node != NULL && compare(node, id, id_length) == 0 ? node->next[0] : node;
}

/* Half of the nodes have one level, a quarter two, and so on (xorshift64). */
static uint32_t random_levels(index_list *list) {
    list->random ^= list->random << 13;
    list->random ^= list->random >> 7;
    list->random ^= list->random << 17;
    uint32_t levels = 1;
    for (uint64_t bits = list->random; (bits & 1) != 0 && levels < INDEX_LEVELS; bits >>= 1) levels++;
    return levels;
}

index_node *index_insert(index_list *list, const char *id, size_t id_length) {
    index_node **links[INDEX_LEVELS];
    index_node *found = search(list, id, id_length, links);
    if (found != NULL && compare(found, id, id_length) == 0) return found;
    uint32_t levels = random_levels(list);
    index_node *node = calloc(1, sizeof *node + levels * sizeof node->next[0]);
    char *copy = malloc(id_length + 1);
    if (node == NULL || copy == NULL) {
        free(node);
        free(copy);
        return NULL;
    }
    memcpy(copy, id, id_length);
    copy[id_length] = '\0';
    node->id = copy;
    node->id_length = id_length;
    node->levels = levels;
    for (uint32_t level = 0; level < levels; level++) {
        node->next[level] = *links[level];
        *links[level] = node;
    }
    list->count++;
    return node;
}

void index_remove(index_list *list, const char *id, size_t id_length) {
    index_node **links[INDEX_LEVELS];
    index_node *node = search(list, id, id_length, links);
    if (node == NULL || compare(node, id, id_length) != 0) return;
    for (uint32_t level = 0; level < node->levels; level++) *links[level] = node->next[level];
    free(node->id);
    free(node);
    list->count--;
}
