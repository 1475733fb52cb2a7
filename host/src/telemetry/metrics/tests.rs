//! What the metrics look like to Prometheus.

use super::*;

#[test]
fn metrics_are_named_after_unit_and_kind() {
    let metrics = Metrics::new();
    metrics.events_received.get_or_create(&ChannelLabel { channel: "evaluation:queued".to_owned() }).inc_by(3);
    metrics.events_rejected.get_or_create(&ReasonLabel { reason: "invalid_json" }).inc();
    metrics.merges.get_or_create(&MergeLabels { backend: "file".to_owned(), outcome: "created" }).inc_by(2);
    metrics.merge_seconds.get_or_create(&BackendLabel { backend: "file".to_owned() }).observe(0.004);
    metrics.redis_disconnected_seconds.inc_by(1.5);
    metrics.clone().queue_bytes.set(17);

    let text = metrics.encode();

    for line in [
        "storage_worker_events_received_total{channel=\"evaluation:queued\"} 3",
        "storage_worker_events_rejected_total{reason=\"invalid_json\"} 1",
        "storage_worker_merges_total{backend=\"file\",outcome=\"created\"} 2",
        "storage_worker_merge_seconds_bucket{le=\"0.005\",backend=\"file\"} 1",
        "storage_worker_redis_disconnected_seconds_total 1.5",
        "storage_worker_queue_bytes 17",
        "storage_worker_generation 0",
        &format!("storage_worker_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")),
    ] {
        assert!(text.lines().any(|other| other == line), "{line} is not in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[test]
fn what_was_measured_of_a_backend_goes_with_it_and_what_was_counted_stays() {
    let metrics = Metrics::new();
    for backend in ["a", "b"] {
        metrics.set_backend_gauge(backend, "held", 2.0);
        metrics.set_backend_gauge(backend, "held", 3.0);
        metrics.breaker_open.get_or_create(&BackendLabel { backend: backend.to_owned() }).set(1);
        metrics.merges.get_or_create(&MergeLabels { backend: backend.to_owned(), outcome: "created" }).inc();
    }

    metrics.forget_backend("a");

    let text = metrics.encode();
    let lines = |of: &str| text.lines().filter(|line| line.contains(of)).count();
    assert_eq!((lines("{backend=\"a\""), lines("{backend=\"b\"")), (1, 3), "{text}");
    assert!(text.contains("merges_total{backend=\"a\""), "{text}");
}

#[cfg(target_os = "linux")]
#[test]
fn the_process_is_measured() {
    let text = Metrics::new().encode();

    let value = |name: &str| {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} is not in\n{text}"));
        line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")
    };
    assert!(value("process_resident_memory_bytes ") > 100_000.0);
    assert!(value("process_start_time_seconds ") > 1.7e9);
    assert!(value("process_cpu_seconds_total ") >= 0.0);
    assert!(value("process_open_fds ") > 2.0);
}
