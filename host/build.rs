//! Embeds the sources of plugin-api, which `storage-worker plugin new` writes beside a new plugin.

use std::fmt::Write;
use std::path::{Path, PathBuf};

fn main() {
    let root = PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../plugin-api");
    let mut files = vec![root.join("build.rs")];
    collect(&root.join("src"), &mut files);
    files.sort();
    let mut code = String::from("[\n");
    for file in &files {
        let name = file.strip_prefix(&root).expect("it lies below").to_str().expect("our files have plain names");
        let path = file.to_str().expect("cargo builds below a Unicode path");
        writeln!(code, "    ({name:?}, include_str!({path:?})),").expect("writing to a string does not fail");
    }
    code.push_str("]\n");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets it")).join("plugin_api_sources.rs");
    std::fs::write(out, code).expect("write the list of sources");
    println!("cargo::rerun-if-changed={}", root.join("src").display());
    println!("cargo::rerun-if-changed={}", root.join("build.rs").display());
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).expect("plugin-api has sources") {
        let path = entry.expect("a directory can be listed").path();
        match path.is_dir() {
            true => collect(&path, files),
            false if path.extension().is_some_and(|extension| extension == "rs") => files.push(path),
            false => {}
        }
    }
}
