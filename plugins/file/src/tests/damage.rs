//! Damaged files and a lost index: said, set aside, and never taken for "nothing is stored".

use storage_plugin_api::{Delete, Deleted};

use super::*;

fn with_one(path: &Path) {
    let backend = open(path);
    merge(&backend, "a", &queued("q", START));
    merge(&backend, "b", &queued("q", START));
    backend.close(&call()).expect("closed");
}

#[test]
fn a_damaged_file_is_set_aside_and_answered_as_incomplete() {
    for damage in [&b"{\"id\": \"a\", \"code\""[..], b"", b"\xff\xfe", b"[]", b"null"] {
        let directory = directory();
        with_one(directory.path());
        std::fs::write(directory.path().join("evaluations/a.json"), damage).expect("damaged");

        let backend = open(directory.path());

        let found = get(&backend, "a").expect("never silently not found");
        assert!(found.incomplete && found.state.is_empty());
        assert!(directory.path().join("corrupt/a.json").exists());
        assert!(get(&backend, "b").is_some_and(|found| !found.incomplete));
        assert_eq!(backend.health().details["damaged_files"], 1);
    }
}

#[test]
fn what_is_no_file_in_the_place_of_one_is_set_aside() {
    let directory = directory();
    with_one(directory.path());
    let path = directory.path().join("evaluations/a.json");
    std::fs::remove_file(&path).expect("removed");
    std::fs::create_dir(&path).expect("a directory");

    let backend = open(directory.path());

    assert!(get(&backend, "a").is_some_and(|found| found.incomplete));
    merge(&backend, "a", &ended("c", START, Status::Completed));
    backend.close(&call()).expect("closed");
    assert!(path.is_file() && directory.path().join("corrupt/a.json").is_dir());
}

#[test]
fn what_is_merged_into_a_damaged_evaluation_is_kept_and_the_rest_is_still_missed() {
    let directory = directory();
    with_one(directory.path());
    let path = directory.path().join("evaluations/a.json");
    let text = std::fs::read_to_string(&path).expect("a file").replace("print(", "tnirp(");
    std::fs::write(&path, text).expect("damaged");
    let completed = ended("c", START + SECOND, Status::Completed);

    let backend = open(directory.path());
    assert_eq!(outcome(&backend, "a", &completed), Outcome::Accepted);
    assert_eq!(outcome(&backend, "a", &completed), Outcome::Unchanged);
    backend.close(&call()).expect("closed");
    drop(backend);

    let backend = open(directory.path());
    let found = get(&backend, "a").expect("stored");
    assert!(found.incomplete);
    assert_eq!(found.state.to_canonical_json(), completed.to_canonical_json());
    // As soon as somebody has taken care of the damaged file, all is well.
    std::fs::remove_file(directory.path().join("corrupt/a.json")).expect("removed");
    assert!(!get(&backend, "a").expect("stored").incomplete);
}

#[test]
fn a_damaged_evaluation_is_listed_and_can_be_deleted() {
    let directory = directory();
    with_one(directory.path());
    std::fs::write(directory.path().join("evaluations/a.json"), b"{").expect("damaged");
    let backend = open(directory.path());

    let page = backend.list(&call(), &Query { limit: 10, ..Query::default() }).expect("listed");
    assert_eq!(
        page.entries.iter().map(|(id, found)| (&**id, found.incomplete)).collect::<Vec<_>>(),
        [("a", true), ("b", false)]
    );

    let deleted = backend.delete(&call(), &[Delete { id: "a", digest: None }]).expect("deleted");
    assert_eq!(deleted, [Deleted::Deleted]);
    assert!(get(&backend, "a").is_none());
    assert!(!directory.path().join("corrupt/a.json").exists());
}

#[test]
fn a_file_of_a_newer_version_is_left_alone() {
    let directory = directory();
    with_one(directory.path());
    let path = directory.path().join("evaluations/a.json");
    let newer = std::fs::read_to_string(&path).expect("a file").replace("\"format\":1", "\"format\":2");
    std::fs::write(&path, &newer).expect("written");

    let backend = open(directory.path());
    let answer = merge(&backend, "a", &ended("c", START, Status::Completed));

    assert!(matches!(&answer.outcome, Outcome::Rejected(error) if error.message.contains("a.json")), "{answer:?}");
    assert!(get(&backend, "a").expect("never silently not found").incomplete);
    backend.close(&call()).expect("closed");
    drop(backend);
    open(directory.path()).close(&call()).expect("closed");
    assert_eq!(std::fs::read_to_string(&path).expect("a file"), newer);
}

#[test]
fn a_lost_or_damaged_index_is_made_anew() {
    for damage in [None, Some(&b"garbage"[..]), Some(&[0; 8192])] {
        let directory = directory();
        with_one(directory.path());
        let path = directory.path().join("index.redb");
        match damage {
            None => std::fs::remove_file(&path).expect("removed"),
            Some(bytes) => std::fs::write(&path, bytes).expect("damaged"),
        }
        let history = directory.path().join("events/a.json");
        std::fs::remove_file(&history).expect("removed");

        let backend = open(directory.path());

        assert_eq!(ids(&backend, &Query { limit: 1, ..Query::default() }), ["a", "b"]);
        assert_eq!(backend.counts(&call()).expect("counted").by_status, [("queued".to_owned(), 2)].into());
        eventually("a history that is missing is written", || history.exists());
    }
}

#[test]
fn files_dropped_in_or_taken_away_while_stopped_are_noticed() {
    let directory = directory();
    with_one(directory.path());
    let file = |id: &str| directory.path().join(format!("evaluations/{id}.json"));
    std::fs::copy(file("a"), file("dropped-in")).expect("copied");
    std::fs::remove_file(file("b")).expect("removed");

    let backend = open(directory.path());

    assert!(get(&backend, "dropped-in").is_some());
    eventually("the list has it", || ids(&backend, &Query { limit: 1, ..Query::default() }) == ["a", "dropped-in"]);
    // What is gone is noticed at the end of the scan, behind what is new.
    let counted = || backend.counts(&call()).expect("counted").by_status;
    eventually("the counts to fit", || counted() == [("queued".to_owned(), 2)].into());
}

#[test]
fn a_file_dropped_in_while_running_is_noticed_too() {
    let directory = directory();
    with_one(directory.path());
    let backend = open(directory.path());
    let file = |id: &str| directory.path().join(format!("evaluations/{id}.json"));
    std::fs::copy(file("a"), file("dropped-in")).expect("copied");

    // The next checkpoint sees that the directory changed.
    merge(&backend, "c", &queued("q", START));

    eventually("the list has it", || {
        ids(&backend, &Query { limit: 9, ..Query::default() }) == ["a", "b", "c", "dropped-in"]
    });
}
