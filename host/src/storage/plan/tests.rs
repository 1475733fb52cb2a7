//! What fits together, and how what does not is told.

use serde_json::json;

use super::*;
use crate::storage::config::Guarantee;
use crate::storage::testing::{Configured, TestPlugins, backends, quick};

fn plan(of: &[Configured<'_>]) -> Result<Plan, Problems> {
    Plan::of(&quick(), &backends(of), &TestPlugins::default())
}

#[track_caller]
fn assert_problem(of: &[Configured<'_>], path: &[&str], expected: &str) {
    let problems = plan(of).expect_err("something is wrong").0;
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0].path, path);
    assert!(problems[0].message.contains(expected), "{}", problems[0].message);
}

#[test]
fn children_stand_before_their_layers() {
    let plan = plan(&[
        ("root", "layer", &[("primary", &["b"]), ("cache", &["hot"]), ("shadow", &["d"])], json!({})),
        ("b", "layer", &[("primary", &["c"])], json!({})),
        ("d", "store", &[], json!({ "durable": true })),
        ("c", "store", &[], json!({ "durable": true })),
        ("hot", "store", &[], json!({ "evicting": true })),
        ("spare", "store", &[], json!({})),
    ]);

    let plan = plan.expect("all fits");
    let names: Vec<&str> = plan.nodes.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["c", "b", "hot", "d", "root"]);
    assert!(plan.capabilities().durable);
}

#[test]
fn states_and_blobs_of_a_layer_may_be_in_one_exclusive_backend() {
    let both: &[(&str, &[&str])] = &[("primary", &["s"]), ("blobs", &["s"])];
    let of = |layer| [layer, ("s", "store", &[][..], json!({ "exclusive": true, "blobs": true }))];

    assert!(plan(&of(("root", "layer", both, json!({})))).is_ok());

    let other = ("root", "layer", &[("shadow", &["s", "s"][..]), ("blobs", &["s"])][..], json!({}));
    assert!(plan(&of(other)).is_err());
}

/// Another worker's collection does not see what a fallback holds.
#[test]
fn a_fallback_below_a_layer_that_collects_blobs_is_noted() {
    let stores: [Configured<'_>; 3] = [
        ("a", "store", &[], json!({ "blobs": true })),
        ("b", "store", &[], json!({ "durable": true })),
        ("c", "store", &[], json!({ "blobs": true })),
    ];
    let noted = |layers: [Configured<'_>; 2]| {
        let plan = plan(&[&layers[..], &stores].concat()).expect("all fits");
        plan.nodes.iter().any(|node| node.description.notes.iter().any(|note| note.contains("`low` may keep")))
    };

    assert!(noted([
        ("root", "layer", &[("primary", &["low"]), ("blobs", &["c"])], json!({})),
        ("low", "layer", &[("primary", &["a"]), ("fallback", &["b"])], json!({})),
    ]));
    assert!(!noted([
        ("root", "layer", &[("primary", &["low"]), ("fallback", &["b"])], json!({})),
        ("low", "blobs_layer", &[("primary", &["a"]), ("blobs", &["c"])], json!({})),
    ]));
}

#[test]
fn every_misfit_is_named_with_its_place() {
    let store = |options| ("s", "store", &[][..], options);
    assert_problem(
        &[("root", "layer", &[("primry", &["s"]), ("primary", &["s"])], json!({})), store(json!({}))],
        &["backends", "root", "children", "primry"],
        "no role `primry`; did you mean `primary`?",
    );
    assert_problem(
        &[("root", "layer", &[("shadow", &["s"])], json!({})), store(json!({}))],
        &["backends", "root", "children"],
        "cannot work without a child as `primary`",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["s", "t"])], json!({})), store(json!({})), ("t", "store", &[], json!({}))],
        &["backends", "root", "children", "primary"],
        "takes one backend, not the list `s` and `t`",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["s"])], json!({})), store(json!({ "evicting": true }))],
        &["backends", "root", "children", "primary"],
        "`s` may forget what it stored (it is evicting); it can only be `cache`",
    );
    assert_problem(
        &[
            ("root", "layer", &[("primary", &["s"]), ("cache", &["t"])], json!({})),
            store(json!({})),
            ("t", "store", &[], json!({})),
        ],
        &["backends", "root", "children", "cache"],
        "`t` never forgets",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["s"]), ("fallback", &["s"])], json!({})), store(json!({}))],
        &["backends", "root", "children", "fallback"],
        "`s` is volatile",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["s"]), ("shadow", &["s"])], json!({})), store(json!({}))],
        &["backends", "s"],
        "stands 2 times in the tree (below `root`)",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["s"]), ("blobs", &["s"])], json!({})), store(json!({}))],
        &["backends", "root", "children", "blobs"],
        "`s` keeps no blobs; name a backend that does",
    );
    let alone = || store(json!({ "blobs": true, "blobs_alone": true }));
    assert_problem(
        &[("root", "layer", &[("primary", &["s"])], json!({})), alone()],
        &["backends", "root", "children", "primary"],
        "`s` keeps blobs alone; it can only be `blobs`",
    );
    assert_problem(
        &[("root", "store", &[], json!({ "blobs": true, "blobs_alone": true }))],
        &["storage", "backend"],
        "keeps blobs alone, so it can only be below a layer",
    );
    assert_problem(
        &[("root", "store", &[("primary", &["s"])], json!({})), store(json!({}))],
        &["backends", "root", "children", "primary"],
        "it stores by itself; remove `children`",
    );
    assert_problem(
        &[("root", "store", &[], json!({ "evicting": true }))],
        &["storage", "backend"],
        "it can only be the cache of a layer",
    );
    assert_problem(
        &[("root", "store", &[], json!({ "problem": "`path` is empty" }))],
        &["backends", "root", "options"],
        "`backends.root.options`: `path` is empty",
    );
    assert_problem(
        &[("root", "store", &[], json!({ "panic_in_check": true }))],
        &["backends", "root", "plugin"],
        "plugin `store` 1.2.3 panicked when asked about its options: no idea",
    );
    assert_problem(
        &[("root", "stor", &[], json!({}))],
        &["backends", "root", "plugin"],
        "`backends.root`: there is no plugin `stor`; found `layer` and `store`",
    );
}

#[test]
fn names_and_circles_are_found_without_the_configurations_own_check() {
    assert_problem(
        &[("root", "layer", &[("primary", &["root"])], json!({}))],
        &["backends", "root", "children", "primary"],
        "go round in a circle",
    );
    assert_problem(
        &[("root", "layer", &[("primary", &["z"])], json!({}))],
        &["backends", "root", "children", "primary"],
        "unknown child `z`",
    );
}

#[test]
fn all_problems_are_reported_together() {
    let problems = plan(&[
        ("root", "layer", &[("primary", &["a"]), ("shadow", &["b"])], json!({})),
        ("a", "nope", &[], json!({})),
        ("b", "store", &[], json!({ "problem": "`size` is odd" })),
    ]);

    let problems = problems.expect_err("two things are wrong");
    assert_eq!(problems.0.len(), 2, "{problems}");
    assert_eq!(problems.to_string().lines().count(), 2);
}

#[test]
fn a_tree_weaker_than_its_guarantee_is_refused_by_the_backend_at_fault() {
    let config = Config { guarantee: Some(Guarantee::Durable), ..quick() };
    let backends = backends(&[
        ("root", "layer", &[("primary", &["a"]), ("shadow", &["b"]), ("cache", &["hot"])], json!({})),
        ("a", "store", &[], json!({ "durable": true })),
        ("b", "store", &[], json!({})),
        ("hot", "store", &[], json!({ "evicting": true })),
    ]);

    let problems = Plan::of(&config, &backends, &TestPlugins::default()).expect_err("b is volatile");

    assert_eq!(problems.0[0].path, ["storage", "guarantee"]);
    assert!(problems.to_string().contains("a crash may lose what `b` holds"), "{problems}");
}
