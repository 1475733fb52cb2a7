//! What crosses the plugin boundary: `repr(C)` types whose layout is checked when a plugin is loaded.
//!
//! Calls are synchronous; what goes in is borrowed for the call, what comes out is owned. The layout grows only at its
//! end: new methods last, with a default body. Everything else stays as it is, which is why every struct has reserve.
//! Authors see the traits of `backend.rs`; `export.rs` and `import.rs` translate.

#![allow(non_local_definitions, reason = "the macros of abi_stable expand to such definitions")]
#![allow(missing_docs, missing_debug_implementations, reason = "abi_stable generates items of its own")]
#![allow(unsafe_code, reason = "the derives of abi_stable implement its unsafe traits")]
#![allow(clippy::pedantic, clippy::too_many_arguments, unreachable_pub, reason = "generated code")]

use abi_stable::StableAbi;
use abi_stable::sabi_trait;
use abi_stable::std_types::{RArc, ROption, RResult, RSlice, RStr, RString, RVec};

use crate::model::body::Hash;
use crate::model::register::{Register, Rule, Value, ValueKind, hash_of};
use crate::model::state::State;

/// A register, borrowed.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct RegisterRef<'a> {
    name: RStr<'a>,
    event_id: RStr<'a>,
    value: RStr<'a>,
    /// 32 bytes, or none if nobody has computed it yet.
    hash: RSlice<'a, u8>,
    time: i64,
    rule: u8,
    stage: u8,
    kind: u8,
    reserved: [u8; 5],
}

impl<'a> RegisterRef<'a> {
    pub(crate) fn of(register: &'a Register) -> Self {
        let (kind, value, hash) = match &register.value {
            Value::Json(json) => (ValueKind::Json, &**json, None),
            Value::Body(body) => match (body.as_text(), body.reference_json()) {
                (Some(text), _) => (ValueKind::Text, text, body.known_hash()),
                (None, reference) => (ValueKind::Reference, reference.unwrap_or_default(), body.known_hash()),
            },
        };
        Self {
            name: RStr::from_str(&register.name),
            event_id: RStr::from_str(&register.stamp.event_id),
            value: RStr::from_str(value),
            hash: hash.map_or(RSlice::EMPTY, |hash| RSlice::from_slice(hash)),
            time: register.stamp.time,
            rule: register.rule.code(),
            stage: register.stage,
            kind: kind.code(),
            reserved: [0; 5],
        }
    }

    /// The name; unique within an item.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.name.as_str()
    }

    /// The id of the event that set it.
    #[must_use]
    pub fn event_id(&self) -> &'a str {
        self.event_id.as_str()
    }

    /// The time of that event, in microseconds.
    #[must_use]
    pub fn time(&self) -> i64 {
        self.time
    }

    /// Which of two registers of this name is kept.
    #[must_use]
    pub fn rule(&self) -> Rule {
        Rule::from_code(self.rule)
    }

    /// What stands between time and event id in the rank.
    #[must_use]
    pub fn stage(&self) -> u8 {
        self.stage
    }

    /// How to read the value.
    #[must_use]
    pub fn kind(&self) -> ValueKind {
        ValueKind::from_code(self.kind)
    }

    /// The value: canonical JSON, a body's text, or the JSON of a reference to one.
    #[must_use]
    pub fn value(&self) -> &'a str {
        self.value.as_str()
    }

    /// The hash of the value, if somebody has computed it.
    #[must_use]
    pub fn known_hash(&self) -> Option<Hash> {
        self.hash.as_slice().try_into().ok()
    }

    /// The hash of the value, computed if need be.
    #[must_use]
    pub fn hash(&self) -> Hash {
        hash_of(self)
    }
}

/// One state to merge, borrowed: an evaluation's id and its registers.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct Item<'a> {
    id: RStr<'a>,
    registers: RSlice<'a, RegisterRef<'a>>,
    reserved: [u64; 2],
}

impl<'a> Item<'a> {
    /// The evaluation's id.
    #[must_use]
    pub fn id(&self) -> &'a str {
        self.id.as_str()
    }

    /// The registers, sorted by name.
    #[must_use]
    pub fn registers(&self) -> &'a [RegisterRef<'a>] {
        self.registers.as_slice()
    }

    /// The state, copied.
    #[must_use]
    pub fn to_state(&self) -> State {
        let mut state = State::new();
        state.merge_registers(self.registers().iter().copied());
        state
    }
}

/// Lends states to a function as a batch of [`Item`]s; costs two allocations, whatever the number of states.
///
/// # Example
/// ```
/// use storage_plugin_api::{EventStamp, State, Status, with_items};
///
/// let mut state = State::new();
/// state.set_open(&EventStamp::new(1, "e"), Status::Queued);
/// assert_eq!(with_items(&[("a", &state)], |batch| batch[0].id().to_owned()), "a");
/// ```
pub fn with_items<R>(states: &[(&str, &State)], call: impl FnOnce(&[Item<'_>]) -> R) -> R {
    let registers: Vec<RegisterRef<'_>> =
        states.iter().flat_map(|(_, state)| state.registers()).map(RegisterRef::of).collect();
    let mut rest = &registers[..];
    let mut items = Vec::with_capacity(states.len());
    for (id, state) in states {
        let (own, others) = rest.split_at(state.registers().len());
        rest = others;
        items.push(Item { id: RStr::from_str(id), registers: RSlice::from_slice(own), reserved: [0; 2] });
    }
    call(&items)
}

/// In [`OpenArguments::flags`]: opened only to be read.
pub const READ_ONLY: u64 = 1;

/// In [`Failure::flags`]: trying again may help. What else a kind means that the other side does not know, this is known.
pub const MAY_PASS: u32 = 1;

/// What every call carries.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct CallContext {
    /// How long the answer is of use, in microseconds from now.
    pub budget_us: u64,
    pub attempt: u32,
    pub flags: u32,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct Failure {
    pub kind: u32,
    /// [`MAY_PASS`], or nothing; what is not known is ignored.
    pub flags: u32,
    /// 0 stands for no hint.
    pub retry_after_us: u64,
    pub message: RString,
    pub reserved: [u64; 2],
}

pub type Answered<T> = RResult<T, Failure>;

/// What became of one item; flat, so that a batch of answers is one allocation.
#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct ItemAnswer {
    pub outcome: u8,
    pub status: u8,
    pub durable: u8,
    pub flags: u8,
    /// Index into `failures` of the batch, for a rejected item.
    pub failure: u32,
    /// Index into `names` of the batch; `u32::MAX` stands for the instance that was called.
    pub taken_by: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(StableAbi)]
pub struct MergeAnswers {
    pub answers: RVec<ItemAnswer>,
    pub failures: RVec<Failure>,
    pub names: RVec<RString>,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct FoundState {
    pub id: RString,
    /// The stored form; empty if nothing is stored.
    pub state: RString,
    pub incomplete: u8,
    pub flags: u8,
    pub reserved: [u8; 14],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct StatePage {
    pub entries: RVec<FoundState>,
    /// Empty on the last page.
    pub cursor: RString,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct DeleteItem<'a> {
    pub id: RStr<'a>,
    /// 32 bytes, or none.
    pub digest: RSlice<'a, u8>,
    /// For documents: the expected version.
    pub version: u64,
    pub reserved: u64,
}

#[repr(C)]
#[derive(Clone, Copy, StableAbi)]
pub struct PutItem<'a> {
    pub id: RStr<'a>,
    pub bytes: RSlice<'a, u8>,
    pub status: RStr<'a>,
    pub language: RStr<'a>,
    pub created_at: i64,
    pub expected: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct StoredDocument {
    pub id: RString,
    pub bytes: RVec<u8>,
    /// 0 if nothing is stored.
    pub version: u64,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct DocumentPage {
    pub documents: RVec<StoredDocument>,
    pub more: u8,
    pub reserved: [u8; 15],
}

/// [`crate::Backend`] as it crosses the boundary. Later methods go below `begin`, with default bodies.
#[sabi_trait]
pub trait RawBackend: Send + Sync + 'static {
    fn merge(&self, context: &CallContext, batch: RSlice<'_, Item<'_>>) -> Answered<MergeAnswers>;
    fn get(&self, context: &CallContext, ids: RSlice<'_, RStr<'_>>, fields: u32) -> Answered<RVec<FoundState>>;
    fn list(&self, context: &CallContext, query: RStr<'_>) -> Answered<StatePage>;
    fn counts(&self, context: &CallContext) -> Answered<RString>;
    fn delete(&self, context: &CallContext, items: RSlice<'_, DeleteItem<'_>>) -> Answered<MergeAnswers>;
    fn health(&self) -> RString;
    fn flush(&self, context: &CallContext) -> Answered<()>;
    fn close(&self, context: &CallContext) -> Answered<()>;
    fn prune(&self, context: &CallContext, prune: RStr<'_>) -> Answered<RString>;
    fn put_blob(&self, context: &CallContext, key: RStr<'_>, bytes: RSlice<'_, u8>) -> Answered<()>;
    fn get_blob(&self, context: &CallContext, key: RStr<'_>) -> Answered<ROption<RVec<u8>>>;
    fn scan_blobs(&self, context: &CallContext, after: RStr<'_>, limit: u64) -> Answered<RString>;
    fn delete_blob(&self, context: &CallContext, key: RStr<'_>, untouched_since: i64) -> Answered<bool>;
    #[sabi(last_prefix_field)]
    fn begin(&self, context: &CallContext) -> Answered<()>;
}

/// [`crate::DocumentStore`] as it crosses the boundary. Later methods go below `close`, with default bodies.
#[sabi_trait]
pub trait RawDocumentStore: Send + Sync + 'static {
    fn get(&self, context: &CallContext, ids: RSlice<'_, RStr<'_>>) -> Answered<RVec<StoredDocument>>;
    fn put(&self, context: &CallContext, puts: RSlice<'_, PutItem<'_>>) -> Answered<MergeAnswers>;
    fn scan(&self, context: &CallContext, after: RStr<'_>, limit: u64) -> Answered<DocumentPage>;
    fn delete(&self, context: &CallContext, items: RSlice<'_, DeleteItem<'_>>) -> Answered<MergeAnswers>;
    fn health(&self) -> RString;
    fn flush(&self, context: &CallContext) -> Answered<()>;
    #[sabi(last_prefix_field)]
    fn close(&self, context: &CallContext) -> Answered<()>;
}

/// What the host offers to plugins. Later methods go below `metric`, with default bodies.
#[sabi_trait]
pub trait HostApi: Send + Sync + 'static {
    fn log_enabled(&self, level: u8, target: RStr<'_>) -> bool;
    fn log(&self, level: u8, instance: RStr<'_>, target: RStr<'_>, message: RStr<'_>, fields: RStr<'_>);
    #[sabi(last_prefix_field)]
    fn metric(&self, kind: u8, instance: RStr<'_>, name: RStr<'_>, value: f64);
}

pub type BackendHandle = RawBackend_TO<RArc<()>>;
pub type DocumentHandle = RawDocumentStore_TO<RArc<()>>;
pub type HostHandle = HostApi_TO<RArc<()>>;

#[repr(C)]
#[derive(StableAbi)]
pub struct ChildHandle {
    pub role: RString,
    pub name: RString,
    /// JSON of [`crate::Capabilities`].
    pub capabilities: RString,
    pub backend: BackendHandle,
    pub reserved: [u64; 2],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct CheckArguments {
    pub instance: RString,
    /// JSON.
    pub options: RString,
    /// JSON: a list of [`crate::ChildDescription`].
    pub children: RString,
    pub host: HostHandle,
    pub reserved: [u64; 4],
}

#[repr(C)]
#[derive(StableAbi)]
pub struct OpenArguments {
    pub instance: RString,
    /// JSON.
    pub options: RString,
    pub children: RVec<ChildHandle>,
    pub host: HostHandle,
    pub budget_us: u64,
    /// [`READ_ONLY`], or nothing; what is not known is ignored.
    pub flags: u64,
    pub reserved: [u64; 3],
}

/// An opened instance: one of the two interfaces.
#[repr(C)]
#[derive(StableAbi)]
pub struct Opened {
    pub backend: ROption<BackendHandle>,
    pub documents: ROption<DocumentHandle>,
    pub reserved: [u64; 2],
}

/// What a plugin exports. Later functions go below `open`.
#[repr(C)]
#[derive(StableAbi)]
#[sabi(kind(Prefix(prefix_ref = PluginModuleRef)))]
#[sabi(missing_field(option))]
pub struct PluginModule {
    /// JSON of [`crate::Description`].
    pub check: extern "C" fn(CheckArguments) -> Answered<RString>,
    #[sabi(last_prefix_field)]
    pub open: extern "C" fn(OpenArguments) -> Answered<Opened>,
}

impl abi_stable::library::RootModule for PluginModuleRef {
    abi_stable::declare_root_module_statics! {PluginModuleRef}
    const BASE_NAME: &'static str = "storage_plugin";
    const NAME: &'static str = "storage_plugin";
    const VERSION_STRINGS: abi_stable::sabi_types::VersionStrings = abi_stable::package_version_strings!();
}
