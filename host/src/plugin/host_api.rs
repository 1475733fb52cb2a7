//! What plugins may call: the host's log and its metrics. A panic in here would end the process, so each is caught.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RArc, RStr};
use storage_plugin_api::abi::{HostApi, HostApi_TO, HostHandle};
use tracing::Level;

/// The `tracing` target of everything that plugins log; their own target is a field.
pub const TARGET: &str = "plugin";

/// Where the metrics of plugins go.
pub trait PluginMetrics: Send + Sync + fmt::Debug + 'static {
    /// Adds to a counter of an instance.
    fn count(&self, instance: &str, name: &str, by: f64);
    /// Sets a gauge of an instance.
    fn gauge(&self, instance: &str, name: &str, value: f64);
    /// Says how many libraries are loaded.
    fn loaded(&self, libraries: usize) {
        let _ = libraries;
    }
}

/// A handle of the host that a plugin can keep.
pub(crate) fn handle(metrics: Arc<dyn PluginMetrics>) -> HostHandle {
    HostApi_TO::from_ptr(RArc::new(Host { metrics }), TD_Opaque)
}

struct Host {
    metrics: Arc<dyn PluginMetrics>,
}

impl HostApi for Host {
    fn log_enabled(&self, level: u8, _target: RStr<'_>) -> bool {
        caught(|| match level_of(level) {
            Level::ERROR => tracing::enabled!(target: TARGET, Level::ERROR),
            Level::WARN => tracing::enabled!(target: TARGET, Level::WARN),
            Level::INFO => tracing::enabled!(target: TARGET, Level::INFO),
            Level::DEBUG => tracing::enabled!(target: TARGET, Level::DEBUG),
            Level::TRACE => tracing::enabled!(target: TARGET, Level::TRACE),
        })
        .unwrap_or(false)
    }

    fn log(&self, level: u8, instance: RStr<'_>, target: RStr<'_>, message: RStr<'_>, fields: RStr<'_>) {
        let (backend, plugin_target) = (instance.as_str(), target.as_str());
        let (message, fields) = (message.as_str(), fields.as_str());
        macro_rules! log {
            ($level:expr) => {
                tracing::event!(target: TARGET, $level, backend, plugin_target, fields, "{message}")
            };
        }
        let _ = caught(|| match level_of(level) {
            Level::ERROR => log!(Level::ERROR),
            Level::WARN => log!(Level::WARN),
            Level::INFO => log!(Level::INFO),
            Level::DEBUG => log!(Level::DEBUG),
            Level::TRACE => log!(Level::TRACE),
        });
    }

    fn metric(&self, kind: u8, instance: RStr<'_>, name: RStr<'_>, value: f64) {
        let _ = caught(|| match kind {
            0 => self.metrics.count(&instance, &name, value),
            _ => self.metrics.gauge(&instance, &name, value),
        });
    }
}

fn level_of(code: u8) -> Level {
    match code {
        1 => Level::ERROR,
        2 => Level::WARN,
        3 => Level::INFO,
        4 => Level::DEBUG,
        _ => Level::TRACE,
    }
}

fn caught<T>(call: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(call)).map_err(std::mem::forget).ok()
}
