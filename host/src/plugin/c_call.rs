//! A call of a plugin in C: what the plugin may call meanwhile, and how its answers are gathered and judged.
//!
//! Unsafe, since what C passes is believed only as far as it can be checked: that a pointer leads to what its type says
//! cannot. Everything is copied at once. A panic would end the process here, so each function catches its own.

#![allow(unsafe_code, reason = "the answers of plugins in C")]

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use abi_stable::std_types::RStr;
use storage_plugin_api::abi::HostHandle;
use storage_plugin_api::{Call, Document, Error, ErrorKind, PutAnswer, Result, c_abi};

/// Longest message that is taken from a plugin, in bytes; what is behind is cut.
const MAX_MESSAGE: usize = 4096;
/// How many bytes of documents a page takes until it is full, so that memory is bounded whatever is stored.
const MAX_PAGE_BYTES: usize = 16 << 20;

/// The worker, as one instance sees it.
pub(crate) struct CHost {
    raw: c_abi::Host,
    // What `raw.context` leads to.
    _instance: Arc<InstanceHost>,
}

struct InstanceHost {
    instance: String,
    plugin: String,
    handle: HostHandle,
}

// SAFETY: the pointer in `raw` leads to the `InstanceHost` beside it, which is never changed and may be shared.
unsafe impl Send for CHost {}
// SAFETY: as above.
unsafe impl Sync for CHost {}

impl CHost {
    pub(crate) fn new(instance: &str, plugin: &str, handle: HostHandle) -> Self {
        let inner = Arc::new(InstanceHost { instance: instance.to_owned(), plugin: plugin.to_owned(), handle });
        let raw = c_abi::Host {
            struct_size: size_of_u32::<c_abi::Host>(),
            reserved: 0,
            context: Arc::as_ptr(&inner).cast_mut().cast(),
            log,
            count,
            gauge,
        };
        Self { raw, _instance: inner }
    }
}

/// What a call is for: where its answers go.
#[derive(Debug)]
pub(crate) enum Gathered {
    /// `open`, `close`, `flush`: nothing but how it ended.
    Nothing,
    /// `check`.
    Description { problems: Vec<String>, notes: Vec<String> },
    /// `get`: a place for each id.
    Documents(Vec<Option<Document>>),
    /// `put`, `remove`: a place for each item.
    Answers(Vec<Option<PutAnswer>>),
    /// `scan`.
    Page(Page),
    /// `health`.
    Figures(BTreeMap<String, i64>),
}

/// A page that is being filled.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) after: String,
    pub(crate) limit: usize,
    pub(crate) bytes: usize,
    pub(crate) documents: Vec<(String, Document)>,
    /// The plugin was told that it is enough.
    pub(crate) full: bool,
}

/// What a call was answered so far.
struct Collected {
    gathered: Gathered,
    failure: Option<String>,
    /// The first thing that the plugin did against the contract.
    defect: Option<String>,
}

/// Makes a call, and gives what was gathered.
///
/// # Errors
/// What the plugin says, and `Internal` for what is against the contract.
pub(crate) fn run(
    host: &CHost,
    call: &Call,
    gathered: Gathered,
    function: impl FnOnce(*mut c_abi::Call) -> u32,
) -> Result<Gathered> {
    let mut collected = Collected { gathered, failure: None, defect: None };
    let mut raw = c_abi::Call {
        struct_size: size_of_u32::<c_abi::Call>(),
        attempt: call.attempt,
        budget_us: u64::try_from(call.remaining().as_micros()).unwrap_or(u64::MAX),
        host: &raw const host.raw,
        context: (&raw mut collected).cast(),
        fail,
        document,
        answer,
        entry,
        figure,
        problem,
        note,
    };
    let code = function(&raw mut raw);
    let Collected { gathered, failure, defect } = collected;
    if let Some(defect) = defect {
        return Err(Error::internal(format_args!("{defect}; this is a defect of the plugin")));
    }
    if code == c_abi::OK {
        return Ok(gathered);
    }
    Err(error(code, failure.as_deref().unwrap_or_default()))
}

/// The error of a kind and a text that came from a plugin.
fn error(kind: u32, message: &str) -> Error {
    let message = if message.is_empty() { "the plugin gave no reason" } else { message };
    match ErrorKind::ALL.into_iter().find(|known| known.code() == kind) {
        Some(kind) => Error::new(kind, message),
        None => Error::internal(format_args!("the plugin gave the unknown answer {kind}: {message}")),
    }
}

impl Collected {
    fn defect(&mut self, what: impl FnOnce() -> String) {
        self.defect.get_or_insert_with(what);
    }

    fn misplaced(&mut self, function: &str) {
        self.defect(|| format!("the plugin called `{function}` in a call that is not for it"));
    }
}

pub(crate) fn size_of_u32<T>() -> u32 {
    u32::try_from(size_of::<T>()).expect("the structs of the header are small")
}

/// Runs what a plugin called with what its call has collected.
fn collecting<T: Default>(call: *mut c_abi::Call, run: impl FnOnce(&mut Collected) -> T) -> T {
    if call.is_null() {
        return T::default();
    }
    let run = AssertUnwindSafe(|| {
        // SAFETY: the header demands the `storage_call` of the running call, on its thread: then `context` leads to the
        // `Collected` of `run` above, which nothing else uses until the call returns.
        let collected = unsafe { &mut *(*call).context.cast::<Collected>() };
        run(collected)
    });
    caught(run)
}

fn caught<T: Default>(run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).map_err(std::mem::forget).unwrap_or_default()
}

/// A text of a plugin, for people: what is no UTF-8 is replaced.
fn message_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: not null, and the header demands that a NUL ends it.
    let bytes = unsafe { CStr::from_ptr(text) }.to_bytes();
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_MESSAGE)]).into_owned()
}

/// A copy of bytes of a plugin; none if there cannot be so many.
fn bytes_of(address: *const c_void, length: usize) -> Option<Vec<u8>> {
    if length == 0 {
        return Some(Vec::new());
    }
    if address.is_null() || isize::try_from(length).is_err() {
        return None;
    }
    // SAFETY: not null and no longer than memory; that so many bytes are there is what the header demands.
    Some(unsafe { std::slice::from_raw_parts(address.cast::<u8>(), length) }.to_vec())
}

fn read_document(version: u64, bytes: *const c_void, length: usize) -> Result<Document, String> {
    if version == 0 {
        return Err("the plugin gave a document the version 0".to_owned());
    }
    let bytes =
        bytes_of(bytes, length).ok_or_else(|| format!("the plugin gave a document of {length} bytes at NULL"))?;
    Ok(Document { version, bytes })
}

unsafe extern "C" fn fail(call: *mut c_abi::Call, kind: u32, text: *const c_char) -> u32 {
    let message = message_of(text);
    collecting(call, |collected| collected.failure = Some(message));
    kind
}

unsafe extern "C" fn document(call: *mut c_abi::Call, index: usize, version: u64, bytes: *const c_void, length: usize) {
    collecting(call, |collected| {
        let Gathered::Documents(places) = &mut collected.gathered else { return collected.misplaced("document") };
        match (places.get_mut(index), read_document(version, bytes, length)) {
            (Some(place @ None), Ok(document)) => *place = Some(document),
            (_, Err(defect)) => collected.defect(|| defect),
            (Some(Some(_)), Ok(_)) => collected.defect(|| format!("the plugin gave document {index} twice")),
            (None, Ok(_)) => {
                let asked = places.len();
                collected.defect(|| format!("the plugin gave document {index} where {asked} were asked for"));
            }
        }
    });
}

unsafe extern "C" fn answer(call: *mut c_abi::Call, index: usize, code: u32, text: *const c_char) {
    let message = message_of(text);
    collecting(call, |collected| {
        let Gathered::Answers(places) = &mut collected.gathered else { return collected.misplaced("answer") };
        let answer = match code {
            c_abi::OK => PutAnswer::Done,
            c_abi::CONFLICT => PutAnswer::Conflict,
            kind => PutAnswer::Failed(error(kind, &message)),
        };
        match places.get_mut(index) {
            Some(place @ None) => *place = Some(answer),
            Some(Some(_)) => collected.defect(|| format!("the plugin answered item {index} twice")),
            None => {
                let asked = places.len();
                collected.defect(|| format!("the plugin answered item {index} of {asked}"));
            }
        }
    });
}

unsafe extern "C" fn entry(
    call: *mut c_abi::Call,
    id: *const c_char,
    id_length: usize,
    version: u64,
    bytes: *const c_void,
    length: usize,
) -> u32 {
    let goes_on = collecting(call, |collected| {
        let Gathered::Page(page) = &mut collected.gathered else {
            collected.misplaced("entry");
            return false;
        };
        // A plugin that does not look at the answer goes on; what it gives then comes again with the next page.
        if page.full {
            return false;
        }
        let added = read_document(version, bytes, length).and_then(|document| page.add(id, id_length, document));
        if let Err(defect) = added {
            collected.defect(|| defect);
            return false;
        }
        !page.full
    });
    u32::from(goes_on)
}

impl Page {
    fn add(&mut self, id: *const c_char, id_length: usize, document: Document) -> Result<(), String> {
        let id = bytes_of(id.cast(), id_length).and_then(|bytes| String::from_utf8(bytes).ok());
        let id = id.ok_or("the plugin gave an id that is no UTF-8")?;
        let last = self.documents.last().map_or(&self.after, |(last, _)| last);
        if id <= *last {
            return Err(format!("the plugin gave the id `{id}` behind `{last}`, which is not their order"));
        }
        self.bytes = self.bytes.saturating_add(document.bytes.len());
        self.documents.push((id, document));
        self.full = self.documents.len() >= self.limit || self.bytes >= MAX_PAGE_BYTES;
        Ok(())
    }
}

unsafe extern "C" fn figure(call: *mut c_abi::Call, name: *const c_char, value: i64) {
    let name = message_of(name);
    collecting(call, |collected| match &mut collected.gathered {
        Gathered::Figures(figures) => drop(figures.insert(name, value)),
        _ => collected.misplaced("figure"),
    });
}

unsafe extern "C" fn problem(call: *mut c_abi::Call, text: *const c_char) {
    let message = message_of(text);
    collecting(call, |collected| match &mut collected.gathered {
        Gathered::Description { problems, .. } => problems.push(message),
        _ => collected.misplaced("problem"),
    });
}

unsafe extern "C" fn note(call: *mut c_abi::Call, text: *const c_char) {
    let message = message_of(text);
    collecting(call, |collected| match &mut collected.gathered {
        Gathered::Description { notes, .. } => notes.push(message),
        _ => collected.misplaced("note"),
    });
}

/// Runs what a plugin called with the instance that it is.
fn speaking(host: *const c_abi::Host, run: impl FnOnce(&InstanceHost)) {
    if host.is_null() {
        return;
    }
    // SAFETY: the header demands the `storage_host` of an instance that is not closed: then `context` leads to the
    // `InstanceHost` that its `CHost` holds.
    let instance = unsafe { &*(*host).context.cast::<InstanceHost>() };
    caught(|| run(instance));
}

unsafe extern "C" fn log(host: *const c_abi::Host, level: u32, text: *const c_char) {
    let message = message_of(text);
    speaking(host, |InstanceHost { instance, plugin, handle }| {
        let level = u8::try_from(level).unwrap_or(u8::MAX);
        let [instance, target, message] = [instance, plugin, &message].map(|text| RStr::from_str(text));
        if handle.log_enabled(level, target) {
            handle.log(level, instance, target, message, RStr::from_str("{}"));
        }
    });
}

unsafe extern "C" fn count(host: *const c_abi::Host, name: *const c_char, by: u64) {
    #[expect(clippy::cast_precision_loss, reason = "increments are small")]
    metric(host, 0, name, by as f64);
}

unsafe extern "C" fn gauge(host: *const c_abi::Host, name: *const c_char, value: f64) {
    metric(host, 1, name, value);
}

fn metric(host: *const c_abi::Host, kind: u8, name: *const c_char, value: f64) {
    let name = message_of(name);
    speaking(host, |InstanceHost { instance, handle, .. }| {
        handle.metric(kind, RStr::from_str(instance), RStr::from_str(&name), value);
    });
}
