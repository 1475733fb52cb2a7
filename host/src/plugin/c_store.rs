//! A plugin in C as a [`DocumentStore`]: turns each call into one of its functions, and its answers into ours.
//!
//! `c_call.rs` has what the plugin calls meanwhile, `c_options.rs` looks at its options. Unsafe, since it calls C.

#![allow(unsafe_code, reason = "calls the functions of plugins in C")]

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use storage_plugin_api::abi::HostHandle;
use storage_plugin_api::{
    Call, Capabilities, Description, Document, DocumentStore, Error, Health, Put, PutAnswer, Result, Scan, ScanPage,
    c_abi,
};

use super::c_call::{CHost, Gathered, Page, run, size_of_u32};
use super::c_load::{CPlugin, Functions};
use super::c_options::{self, Given};

/// How often a close looks whether the calls have ended.
const STEP: Duration = Duration::from_millis(1);
/// Health never waits; this only keeps a store from taking its time for over.
const HEALTH_BUDGET: Duration = Duration::from_secs(1);
/// How long a store may take to close that is dropped without having been closed.
const DROP_BUDGET: Duration = Duration::from_secs(5);

impl CPlugin {
    /// What an instance of these options would be.
    ///
    /// # Errors
    /// What the plugin says when it cannot tell.
    pub(crate) fn check(&self, host: &CHost, options: &Value, budget: Duration) -> Result<Description> {
        let values = match c_options::read(&self.options, options) {
            Ok(values) => values,
            Err(problems) => {
                let capabilities = capabilities(self.flags, self.parallel_calls);
                return Ok(Description { capabilities, problems, ..Description::default() });
            }
        };
        let mut raw = c_abi::Description {
            struct_size: size_of_u32::<c_abi::Description>(),
            flags: self.flags,
            parallel_calls: self.parallel_calls,
        };
        let (mut problems, mut notes) = (Vec::new(), Vec::new());
        if let Some(check) = self.functions.check {
            let values = Values::new(&values);
            let gathered = Gathered::Description { problems, notes };
            let gathered = run(host, &Call::with_budget(budget), gathered, |call| {
                // SAFETY: a function of the descriptor, called as the header says; all pointers outlive the call.
                unsafe { check(call, values.as_ptr(), &raw mut raw) }
            })?;
            (problems, notes) = match gathered {
                Gathered::Description { problems, notes } => (problems, notes),
                other => return Err(unexpected(&other)),
            };
        }
        if raw.parallel_calls == 0 {
            return Err(Error::internal("`check` of the plugin set `parallel_calls` to 0, which is at least 1"));
        }
        let capabilities = capabilities(raw.flags, raw.parallel_calls);
        Ok(Description { capabilities, problems, notes, ..Description::default() })
    }

    /// Opens an instance.
    ///
    /// # Errors
    /// `Configuration` for options that `check` finds fault with, and what the plugin says.
    pub(crate) fn open(
        &self,
        name: (&str, &str),
        host: HostHandle,
        options: &Value,
        budget: Duration,
        read_only: bool,
    ) -> Result<CStore> {
        let (instance, plugin) = name;
        let values =
            c_options::read(&self.options, options).map_err(|problems| Error::configuration(problems.join("; ")))?;
        let host = Arc::new(CHost::new(instance, plugin, host));
        let instance = CString::new(instance).map_err(|_| Error::configuration("the instance's name has a NUL"))?;
        let values = Values::new(&values);
        let opening = c_abi::Opening {
            struct_size: size_of_u32::<c_abi::Opening>(),
            flags: if read_only { c_abi::READ_ONLY } else { 0 },
            instance: text_of(&instance),
            values: values.as_ptr(),
        };
        let mut store: *mut c_void = std::ptr::null_mut();
        run(&host, &Call::with_budget(budget), Gathered::Nothing, |call| {
            // SAFETY: a function of the descriptor, called as the header says; all pointers outlive the call, and the
            // host outlives the instance.
            unsafe { (self.functions.open)(call, &raw const opening, &raw mut store) }
        })?;
        let opened = Opened { store, functions: self.functions, host, closed: false };
        Ok(CStore { opened: Mutex::new(Some(Arc::new(opened))) })
    }
}

fn capabilities(flags: u32, parallel_calls: u64) -> Capabilities {
    Capabilities {
        durable: flags & c_abi::DURABLE != 0,
        exclusive: flags & c_abi::SHARED == 0,
        parallel_calls: usize::try_from(parallel_calls).unwrap_or(usize::MAX),
        ..Capabilities::default()
    }
}

/// An opened instance of a plugin in C.
pub(crate) struct CStore {
    opened: Mutex<Option<Arc<Opened>>>,
}

/// What the functions of a plugin are called with. Closed once, after the last call.
struct Opened {
    store: *mut c_void,
    functions: Functions,
    // Shared, since the plugin keeps its address.
    host: Arc<CHost>,
    closed: bool,
}

// SAFETY: the header demands that the functions can be called from any thread; the pointer is only handed to them.
unsafe impl Send for Opened {}
// SAFETY: as above. `close` takes the whole of it, so nothing is called at that time.
unsafe impl Sync for Opened {}

impl Opened {
    fn close(mut self, call: &Call) -> Result<()> {
        self.close_once(call)
    }

    fn close_once(&mut self, call: &Call) -> Result<()> {
        if std::mem::replace(&mut self.closed, true) {
            return Ok(());
        }
        run(&self.host, call, Gathered::Nothing, |raw| {
            // SAFETY: what `open` gave; nobody else has it any more, so no other call runs or follows.
            unsafe { (self.functions.close)(raw, self.store) }
        })
        .map(drop)
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        if let Err(error) = self.close_once(&Call::with_budget(DROP_BUDGET)) {
            tracing::warn!(%error, "a store of a plugin in C could not be closed");
        }
    }
}

impl CStore {
    fn opened(&self) -> Result<Arc<Opened>> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).clone();
        opened.ok_or_else(|| Error::internal("called after it was closed"))
    }
}

impl DocumentStore for CStore {
    fn get(&self, call: &Call, ids: &[&str]) -> Result<Vec<Option<Document>>> {
        let opened = self.opened()?;
        let texts = Texts::of(ids.iter().copied());
        let raw: Vec<c_abi::Text> = texts.iter().collect();
        let gathered = run(&opened.host, call, Gathered::Documents(vec![None; ids.len()]), |call| {
            // SAFETY: a function of the descriptor and the store that `open` gave; the texts outlive the call.
            unsafe { (opened.functions.get)(call, opened.store, raw.as_ptr(), raw.len()) }
        })?;
        match gathered {
            Gathered::Documents(documents) => Ok(documents),
            other => Err(unexpected(&other)),
        }
    }

    fn put(&self, call: &Call, puts: &[Put<'_>]) -> Result<Vec<PutAnswer>> {
        let opened = self.opened()?;
        let texts = Texts::of(puts.iter().flat_map(|put| [put.id, put.columns.status, put.columns.language]));
        let mut texts = texts.iter();
        let mut next = || texts.next().expect("there are three texts for each put");
        let raw: Vec<c_abi::Put> = puts
            .iter()
            .map(|put| {
                let [id, status, language] = [next(), next(), next()];
                c_abi::Put {
                    id,
                    expected: put.expected,
                    bytes: put.bytes.as_ptr(),
                    length: put.bytes.len(),
                    status,
                    language,
                    created_at: put.columns.created_at,
                    reserved: [0; 2],
                }
            })
            .collect();
        let gathered = run(&opened.host, call, Gathered::Answers(vec![None; puts.len()]), |call| {
            // SAFETY: a function of the descriptor and the store that `open` gave; the puts and what they lead to
            // outlive the call.
            unsafe { (opened.functions.put)(call, opened.store, raw.as_ptr(), raw.len()) }
        })?;
        answers(gathered)
    }

    fn scan(&self, call: &Call, scan: &Scan) -> Result<ScanPage> {
        let opened = self.opened()?;
        let texts = Texts::of([scan.after.as_str()].into_iter());
        let after = texts.iter().next().expect("there is one text");
        let limit = scan.limit.max(1);
        let page = Page { after: scan.after.clone(), limit, bytes: 0, documents: Vec::new(), full: false };
        let gathered = run(&opened.host, call, Gathered::Page(page), |call| {
            // SAFETY: a function of the descriptor and the store that `open` gave; the text outlives the call.
            unsafe { (opened.functions.scan)(call, opened.store, after, limit) }
        })?;
        match gathered {
            Gathered::Page(Page { documents, full, .. }) => Ok(ScanPage { documents, more: full }),
            other => Err(unexpected(&other)),
        }
    }

    fn delete(&self, call: &Call, deletes: &[(&str, u64)]) -> Result<Vec<PutAnswer>> {
        let opened = self.opened()?;
        let texts = Texts::of(deletes.iter().map(|(id, _)| *id));
        let remove =
            |(id, (_, expected)): (c_abi::Text, &(&str, u64))| c_abi::Remove { id, expected: *expected, reserved: 0 };
        let raw: Vec<c_abi::Remove> = texts.iter().zip(deletes).map(remove).collect();
        let gathered = run(&opened.host, call, Gathered::Answers(vec![None; deletes.len()]), |call| {
            // SAFETY: a function of the descriptor and the store that `open` gave; the removes and what they lead to
            // outlive the call.
            unsafe { (opened.functions.remove)(call, opened.store, raw.as_ptr(), raw.len()) }
        })?;
        answers(gathered)
    }

    fn health(&self) -> Health {
        let asked = self.opened().and_then(|opened| {
            let Some(health) = opened.functions.health else { return Ok(Gathered::Figures(BTreeMap::new())) };
            let call = Call::with_budget(HEALTH_BUDGET);
            run(&opened.host, &call, Gathered::Figures(BTreeMap::new()), |call| {
                // SAFETY: a function of the descriptor and the store that `open` gave.
                unsafe { health(call, opened.store) }
            })
        });
        match asked {
            Ok(Gathered::Figures(figures)) => {
                figures.into_iter().fold(Health::healthy(), |health, (name, value)| health.with(&name, value))
            }
            Ok(other) => Health::unhealthy(unexpected(&other).message),
            Err(error) => Health::unhealthy(error.message),
        }
    }

    fn flush(&self, call: &Call) -> Result<()> {
        let opened = self.opened()?;
        let Some(flush) = opened.functions.flush else { return Ok(()) };
        run(&opened.host, call, Gathered::Nothing, |call| {
            // SAFETY: a function of the descriptor and the store that `open` gave.
            unsafe { flush(call, opened.store) }
        })
        .map(drop)
    }

    fn close(&self, call: &Call) -> Result<()> {
        let opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut opened) = opened else { return Ok(()) };
        // The guard has let all calls end, but for `health`, which is soon back.
        loop {
            opened = match Arc::try_unwrap(opened) {
                Ok(opened) => return opened.close(call),
                Err(_) if call.remaining().is_zero() => {
                    return Err(Error::internal("a call still runs; the store is closed when it ends"));
                }
                Err(in_use) => in_use,
            };
            std::thread::sleep(STEP);
        }
    }
}

fn answers(gathered: Gathered) -> Result<Vec<PutAnswer>> {
    let places = match gathered {
        Gathered::Answers(places) => places,
        other => return Err(unexpected(&other)),
    };
    let (asked, given) = (places.len(), places.iter().flatten().count());
    if given < asked {
        return Err(Error::internal(format_args!("the plugin gave {given} answers for {asked} items")));
    }
    Ok(places.into_iter().flatten().collect())
}

/// What is gathered is what was begun with; this is for the compiler.
fn unexpected(gathered: &Gathered) -> Error {
    Error::internal(format_args!("gathered other answers than were asked for: {gathered:?}"))
}

/// Texts with a NUL behind each, in one piece of memory.
struct Texts {
    bytes: Vec<u8>,
    /// Where each begins, and its length.
    places: Vec<(usize, usize)>,
}

impl Texts {
    fn of<'a>(texts: impl Iterator<Item = &'a str>) -> Self {
        let mut these = Self { bytes: Vec::new(), places: Vec::new() };
        for text in texts {
            these.places.push((these.bytes.len(), text.len()));
            these.bytes.extend_from_slice(text.as_bytes());
            these.bytes.push(0);
        }
        these
    }

    /// Pointers into these texts, valid as long as they are.
    fn iter(&self) -> impl Iterator<Item = c_abi::Text> + '_ {
        self.places.iter().map(|(start, length)| c_abi::Text {
            bytes: self.bytes[*start..].as_ptr().cast::<c_char>(),
            length: *length,
        })
    }
}

fn text_of(text: &CString) -> c_abi::Text {
    c_abi::Text { bytes: text.as_ptr(), length: text.as_bytes().len() }
}

/// The values of options as C sees them; they lead into what they were made of.
struct Values<'a> {
    raw: Vec<c_abi::Value>,
    _given: &'a [Given],
}

impl<'a> Values<'a> {
    fn new(given: &'a [Given]) -> Self {
        let empty = c_abi::Text { bytes: c"".as_ptr(), length: 0 };
        let value = |given: &Given| {
            let (is_given, integer, text) = match given {
                Given::Nothing => (0, 0, empty),
                Given::Text(text) => (1, 0, text_of(text)),
                Given::Integer(integer) => (1, *integer, empty),
                Given::Boolean(boolean) => (1, i64::from(*boolean), empty),
            };
            c_abi::Value { given: is_given, reserved: 0, integer, text }
        };
        Self { raw: given.iter().map(value).collect(), _given: given }
    }

    fn as_ptr(&self) -> *const c_abi::Value {
        self.raw.as_ptr()
    }
}
