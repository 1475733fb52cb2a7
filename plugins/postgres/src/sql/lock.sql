-- States of ids, locked in the order of their bytes. The lock lets rows that refer to an evaluation be written meanwhile.
SELECT id, state FROM {evaluations} WHERE id = ANY($1) ORDER BY {id} FOR NO KEY UPDATE
