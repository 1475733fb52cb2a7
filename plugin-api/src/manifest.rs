//! What a plugin says of itself without being run: JSON in a section of its file.
//!
//! The host reads it from the bytes of the file, since loading a library already runs code of it.

use serde::{Deserialize, Serialize};

/// The section that holds the manifest (ELF).
pub const SECTION: &str = ".storage_plugin";
/// The section that holds the manifest (Mach-O; it allows 16 characters).
pub const SECTION_MACHO: &str = "__storage_plugin";
/// The value of [`Manifest::magic`].
pub const MAGIC: &str = "storage-plugin";
/// The value of [`Manifest::abi`] of a plugin written in Rust.
pub const ABI_RUST: &str = "rust-1";
/// The value of [`Manifest::abi`] of a plugin written in C (`plugin-api/include/storage_plugin.h`).
pub const ABI_C: &str = "c-1";
/// The value of [`Manifest::kind`] of a plugin that exports a [`Backend`](crate::Backend).
pub const BACKEND: &str = "backend";
/// The value of [`Manifest::kind`] of a plugin that exports a [`DocumentStore`](crate::DocumentStore).
pub const DOCUMENTS: &str = "documents";
/// The version of this crate, which is the version of the contract.
pub const API_VERSION: &str = env!("CARGO_PKG_VERSION");
/// The compiler that built this library.
pub const RUSTC: &str = env!("STORAGE_PLUGIN_RUSTC");
/// The target that it was built for.
pub const TARGET: &str = env!("STORAGE_PLUGIN_TARGET");

/// What a plugin says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`MAGIC`].
    pub magic: String,
    /// Which boundary it speaks: [`ABI_RUST`] or [`ABI_C`].
    pub abi: String,
    /// The version of this crate that it was built with.
    pub api: String,
    /// [`BACKEND`] or [`DOCUMENTS`].
    pub kind: String,
    /// The plugin's name.
    pub name: String,
    /// The plugin's version.
    pub version: String,
    /// What a panic does: `unwind`, or `abort`, which the host refuses. Empty in C, which has none.
    #[serde(default)]
    pub panic: String,
    /// The compiler of a plugin in Rust; empty in C.
    #[serde(default)]
    pub rustc: String,
    /// The compiler of a plugin in C; empty in Rust.
    #[serde(default)]
    pub compiler: String,
    /// The target.
    pub target: String,
}

/// The length of texts put together.
#[must_use]
#[doc(hidden)]
pub const fn length(parts: &[&str]) -> usize {
    let (mut total, mut index) = (0, 0);
    while index < parts.len() {
        total += parts[index].len();
        index += 1;
    }
    total
}

/// Texts put together while compiling, since a section can only hold plain bytes.
#[must_use]
#[doc(hidden)]
pub const fn concatenate<const LENGTH: usize>(parts: &[&str]) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let (mut position, mut index) = (0, 0);
    while index < parts.len() {
        let part = parts[index].as_bytes();
        let mut byte = 0;
        while byte < part.len() {
            bytes[position] = part[byte];
            position += 1;
            byte += 1;
        }
        index += 1;
    }
    bytes
}
