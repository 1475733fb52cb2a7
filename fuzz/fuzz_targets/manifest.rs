//! A file that calls itself a plugin may be anything.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let _ = storage_worker::plugin::manifest::read(data);
});
