//! What the host makes of a document store when others write at the same time, a document is damaged, or time runs out.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use storage_plugin_api::{
    Backend, Call, Delete, Deleted, Document, DocumentBackend, DocumentStore, Durability, EventStamp, Fields, Health,
    Order, Outcome, Put, PutAnswer, Query, Result, Scan, ScanPage, State, Status, with_items,
};

/// Documents in a map, and somebody else who writes as often as he is told.
#[derive(Default)]
struct Shelf {
    documents: Mutex<BTreeMap<String, Document>>,
    /// What happens to a document between its being read and its being deleted, one after the other.
    meanwhile: Mutex<Vec<Meanwhile>>,
    /// How long a page takes.
    page_time: Duration,
}

#[derive(Clone)]
enum Meanwhile {
    Rewritten,
    Changed(State),
    Removed,
}

impl Shelf {
    fn keep(&self, id: &str, bytes: &[u8]) {
        let mut documents = self.documents.lock().expect("not poisoned");
        let version = documents.get(id).map_or(0, |document| document.version) + 1;
        documents.insert(id.to_owned(), Document { version, bytes: bytes.to_vec() });
    }

    fn has(&self, id: &str) -> bool {
        self.documents.lock().expect("not poisoned").contains_key(id)
    }

    fn somebody_else(&self, id: &str) {
        let Some(meanwhile) = self.meanwhile.lock().expect("not poisoned").pop() else { return };
        match meanwhile {
            Meanwhile::Rewritten => {
                let bytes = self.documents.lock().expect("not poisoned")[id].bytes.clone();
                self.keep(id, &bytes);
            }
            Meanwhile::Changed(state) => self.keep(id, state.to_canonical_json().as_bytes()),
            Meanwhile::Removed => drop(self.documents.lock().expect("not poisoned").remove(id)),
        }
    }
}

impl DocumentStore for Shelf {
    fn get(&self, _: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let documents = self.documents.lock().expect("not poisoned");
        Ok(ids.iter().map(|id| documents.get(*id).cloned()).collect())
    }

    fn put(&self, _: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        puts.iter().for_each(|put| self.keep(put.id, put.bytes));
        Ok(vec![PutAnswer::Done; puts.len()])
    }

    fn scan(&self, _: &Call, scan: &Scan) -> Result<ScanPage> {
        std::thread::sleep(self.page_time);
        let documents = self.documents.lock().expect("not poisoned");
        let behind = (Bound::Excluded(scan.after.as_str()), Bound::Unbounded);
        let mut rest = documents.range::<str, _>(behind).map(|(id, document)| (id.clone(), document.clone()));
        let documents = rest.by_ref().take(scan.limit).collect();
        Ok(ScanPage { documents, more: rest.next().is_some() })
    }

    fn delete(&self, _: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let delete_one = |(id, version): &(&str, u64)| {
            self.somebody_else(id);
            let mut documents = self.documents.lock().expect("not poisoned");
            if documents.get(*id).map(|document| document.version) != Some(*version) {
                return PutAnswer::Conflict;
            }
            documents.remove(*id);
            PutAnswer::Done
        };
        Ok(deletes.iter().map(delete_one).collect())
    }

    fn health(&self) -> Health {
        Health::healthy()
    }

    fn flush(&self, _: &Call) -> Result<()> {
        Ok(())
    }

    fn close(&self, _: &Call) -> Result<()> {
        Ok(())
    }
}

fn backend(shelf: &Arc<Shelf>) -> DocumentBackend {
    DocumentBackend::new(Arc::clone(shelf) as _, Durability::Volatile)
}

fn call() -> Call {
    Call::with_budget(Duration::from_secs(5))
}

fn state(event: &str) -> State {
    let mut state = State::new();
    state.set_open(&EventStamp::new(1, event), Status::Queued);
    state
}

fn shelf_with(ids: impl IntoIterator<Item = String>) -> Shelf {
    let shelf = Shelf::default();
    for id in ids {
        shelf.keep(&id, state("q").to_canonical_json().as_bytes());
    }
    shelf
}

fn delete_with(meanwhile: &[Meanwhile], digest: Option<&storage_plugin_api::Hash>) -> (Deleted, bool) {
    let shelf = Arc::new(shelf_with(["a".to_owned()]));
    *shelf.meanwhile.lock().expect("not poisoned") = meanwhile.iter().rev().cloned().collect();

    let deleted = backend(&shelf).delete(&call(), &[Delete { id: "a", digest }]).expect("answered").remove(0);

    (deleted, shelf.has("a"))
}

#[test]
fn a_delete_that_meets_a_write_is_tried_again() {
    let (was, is) = (state("q").digest(), state("r"));

    assert_eq!(delete_with(&[Meanwhile::Rewritten, Meanwhile::Changed(is.clone())], None), (Deleted::Deleted, false));
    assert_eq!(delete_with(&[Meanwhile::Removed], None), (Deleted::Absent, false));
    assert_eq!(delete_with(&[Meanwhile::Rewritten], Some(&was)), (Deleted::Deleted, false));
    assert_eq!(delete_with(&[Meanwhile::Changed(is)], Some(&was)), (Deleted::Differs, true));
}

#[test]
fn an_id_that_is_deleted_twice_in_a_batch_is_deleted_and_then_absent() {
    let shelf = Arc::new(shelf_with(["a".to_owned(), "b".to_owned()]));
    let delete = |id| Delete { id, digest: None };

    let deleted = backend(&shelf).delete(&call(), &[delete("a"), delete("b"), delete("a"), delete("c")]);

    assert_eq!(deleted.expect("answered"), [Deleted::Deleted, Deleted::Deleted, Deleted::Absent, Deleted::Absent]);
}

#[test]
fn a_document_that_cannot_be_read_harms_no_other_one_and_is_not_replaced() {
    let shelf = Arc::new(shelf_with(["a", "c"].map(str::to_owned)));
    shelf.keep("b", b"{");
    let backend = backend(&shelf);
    let item = state("r");

    let answers = with_items(&[("b", &item), ("c", &item)], |items| backend.merge(&call(), items)).expect("answered");
    let found = backend.get(&call(), &["a", "b", "c", "d"], Fields::Whole).expect("answered");
    let page = backend.list(&call(), &Query { limit: 10, ..Query::default() }).expect("listed");
    let counts = backend.counts(&call()).expect("counted");
    let digest = item.digest();
    let differs = backend.delete(&call(), &[Delete { id: "b", digest: Some(&digest) }]).expect("answered");

    assert!(matches!(&answers[0].outcome, Outcome::Rejected(error) if error.message.contains("document `b`")));
    assert_eq!(answers[1].outcome, Outcome::Updated);
    let incomplete: Vec<_> = found.iter().map(|found| found.as_ref().map(|found| found.incomplete)).collect();
    assert_eq!(incomplete, [Some(false), Some(true), Some(false), None]);
    let listed: Vec<_> = page.entries.iter().map(|(id, found)| (id.as_str(), found.incomplete)).collect();
    assert_eq!(listed, [("a", false), ("b", true), ("c", false)]);
    assert_eq!((counts.by_status["queued"], counts.by_status["unknown"]), (2, 1));
    assert!(matches!(&differs[..], [Deleted::Failed(error)] if error.message.contains("document `b`")), "{differs:?}");
    let deleted = backend.delete(&call(), &[Delete { id: "b", digest: None }]).expect("answered");
    assert_eq!(deleted, [Deleted::Deleted]);
}

/// Each page takes longer than the whole call has, so a scan gets no further than one page.
#[test]
fn a_scan_for_which_there_is_no_time_stops_and_the_list_goes_on_from_there() {
    let ids = (0..700).map(|number| format!("e-{number:03}"));
    let mut shelf = shelf_with(ids);
    let mut running = State::new();
    running.set_open(&EventStamp::new(1, "r"), Status::Running);
    shelf.keep("e-650", running.to_canonical_json().as_bytes());
    shelf.page_time = Duration::from_millis(3);
    let backend = backend(&Arc::new(shelf));
    let hurry = || Call::with_budget(Duration::from_millis(1));
    let mut query = Query { order: Order::Id, status: Some("running".to_owned()), limit: 5, ..Query::default() };

    let mut found = Vec::new();
    let mut pages = 0;
    loop {
        let page = backend.list(&hurry(), &query).expect("listed");
        found.extend(page.entries.into_iter().map(|(id, _)| id));
        pages += 1;
        match page.cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => break,
        }
    }

    assert_eq!((found, pages), (vec!["e-650".to_owned()], 3));
    let error = backend.counts(&hurry()).expect_err("there is no time");
    assert!(error.message.contains("256 documents up to `e-255`"), "{error}");
}
