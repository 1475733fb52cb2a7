//! The host as a plugin sees it: where its `tracing` events, its panics and its metrics go.
//!
//! A `cdylib` has statics of its own, so the host's subscriber does not see a plugin's events; this one forwards them.
//! All instances of one file share it; which of them speaks is kept per thread.

use std::cell::RefCell;
use std::fmt::{self, Write};
use std::sync::{Arc, Once, OnceLock};
use std::thread;

use abi_stable::std_types::RStr;
use tracing::field::{Field, Visit};
use tracing::span;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::abi::HostHandle;
use crate::model::json::push_string;

/// What the host offers to one instance.
#[derive(Clone)]
pub struct Host {
    instance: Arc<str>,
    handle: Option<Arc<HostHandle>>,
}

impl Host {
    pub(crate) fn new(instance: &str, handle: HostHandle) -> Self {
        Self { instance: instance.into(), handle: Some(Arc::new(handle)) }
    }

    /// No host, for the unit tests of a plugin: metrics go nowhere.
    #[must_use]
    pub fn detached(instance: &str) -> Self {
        Self { instance: instance.into(), handle: None }
    }

    /// Adds to a counter of this instance.
    pub fn count(&self, name: &str, by: u64) {
        #[expect(clippy::cast_precision_loss, reason = "increments are small")]
        self.metric(0, name, by as f64);
    }

    /// Sets a gauge of this instance.
    pub fn gauge(&self, name: &str, value: f64) {
        self.metric(1, name, value);
    }

    fn metric(&self, kind: u8, name: &str, value: f64) {
        if let Some(handle) = &self.handle {
            handle.metric(kind, RStr::from_str(&self.instance), RStr::from_str(name), value);
        }
    }

    /// Starts a thread whose `tracing` events carry the instance's name.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn spawn<F>(&self, name: &str, run: F) -> std::io::Result<thread::JoinHandle<()>>
    where
        F: FnOnce() + Send + 'static,
    {
        let host = self.clone();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            host.speak_on_this_thread();
            run();
        })
    }

    /// Makes `tracing` events of this thread carry the instance's name; for threads that a library starts.
    pub fn speak_on_this_thread(&self) {
        SPEAKER.set(Some(Arc::clone(&self.instance)));
    }

    /// Runs a call in the name of the instance.
    pub(crate) fn speaking<T>(&self, call: impl FnOnce() -> T) -> T {
        let before = SPEAKER.replace(Some(Arc::clone(&self.instance)));
        let result = call();
        SPEAKER.set(before);
        result
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Host").field("instance", &self.instance).finish_non_exhaustive()
    }
}

thread_local! {
    static SPEAKER: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// The host that loaded this library: the first one that called, and there is only one in a process.
static LOG: OnceLock<HostHandle> = OnceLock::new();

/// Sends this library's events and panics to the host from now on. Called by every entry point that brings a host.
pub(crate) fn connect(handle: &HostHandle) {
    static CONNECT: Once = Once::new();
    CONNECT.call_once(|| {
        let _ = LOG.set(HostHandle::from_sabi(handle.obj.shallow_clone()));
        // Fails only if the library has set a subscriber of its own, which then is what its author wants.
        let _ = tracing::subscriber::set_global_default(Forward);
        std::panic::set_hook(Box::new(|panic| {
            let place = panic.location().map(ToString::to_string).unwrap_or_default();
            let message = panic_message(panic.payload());
            tracing::error!(place, panic = message, "plugin panicked");
        }));
    });
}

/// The text of a panic.
pub(crate) fn panic_message(payload: &(dyn std::any::Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("no message")
}

/// Forwards events to the host, which filters them. Spans are not kept: their fields would cost on every call.
struct Forward;

impl Subscriber for Forward {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = RStr::from_str(metadata.target());
        metadata.is_event() && LOG.get().is_some_and(|host| host.log_enabled(level_code(*metadata.level()), target))
    }

    fn event(&self, event: &Event<'_>) {
        let Some(host) = LOG.get() else { return };
        let mut visitor = JsonFields { message: String::new(), fields: String::from("{") };
        event.record(&mut visitor);
        visitor.fields.push('}');
        let instance = SPEAKER.with_borrow(Clone::clone);
        host.log(
            level_code(*event.metadata().level()),
            RStr::from_str(instance.as_deref().unwrap_or_default()),
            RStr::from_str(event.metadata().target()),
            RStr::from_str(&visitor.message),
            RStr::from_str(&visitor.fields),
        );
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

    fn enter(&self, _: &span::Id) {}

    fn exit(&self, _: &span::Id) {}
}

/// 1 is error, 5 is trace.
fn level_code(level: Level) -> u8 {
    match level {
        Level::ERROR => 1,
        Level::WARN => 2,
        Level::INFO => 3,
        Level::DEBUG => 4,
        Level::TRACE => 5,
    }
}

struct JsonFields {
    message: String,
    fields: String,
}

impl JsonFields {
    fn key(&mut self, field: &Field) {
        if self.fields.len() > 1 {
            self.fields.push(',');
        }
        push_string(&mut self.fields, field.name());
        self.fields.push(':');
    }

    fn plain(&mut self, field: &Field, value: impl fmt::Display) {
        self.key(field);
        write!(self.fields, "{value}").expect("writing to a string does not fail");
    }
}

impl Visit for JsonFields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.record_str(field, &format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            value.clone_into(&mut self.message);
        } else {
            self.key(field);
            push_string(&mut self.fields, value);
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.plain(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        if value.is_finite() {
            self.plain(field, value);
        } else {
            self.record_str(field, &value.to_string());
        }
    }
}
