//! No statement looks at more rows than it must: each follows an index.

use super::*;
use crate::{blobs, list, merge, prune, read};

#[test]
fn every_statement_follows_an_index() {
    let store = filled();
    let connection = raw(store.directory.path());
    let statements: Vec<&str> =
        [&merge::STATEMENTS[..], &read::STATEMENTS, &list::STATEMENTS, &prune::STATEMENTS, &blobs::STATEMENTS].concat();
    assert_eq!(statements.len(), 20);

    for sql in statements {
        let plan = plan(&connection, sql);

        for step in &plan {
            // What a subquery found is gone through, and for a count an index, without its table.
            let may_scan = ["subquery", "CONSTANT ROW", "USING COVERING INDEX evaluations_by_status"];
            let scans = step.starts_with("SCAN") && !may_scan.iter().any(|may| step.contains(may));
            assert!(!scans && !step.contains("TEMP B-TREE"), "{sql}\n{plan:#?}");
        }
        assert!(sql.starts_with("INSERT") || plan.iter().any(|step| step.contains("USING")), "{sql}\n{plan:#?}");
    }
}

/// The test above must find what it is there for.
#[test]
fn a_statement_without_an_index_would_be_found() {
    let store = store();
    let plan = plan(&raw(store.directory.path()), "SELECT id FROM evaluations WHERE state = '' ORDER BY language");

    assert!(plan.iter().any(|step| step.starts_with("SCAN evaluations")), "{plan:?}");
    assert!(plan.iter().any(|step| step.contains("TEMP B-TREE")), "{plan:?}");
}

fn plan(connection: &Connection, sql: &str) -> Vec<String> {
    let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).expect("the statement is whole");
    let mut rows = statement.raw_query();
    let mut plan = Vec::new();
    while let Some(row) = rows.next().expect("planned") {
        plan.push(row.get("detail").expect("a step has a detail"));
    }
    plan
}
