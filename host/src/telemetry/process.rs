//! The metrics of the process: memory, processor time, open files, start. Read when they are asked for.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// Measures this process.
#[derive(Debug)]
pub(crate) struct Process {
    start_seconds: f64,
}

impl Process {
    /// Takes now for the start of the process.
    pub(crate) fn new() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        Self { start_seconds: now.map_or(0.0, |since| since.as_secs_f64()) }
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut encode = |name: &str, help: &str, unit: Option<&Unit>, metric: &dyn EncodeMetric| {
            metric.encode(encoder.encode_descriptor(name, help, unit, metric.metric_type())?)
        };
        let start = ConstGauge::new(self.start_seconds);
        encode("process_start_time", "When the process started, since 1970", Some(&Unit::Seconds), &start)?;
        if let Some(bytes) = resident_bytes() {
            encode("process_resident_memory", "Memory in use", Some(&Unit::Bytes), &ConstGauge::new(bytes))?;
        }
        if let Some(count) = open_files() {
            encode("process_open_fds", "Open files and sockets", None, &ConstGauge::new(count))?;
        }
        encode("process_cpu", "Processor time used", Some(&Unit::Seconds), &ConstCounter::new(cpu_seconds()))
    }
}

/// Resident memory; none where the system does not tell.
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn open_files() -> Option<u64> {
    Some(std::fs::read_dir("/proc/self/fd").ok()?.count() as u64)
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    #[expect(clippy::cast_precision_loss, reason = "a process does not run for 10^15 seconds")]
    let seconds = time.tv_sec as f64;
    seconds + f64::from(i32::try_from(time.tv_nsec).unwrap_or_default()) / 1e9
}
