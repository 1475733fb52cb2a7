//! A full disk, on a small file system of its own. Skipped, and said so, where none can be mounted.

use std::process::Command;

use storage_plugin_api::ErrorKind;

use super::*;

/// A file system of 160 MiB, until it is dropped.
struct SmallDisk(TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let disk = Self(directory());
        let mount = |disk: &Self| {
            Command::new("mount").args(["-t", "tmpfs", "-o", "size=160m", "tmpfs"]).arg(disk.0.path()).output()
        };
        match mount(&disk) {
            Ok(output) if output.status.success() => Some(disk),
            _ => None,
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).output();
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "a skipped test is said")]
fn on_a_full_disk_nothing_is_lost_and_it_goes_on_by_itself() {
    let Some(disk) = SmallDisk::mount() else {
        eprintln!("skipped: no small file system can be mounted here");
        return;
    };
    let path = disk.0.path().join("data");
    let backend = open(&path);
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 116 << 20]).expect("written");
    let mut stored = Vec::new();
    let mut refused = None;
    for number in 0..20_000 {
        let id = format!("e-{number}");
        let mut state = queued("q", START + number);
        state.set_text(&EventStamp::new(START, "q"), "completed/output", "x".repeat(4000));
        let quick = Call::with_budget(Duration::from_millis(500));
        match with_items(&[(&*id, &state)], |batch| backend.merge(&quick, batch)) {
            Ok(_) => stored.push(id),
            Err(error) => {
                refused = Some(error);
                break;
            }
        }
    }

    let error = refused.expect("the disk fills up");
    assert!(matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Overloaded), "{error:?}");
    eventually("health says so", || !backend.health().healthy);
    assert!(backend.health().reason.contains("make room"), "{}", backend.health().reason);

    std::fs::remove_file(&ballast).expect("room");

    eventually("it goes on", || backend.health().healthy);
    backend.flush(&call()).expect("flushed");
    backend.close(&call()).expect("closed");
    drop(backend);
    let backend = open(&path);
    for id in &stored {
        assert!(get(&backend, id).is_some(), "{id} of {}", stored.len());
    }
    assert!(ids(&backend, &Query { limit: 100, ..Query::default() }).len() >= stored.len());
}
