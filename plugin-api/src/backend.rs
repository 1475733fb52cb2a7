//! The interface of a storage backend: the trait that authors implement and the host calls.
//!
//! `query.rs` has what reading asks and answers, `capabilities.rs` what a backend says of itself before it is opened.
//! Stores that only keep documents implement [`DocumentStore`](crate::DocumentStore) instead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;

pub use crate::abi::Item;
use crate::capabilities::{ChildDescription, Description};
use crate::error::{Error, Result};
use crate::model::body::Hash;
use crate::model::state::State;
use crate::model::status::Status;
use crate::query::{BlobPage, Counts, Fields, Health, Page, Prune, Pruned, Query};

/// A configured instance that stores evaluations.
///
/// Calls come from several threads at once (at most [`Capabilities::parallel_calls`](crate::Capabilities)), are
/// synchronous, and should be back before [`Call::deadline`]. What is passed in is borrowed for the call.
///
/// # Behavior
/// - Calls at the same time lose nothing of each other, on the same ids and on different ones.
/// - While what it stores in is away, a call answers `Unavailable` (or `Overloaded`) by its deadline.
/// - What the capabilities do not offer is refused as `Configuration`.
/// - No call panics, whatever ids, limits, cursors, times and keys it is given. A panic is caught all the same, and
///   answered as [`ErrorKind::Internal`](crate::ErrorKind::Internal).
///
/// `storage-worker plugin test` asks for everything that stands under *Behavior* here and at the methods.
pub trait Backend: Send + Sync + 'static {
    /// Joins states into the stored ones; the only write.
    ///
    /// # Behavior
    /// - What is stored afterwards is what [`State::merge`] makes of the stored state and the item's: whatever order events
    ///   come in, alone or joined, once or again. An id that occurs twice in a batch counts as two merges.
    /// - That holds for registers of every name, also of those that are not known yet, for references to bodies, for any
    ///   Unicode text (NUL included), for the digits of numbers, and for bodies of 16 MiB. Of a history of more than
    ///   [`MAX_HISTORY`](crate::names::MAX_HISTORY) entries the earliest are kept.
    /// - There is one answer for each item, in the items' order. A batch may be empty, and may have 10 000 items.
    /// - Ids are at most 64 letters, digits and `._:@~+-`; capitals and small letters differ. An item of any other id may
    ///   come, say an empty one or one with `/`: it is stored like others or answered `Rejected` with `InvalidItem`, and
    ///   its neighbours are taken.
    /// - `Created` is answered once for an id, `Updated` when the state changed, `Unchanged` when it did not; `Accepted`, and
    ///   no status, by a backend that does not know. A state of which nothing is known is `Unchanged`, and stores nothing.
    /// - What is answered `Durable` survives a crash of the process and of the machine from that moment on, and is there
    ///   when the place is opened again. A backend that claims `durable` answers nothing else.
    ///
    /// # Errors
    /// An error of the whole call means that nothing is known of any item; all are merged again.
    fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>>;

    /// Reads states.
    ///
    /// # Behavior
    /// - There is one answer for each id, in the ids' order; none where nothing is stored. An id may occur twice.
    /// - Bodies come only when they are asked for; [`State::without_bodies`] is what comes else.
    /// - `incomplete` says that only a part of the state could be seen, since something is away.
    /// - What was answered to a merge is seen by every read that begins afterwards.
    ///
    /// # Errors
    /// When the states cannot be read; never for an id that is not stored.
    fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>>;

    /// Reads a page of states.
    ///
    /// # Behavior
    /// - Ids are in the order of their bytes; [`Order`](crate::Order) says more.
    /// - In id order every state that is there from the first page to the last is seen exactly once, whatever else is
    ///   merged or deleted meanwhile, and whoever else lists.
    /// - Filters look at the states as they are now, not as they were when they were created.
    /// - A page has at most `limit` states; one without a cursor is the last.
    ///
    /// # Errors
    /// `Configuration` for an order that the capabilities do not name, or a cursor that this backend did not give.
    fn list(&self, call: &Call, query: &Query) -> Result<Page>;

    /// How many evaluations there are in each status, now or as long ago as it says, at most 30 s.
    ///
    /// # Errors
    /// When they cannot be counted, or the capabilities do not offer it.
    fn counts(&self, call: &Call) -> Result<Counts> {
        let _ = call;
        Err(Error::not_offered("counts"))
    }

    /// Removes states; nothing remembers that they were there.
    ///
    /// # Behavior
    /// - There is one answer for each item, in the items' order; `Absent` where nothing is stored.
    /// - What is deleted is in no read any more, also when the place is opened again; merged again it is `Created`.
    /// - With a digest, the state is removed only if it still has that digest: nothing is lost that is merged meanwhile.
    ///
    /// # Errors
    /// An error of the whole call means that nothing is known of any item.
    fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>>;

    /// How the backend is; cheap, and never waits, not even for a merge that is under way.
    fn health(&self) -> Health;

    /// Tells that the tree which this backend stands in is the one in use from now on. Comes after `open`, but not to what
    /// is opened only to read; other calls may come before it. Cheap; it does not wait.
    ///
    /// A changed configuration is opened beside the one in use, and may be given up again. So what a backend does without
    /// being called begins here and not in `open` if the tree in use would notice: say a layer that moves states from one
    /// child to another, or removes what nothing refers to.
    ///
    /// # Errors
    /// When it cannot do that; it is told to the operator, and the backend is used all the same.
    fn begin(&self, call: &Call) -> Result<()> {
        let _ = call;
        Ok(())
    }

    /// Makes everything that was answered durable, as far as the backend ever does.
    ///
    /// # Errors
    /// When that failed; what was answered `Durable` is so regardless.
    fn flush(&self, call: &Call) -> Result<()>;

    /// Ends everything that runs and frees what is held: threads, file descriptors, memory, locks. Called last.
    ///
    /// # Behavior
    /// - The same place can be opened again afterwards.
    /// - A second `close` does no harm, and any other call answers an error; the macros of plugin-api see to both.
    ///
    /// # Errors
    /// When something could not be ended; the backend is dropped all the same.
    fn close(&self, call: &Call) -> Result<()>;

    /// Removes old terminal evaluations, at most as many as asked; called again until nothing is left.
    ///
    /// # Behavior
    /// - Only what ended, and before the time, is removed; what never ended stays, however old it is.
    /// - `more` says that there may be more; a dry run removes nothing.
    ///
    /// # Errors
    /// When it failed, or the capabilities do not offer it.
    fn prune(&self, call: &Call, prune: &Prune) -> Result<Pruned> {
        let _ = (call, prune);
        Err(Error::not_offered("prune"))
    }

    /// Stores a blob under a key, the SHA-256 of its bytes; storing it again only makes it younger. It is as durable as the
    /// backend claims to be.
    ///
    /// # Errors
    /// When it is not durable, or the capabilities do not offer it.
    fn put_blob(&self, call: &Call, key: &str, bytes: &[u8]) -> Result<()> {
        let _ = (call, key, bytes);
        Err(Error::not_offered("put_blob"))
    }

    /// Reads a blob; none if there is none of that key.
    ///
    /// # Errors
    /// When it cannot be read, or the capabilities do not offer it.
    fn get_blob(&self, call: &Call, key: &str) -> Result<Option<Vec<u8>>> {
        let _ = (call, key);
        Err(Error::not_offered("get_blob"))
    }

    /// Lists blobs in key order, behind a key, at most `limit`.
    ///
    /// # Errors
    /// When they cannot be listed, or the capabilities do not offer it.
    fn scan_blobs(&self, call: &Call, after: &str, limit: usize) -> Result<BlobPage> {
        let _ = (call, after, limit);
        Err(Error::not_offered("scan_blobs"))
    }

    /// Removes a blob if it was not stored again since a time (microseconds). True if it is gone, false if it stays.
    ///
    /// # Errors
    /// When it failed, or the capabilities do not offer it.
    fn delete_blob(&self, call: &Call, key: &str, untouched_since: i64) -> Result<bool> {
        let _ = (call, key, untouched_since);
        Err(Error::not_offered("delete_blob"))
    }
}

/// How an instance of a backend is made. What [`export_backend!`](crate::export_backend) exports implements it.
///
/// # Example: a layer
/// It has the backend below it write what it is given, and says what it sees.
/// ```
/// use std::sync::Arc;
///
/// use storage_plugin_api::{
///     Answer, Backend, Call, ChildDescription, Delete, Deleted, Description, Error, Fields, Found, Health, Item,
///     OpenBackend, Opening, Page, Query, Result, Role,
/// };
///
/// struct Watch {
///     below: Arc<dyn Backend>,
/// }
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Options {}
///
/// storage_plugin_api::export_backend!("watch", Watch);
///
/// impl OpenBackend for Watch {
///     type Options = Options;
///
///     fn check(_: &Options, children: &[ChildDescription]) -> Description {
///         let watched = Role { name: "watched".to_owned(), required: true, ..Role::default() };
///         let capabilities = children.first().map(|child| child.capabilities.clone()).unwrap_or_default();
///         Description { capabilities, roles: vec![watched], ..Description::default() }
///     }
///
///     fn open(_: Options, opening: Opening) -> Result<Self> {
///         let child = opening.children.first().ok_or_else(|| Error::configuration("there is nothing to watch"))?;
///         Ok(Self { below: Arc::clone(&child.backend) })
///     }
/// }
///
/// impl Backend for Watch {
///     fn merge(&self, call: &Call, batch: &[Item<'_>]) -> Result<Vec<Answer>> {
///         tracing::debug!(items = batch.len(), "merge");
///         self.below.merge(call, batch)
///     }
///
///     fn get(&self, call: &Call, ids: &[&str], fields: Fields) -> Result<Vec<Option<Found>>> {
///         self.below.get(call, ids, fields)
///     }
///
///     fn list(&self, call: &Call, query: &Query) -> Result<Page> {
///         self.below.list(call, query)
///     }
///
///     fn delete(&self, call: &Call, items: &[Delete<'_>]) -> Result<Vec<Deleted>> {
///         self.below.delete(call, items)
///     }
///
///     fn health(&self) -> Health {
///         self.below.health()
///     }
///
///     fn flush(&self, call: &Call) -> Result<()> {
///         self.below.flush(call)
///     }
///
///     fn close(&self, _: &Call) -> Result<()> {
///         Ok(()) // The worker closes what is below.
///     }
/// }
/// # fn main() {}
/// ```
pub trait OpenBackend: Backend + Sized {
    /// The options of the configuration; say `#[serde(deny_unknown_fields)]`, so that a typing error is found.
    type Options: DeserializeOwned;

    /// Says what an instance of these options would be, and what is wrong with them. Has no side effects: leaves no file
    /// behind. An option that is not known is a problem that names it.
    fn check(options: &Self::Options, children: &[ChildDescription]) -> Description;

    /// Opens an instance. Several may be open in a process, each with what is its own.
    ///
    /// # Errors
    /// `Configuration` stops a start; `Unavailable` is tried again. A backend that claims `exclusive` refuses by one of them
    /// what another instance has open; a layer leaves that to its children.
    fn open(options: Self::Options, opening: Opening) -> Result<Self>;
}

/// What an instance is given when it is opened.
pub struct Opening {
    /// The instance's name in the configuration.
    pub instance: String,
    /// The backends below a layer, in the configuration's order.
    pub children: Vec<Child>,
    /// Until when `open` should be back.
    pub deadline: Instant,
    /// A command opens it only to read: nothing is made that was not there, nothing migrated. What cannot
    /// be opened without that is refused as `Configuration`. Only `get`, `list`, `counts`, `get_blob`, `scan_blobs`,
    /// `health` and `close` follow.
    pub read_only: bool,
    /// The way to the host's metrics; logs are `tracing` events.
    pub host: crate::plugin_host::Host,
}

impl std::fmt::Debug for Opening {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Opening").field("instance", &self.instance).finish_non_exhaustive()
    }
}

/// A backend below a layer. The host has wrapped it: every call has a deadline and may come from any thread.
#[derive(Clone)]
pub struct Child {
    /// The role it plays, say `primary`.
    pub role: String,
    /// Its name in the configuration.
    pub name: String,
    /// What it said of itself.
    pub description: ChildDescription,
    /// The backend.
    pub backend: Arc<dyn Backend>,
}

impl std::fmt::Debug for Child {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Child").field("role", &self.role).field("name", &self.name).finish_non_exhaustive()
    }
}

/// What every call carries.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Until when the answer is of use.
    pub deadline: Instant,
    /// How often the same call failed before; 0 at first.
    pub attempt: u32,
}

impl Call {
    /// A first call that has this long.
    #[must_use]
    pub fn with_budget(budget: Duration) -> Self {
        Self { deadline: Instant::now() + budget, attempt: 0 }
    }

    /// How long there is left.
    #[must_use]
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// The same call with at most this long; a layer gives its children no more than it has.
    #[must_use]
    pub fn at_most(&self, budget: Duration) -> Self {
        Self { deadline: self.deadline.min(Instant::now() + budget), ..*self }
    }
}

/// What became of one item of a merge.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// What happened.
    pub outcome: Outcome,
    /// The evaluation's status afterwards, if it is known.
    pub status: Option<Status>,
    /// What survives a crash from now on.
    pub durability: Durability,
    /// The instance that took the item; none stands for the one that was called.
    pub taken_by: Option<Arc<str>>,
}

impl Answer {
    /// An item that was taken.
    #[must_use]
    pub fn new(outcome: Outcome, status: Option<Status>, durability: Durability) -> Self {
        Self { outcome, status, durability, taken_by: None }
    }

    /// An item that was not taken.
    #[must_use]
    pub fn rejected(error: Error) -> Self {
        Self::new(Outcome::Rejected(error), None, Durability::Volatile)
    }

    /// The answer as the instance gives it that is not the one that was called.
    #[must_use]
    pub fn taken_by(mut self, instance: &Arc<str>) -> Self {
        self.taken_by.get_or_insert_with(|| Arc::clone(instance));
        self
    }
}

/// What a merge did with an item.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// Nothing was stored under the id before.
    Created,
    /// The stored state changed.
    Updated,
    /// The stored state knew it all already.
    Unchanged,
    /// Taken for later; how it relates to what is stored is not known.
    Accepted,
    /// Not taken.
    Rejected(Error),
}

/// What a crash leaves of what was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Durability {
    /// A crash of the process may lose it.
    Volatile,
    /// It survives a crash of the process and of the machine.
    Durable,
}

impl Durability {
    /// `volatile` or `durable`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Volatile => "volatile",
            Self::Durable => "durable",
        }
    }
}

/// A state that was read.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// What is stored.
    pub state: State,
    /// Only a part of what is stored could be seen.
    pub incomplete: bool,
}

/// One item to delete.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delete<'a> {
    /// The evaluation's id.
    pub id: &'a str,
    /// Delete only a state of this digest ([`State::digest`]).
    pub digest: Option<&'a Hash>,
}

/// What became of one item of a delete.
#[derive(Clone, Debug, PartialEq)]
pub enum Deleted {
    /// It was there and is gone.
    Deleted,
    /// It was not there.
    Absent,
    /// Its state has another digest; it is still there.
    Differs,
    /// It could not be deleted.
    Failed(Error),
}
