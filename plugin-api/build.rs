//! Tells the crate which compiler builds it, for the manifest of plugins.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    let version =
        Command::new(rustc).arg("--version").output().ok().and_then(|output| String::from_utf8(output.stdout).ok());
    println!("cargo::rustc-env=STORAGE_PLUGIN_RUSTC={}", version.as_deref().map_or("unknown", str::trim));
    println!("cargo::rustc-env=STORAGE_PLUGIN_TARGET={}", std::env::var("TARGET").unwrap_or_default());
    println!("cargo::rerun-if-changed=build.rs");
}
