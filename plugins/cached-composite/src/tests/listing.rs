//! Lists and counts while the fallback holds something.

use storage_plugin_api::{Backend, ErrorKind, Order, Query, Status};

use super::{Tree, With, call, event};

/// Every second evaluation is in the primary, every third in the fallback, which cannot be merged back yet.
fn half_moved() -> Tree {
    let tree = Tree::new(With::Both);
    for number in (0..700).step_by(2) {
        tree.merge(&format!("e-{number:03}"), &event(1000 + number, Status::Queued));
    }
    tree.primary.go_away();
    for number in (0..700).step_by(3) {
        tree.merge(&format!("e-{number:03}"), &event(2000 - number, Status::Completed));
    }
    tree.primary.before(|call| match call {
        "merge" => Err(storage_plugin_api::Error::unavailable("read-only")),
        _ => Ok(()),
    });
    tree
}

fn all(tree: &Tree, query: &Query, mut between: impl FnMut(usize)) -> Vec<String> {
    let mut ids = Vec::new();
    let mut cursor = None;
    for page in 0.. {
        let found = tree.composite.list(&call(), &Query { cursor, ..query.clone() }).expect("listed");
        assert!(found.entries.len() <= query.limit);
        ids.extend(found.entries.into_iter().map(|(id, _)| id));
        cursor = found.cursor;
        if cursor.is_none() {
            break;
        }
        between(page);
    }
    ids
}

fn expected(is_wanted: impl Fn(i64) -> bool) -> Vec<String> {
    (0..700)
        .filter(|number| (number % 2 == 0 || number % 3 == 0) && is_wanted(*number))
        .map(|number| format!("e-{number:03}"))
        .collect()
}

#[test]
fn a_list_by_id_has_what_is_in_either_once_and_joined() {
    let tree = half_moved();

    for limit in [7, 100, 1000] {
        let query = Query { limit, ..Query::default() };
        assert_eq!(all(&tree, &query, |_| ()), expected(|_| true));
        let completed = Query { status: Some("completed".to_owned()), ..query.clone() };
        assert_eq!(all(&tree, &completed, |_| ()), expected(|number| number % 3 == 0));
        let queued = Query { status: Some("queued".to_owned()), ..query };
        assert_eq!(all(&tree, &queued, |_| ()), expected(|number| number % 3 != 0));
    }
}

#[test]
fn a_list_by_id_sees_each_once_while_the_fallback_is_merged_back() {
    for come_back_at in [0, 3, 20] {
        let tree = half_moved();
        let query = Query { limit: 9, ..Query::default() };

        let ids = all(&tree, &query, |page| {
            if page == come_back_at {
                tree.primary.come_back();
            }
            if page == come_back_at + 2 {
                tree.wait_until_caught_up();
            }
        });

        assert_eq!(ids, expected(|_| true));
    }
}

#[test]
fn newest_first_a_joined_state_stands_at_its_earliest_event() {
    let tree = half_moved();

    let query = Query { limit: 11, order: Order::NewestFirst, ..Query::default() };
    let ids = all(&tree, &query, |_| ());

    let created = |number: i64| match (number % 2, number % 3) {
        (0, 0) => (1000 + number).min(2000 - number),
        (0, _) => 1000 + number,
        _ => 2000 - number,
    };
    let mut order: Vec<i64> = (0..700).filter(|number| number % 2 == 0 || number % 3 == 0).collect();
    order.sort_by_key(|number| std::cmp::Reverse((created(*number), *number)));
    let expected: Vec<String> = order.into_iter().map(|number| format!("e-{number:03}")).collect();
    assert_eq!(ids, expected);
}

#[test]
fn counts_are_of_the_joined_states() {
    let tree = half_moved();

    let counts = tree.composite.counts(&call()).expect("counted").by_status;

    let of = |is_wanted: fn(i64) -> bool| expected(is_wanted).len() as u64;
    assert_eq!(counts["completed"], of(|number| number % 3 == 0));
    assert_eq!(counts["queued"], of(|number| number % 3 != 0));
}

#[test]
fn without_the_primary_there_is_no_list() {
    let tree = half_moved();
    tree.primary.go_away();

    let error = tree.composite.list(&call(), &Query { limit: 1, ..Query::default() }).expect_err("a part is missing");

    assert_eq!(error.kind, ErrorKind::Unavailable);
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let tree = Tree::new(With::Fallback);

    let query = Query { limit: 1, cursor: Some("id:e".to_owned()), ..Query::default() };

    assert_eq!(tree.composite.list(&call(), &query).expect_err("refused").kind, ErrorKind::Configuration);
}
