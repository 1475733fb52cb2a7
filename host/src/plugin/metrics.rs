//! Hands what plugins count to the host's metrics.

use super::host_api::PluginMetrics;
use crate::telemetry::metrics::{BackendMetricLabels, Metrics};

impl PluginMetrics for Metrics {
    fn count(&self, instance: &str, name: &str, by: f64) {
        // A counter never falls, whatever a plugin says.
        if by > 0.0 {
            let labels = BackendMetricLabels { backend: instance.to_owned(), metric: name.to_owned() };
            self.backend_count.get_or_create(&labels).inc_by(by);
        }
    }

    fn gauge(&self, instance: &str, name: &str, value: f64) {
        self.set_backend_gauge(instance, name, value);
    }

    fn loaded(&self, libraries: usize) {
        self.plugins_loaded.set(libraries.try_into().unwrap_or(i64::MAX));
    }
}
