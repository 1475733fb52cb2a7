//! Hands what plugins count to the host's metrics.

use super::host_api::PluginMetrics;
use crate::telemetry::metrics::{BackendMetricLabels, Metrics};

impl PluginMetrics for Metrics {
    fn count(&self, instance: &str, name: &str, by: f64) {
        // A counter never falls, whatever a plugin says.
        if by > 0.0 {
            self.backend_count.get_or_create(&labels(instance, name)).inc_by(by);
        }
    }

    fn gauge(&self, instance: &str, name: &str, value: f64) {
        self.backend_gauge.get_or_create(&labels(instance, name)).set(value);
    }
}

fn labels(instance: &str, name: &str) -> BackendMetricLabels {
    BackendMetricLabels { backend: instance.to_owned(), metric: name.to_owned() }
}
