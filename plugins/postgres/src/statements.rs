//! Every statement about evaluations but that of a list, with the types of its parameters. The SQL is in `sql/`.
//!
//! What writes rows takes an array for each column and unnests them side by side in a select list. As functions in `FROM`
//! they would all be stored at the server before the first row is made, which took a tenth of the time of a merge.

use tokio_postgres::types::Type;

use crate::tables::{Query, Tables};

/// The columns of `insert.sql` and `update.sql`, in the order of the parameters.
const ROW: [Type; 20] = [
    Type::VARCHAR_ARRAY,
    Type::VARCHAR_ARRAY,
    Type::VARCHAR_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::VARCHAR_ARRAY,
    Type::INT4_ARRAY,
    Type::INT4_ARRAY,
    Type::INT4_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::TEXT_ARRAY,
    Type::INT8_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
    Type::BYTEA_ARRAY,
    Type::INT4_ARRAY,
];
/// A line of the history.
const LINE: [Type; 6] = [
    Type::VARCHAR_ARRAY,
    Type::TEXT_ARRAY,
    Type::TIMESTAMPTZ_ARRAY,
    Type::VARCHAR_ARRAY,
    Type::TEXT_ARRAY,
    Type::TEXT_ARRAY,
];
const IDS: [Type; 1] = [Type::VARCHAR_ARRAY];
const NAMES: [Type; 2] = [Type::VARCHAR_ARRAY, Type::TEXT_ARRAY];
const BODIES: [Type; 3] = [Type::VARCHAR_ARRAY, Type::TEXT_ARRAY, Type::TEXT_ARRAY];

/// The statements, for tables of some names. What each does stands in its file.
#[derive(Debug)]
pub(crate) struct Statements {
    pub(crate) lock: Query,
    pub(crate) insert: Query,
    pub(crate) update: Query,
    pub(crate) insert_history: Query,
    pub(crate) delete_history: Query,
    pub(crate) move_aside: Query,
    pub(crate) insert_aside: Query,
    pub(crate) take_back: Query,
    pub(crate) delete_aside: Query,
    pub(crate) get_states: Query,
    pub(crate) get_whole: Query,
    pub(crate) get_aside: Query,
    pub(crate) get_adopted: Query,
    pub(crate) get_adopted_history: Query,
    pub(crate) get_adopted_ends: Query,
    pub(crate) lock_to_delete: Query,
    pub(crate) delete: Query,
    pub(crate) ended: Query,
    pub(crate) adopted_ended: Query,
    pub(crate) prune: Query,
    pub(crate) counts: Query,
}

/// The statement of a file.
macro_rules! query {
    ($tables:expr, $name:literal, $types:expr) => {
        $tables.query(include_str!(concat!("sql/", $name, ".sql")), &$types)
    };
}

impl Statements {
    pub(crate) fn new(tables: &Tables) -> Self {
        Self {
            lock: query!(tables, "lock", IDS),
            insert: query!(tables, "insert", [&ROW[..], &LINE].concat()),
            update: query!(tables, "update", ROW),
            insert_history: query!(tables, "insert_history", LINE),
            delete_history: query!(tables, "delete_history", NAMES),
            move_aside: query!(tables, "move_aside", BODIES),
            insert_aside: query!(tables, "insert_aside", BODIES),
            take_back: query!(tables, "take_back", [&NAMES[..], &[Type::TEXT]].concat()),
            delete_aside: query!(tables, "delete_aside", NAMES),
            get_states: query!(tables, "get_states", IDS),
            get_whole: query!(tables, "get_whole", IDS),
            get_aside: query!(tables, "get_aside", IDS),
            get_adopted: query!(tables, "get_adopted", IDS),
            get_adopted_history: query!(tables, "get_adopted_history", IDS),
            get_adopted_ends: query!(tables, "get_adopted_ends", IDS),
            lock_to_delete: query!(tables, "lock_to_delete", IDS),
            delete: query!(tables, "delete", IDS),
            ended: query!(tables, "ended", [Type::TIMESTAMPTZ, Type::INT8]),
            adopted_ended: query!(
                tables,
                "adopted_ended",
                [Type::TIMESTAMPTZ, Type::TIMESTAMPTZ, Type::TEXT, Type::INT8]
            ),
            prune: query!(tables, "prune", [Type::VARCHAR_ARRAY, Type::TIMESTAMPTZ]),
            counts: query!(tables, "counts", []),
        }
    }
}
