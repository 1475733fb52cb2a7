//! Lists: orders, filters, cursors.

use storage_plugin_api::{ErrorKind, Order};

use super::*;
use crate::list::{self, Place};

#[test]
fn lists_go_in_both_orders_and_filter() {
    let store = filled();

    for limit in [1, 4, 30, 100] {
        let by_id = ids(&store, &Query { limit, ..Query::default() });
        assert_eq!(by_id, (0..30).map(|number| format!("e-{number:02}")).collect::<Vec<_>>());
        let newest = ids(&store, &Query { limit, order: Order::NewestFirst, ..Query::default() });
        assert_eq!(newest, (0..30).rev().map(|number| format!("e-{:02}", number * 7 % 30)).collect::<Vec<_>>());
    }
    for order in [Order::Id, Order::NewestFirst] {
        let count = |query: Query| ids(&store, &Query { limit: 4, order, ..query }).len();
        let (completed, ruby) = (Some("completed".to_owned()), Some("ruby".to_owned()));
        let (since, until) = (Some(10 * SECOND), Some(20 * SECOND));
        assert_eq!(count(Query { status: completed.clone(), ..Query::default() }), 10);
        assert_eq!(count(Query { language: ruby.clone(), ..Query::default() }), 15);
        assert_eq!(count(Query { status: completed.clone(), language: ruby.clone(), ..Query::default() }), 5);
        assert_eq!(count(Query { since, until, ..Query::default() }), 10);
        assert_eq!(count(Query { since, until, status: completed, ..Query::default() }), 3);
        assert_eq!(count(Query { since, until, language: ruby, ..Query::default() }), 5);
        assert_eq!(count(Query { status: Some("no such status".to_owned()), ..Query::default() }), 0);
    }
}

#[test]
fn those_of_one_time_are_in_descending_order_of_their_ids() {
    let store = store();
    for id in ["b", "a", "d", "c"] {
        merge(&store, id, &event("q", 7, Status::Queued));
    }

    for limit in [1, 3] {
        let newest = ids(&store, &Query { limit, order: Order::NewestFirst, ..Query::default() });
        assert_eq!(newest, ["d", "c", "b", "a"]);
    }
}

#[test]
fn a_list_by_id_sees_each_once_while_others_merge() {
    let store = filled();
    let mut query = Query { limit: 3, ..Query::default() };
    let mut seen = Vec::new();

    for round in 0.. {
        let page = store.list(&call(), &query).expect("listed");
        seen.extend(page.entries.into_iter().map(|(id, _)| id));
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            break;
        }
        merge(&store, &format!("a-{round}"), &event("q", 1, Status::Queued));
        merge(&store, &format!("e-{:02}", 29 - round), &event("c", -round, Status::Failed));
    }

    assert_eq!(seen, (0..30).map(|number| format!("e-{number:02}")).collect::<Vec<_>>());
}

/// A filter that matches little is not found out within one call: the pages go on from where each stopped.
#[test]
fn a_page_ends_when_its_time_is_over_and_the_next_goes_on() {
    let store = store();
    let queued = event("q", 1, Status::Queued);
    let stored: Vec<String> = (0..1000).map(|number| format!("e-{number:04}")).collect();
    let batch: Vec<(&str, &State)> = stored.iter().map(|id| (&**id, &queued)).collect();
    try_merge(&store, &call(), &batch).expect("merged");
    merge(&store, "e-0999", &event("c", 2, Status::Completed));
    let mut query = Query { limit: 10, status: Some("completed".to_owned()), ..Query::default() };
    let mut found = Vec::new();
    let mut pages = 0;

    loop {
        let place = Place::of(&query).expect("a cursor of ours");
        let page = store.read(&call(), |connection| list::page(connection, &query, place.as_ref(), Instant::now()));
        let page = page.expect("listed");
        found.extend(page.entries.into_iter().map(|(id, _)| id));
        pages += 1;
        query.cursor = page.cursor;
        if query.cursor.is_none() {
            break;
        }
    }

    assert_eq!(found, ["e-0999"]);
    assert!(pages > 10, "{pages}");
}

#[test]
fn a_page_of_large_states_ends_early() {
    let store = store();
    let mut large = event("c", 1, Status::Completed);
    large.set_text(&EventStamp::new(1, "c"), "completed/error", "x".repeat(15 << 20));
    for id in ["a", "b", "c", "d"] {
        merge(&store, id, &large);
    }

    let page = store.list(&call(), &Query { limit: 100, ..Query::default() }).expect("listed");

    assert_eq!(page.entries.len(), 3);
    assert_eq!(ids(&store, &Query { limit: 100, ..Query::default() }), ["a", "b", "c", "d"]);
}

#[test]
fn a_cursor_of_another_list_is_refused() {
    let store = filled();
    for (cursor, order) in
        [("id:a", Order::NewestFirst), ("created:1:a", Order::Id), ("created:x:a", Order::NewestFirst)]
    {
        let query = Query { cursor: Some(cursor.to_owned()), order, limit: 1, ..Query::default() };

        let error = store.list(&call(), &query).expect_err("refused");

        assert_eq!(error.kind, ErrorKind::Configuration);
        assert!(error.message.contains(cursor), "{error}");
    }
}

#[test]
fn without_bodies_there_are_references() {
    let store = filled();
    let query = Query { limit: 1, fields: Fields::WithoutBodies, ..Query::default() };

    let listed = store.list(&call(), &query).expect("listed").entries.remove(0).1;
    let read = store.get(&call(), &["e-00"], Fields::WithoutBodies).expect("read").remove(0).expect("stored");

    for found in [listed, read] {
        let code = found.state.get(names::CODE).and_then(|code| code.value.as_body().cloned()).expect("code");
        assert_eq!(code.as_text(), None);
        assert_eq!(code.characters(), "code of q".len() as u64);
    }
}
