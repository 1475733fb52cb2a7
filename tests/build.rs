//! Tells the kit which version of the contract this workspace has.

fn main() {
    let manifest = std::fs::read_to_string("../plugin-api/Cargo.toml").expect("read plugin-api/Cargo.toml");
    let line = manifest.lines().find_map(|line| line.strip_prefix("version = \"")).expect("it has a version");
    println!("cargo::rustc-env=PLUGIN_API_VERSION={}", line.trim_end_matches('"'));
    println!("cargo::rustc-env=CARGO={}", std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    println!("cargo::rerun-if-changed=../plugin-api/Cargo.toml");
}
