//! Loads a plugin that is written in C, and reads its descriptor. Unsafe, since C promises by its header only.
//!
//! `c_store.rs` calls what is found here.

#![allow(unsafe_code, reason = "the loader of the boundary to plugins in C")]

use std::ffi::{CStr, c_char};
use std::path::Path;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use storage_plugin_api::c_abi::{
    ABI, BOOLEAN, Check, DeclaredOption as RawOption, Descriptor, Get, INTEGER, MAGIC, Open, Plain, PutAll, RemoveAll,
    SYMBOL, Scan, TEXT,
};

use super::c_options::{DeclaredOption, OptionKind};
use super::load::{Refused, chain};

/// Far more options than any plugin has; a larger number is a defect.
const MAX_OPTIONS: usize = 256;

/// A loaded plugin in C: its descriptor, found to be whole.
#[derive(Clone, Debug)]
pub(crate) struct CPlugin {
    pub(crate) flags: u32,
    pub(crate) parallel_calls: u64,
    pub(crate) options: Vec<DeclaredOption>,
    pub(crate) functions: Functions,
}

/// The functions of a plugin. Those of a library, which stays loaded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Functions {
    pub(crate) check: Option<Check>,
    pub(crate) open: Open,
    pub(crate) close: Plain,
    pub(crate) get: Get,
    pub(crate) put: PutAll,
    pub(crate) scan: Scan,
    pub(crate) remove: RemoveAll,
    pub(crate) health: Option<Plain>,
    pub(crate) flush: Option<Plain>,
}

/// The members that say whether the rest can be read.
#[repr(C)]
#[derive(Clone, Copy)]
struct Head {
    magic: u64,
    abi: u32,
    struct_size: u32,
}

/// Loads a library that stays loaded for ever.
///
/// # Errors
/// When it cannot be loaded, or its descriptor is not whole.
pub(crate) fn load(path: &Path) -> Result<CPlugin, Refused> {
    // Bound at once: a function that is missing refuses the plugin, and does not end the worker when it is called.
    // SAFETY: loading runs code of the library; that it may be run was established by the steps before (`mod.rs`).
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    let library = library.map_err(|error| Refused::Open(chain(&error)))?;
    // SAFETY: only the address of the symbol is taken; what is there is checked before it is believed.
    let symbol = unsafe { library.get::<*const Descriptor>(SYMBOL) }.map(|symbol| *symbol);
    // Never unloaded: its threads and what it gave away would dangle.
    std::mem::forget(library);
    let address = symbol.map_err(|_| Refused::NoDescriptor)?;
    read(address).map_err(Refused::Descriptor)
}

/// Reads a descriptor as far as it says that it goes.
fn read(address: *const Descriptor) -> Result<CPlugin, String> {
    if address.is_null() || !address.is_aligned() {
        return Err("is no descriptor".to_owned());
    }
    // SAFETY: not null, aligned, and the symbol of a library that stays loaded; any bits are a valid `Head`. A symbol
    // with fewer bytes still lies in a mapped section.
    let head = unsafe { address.cast::<Head>().read() };
    if head.magic != MAGIC {
        return Err(format!("begins with {:#018x}, not with STORAGE_PLUGIN_MAGIC", head.magic));
    }
    if head.abi != ABI {
        return Err(format!("is of version {} of the layout, this worker knows {ABI}", head.abi));
    }
    if (head.struct_size as usize) < size_of::<Descriptor>() {
        return Err(format!("has {} bytes, this worker reads {}", head.struct_size, size_of::<Descriptor>()));
    }
    // SAFETY: as above, and it says that it is at least as large; any bits are valid, functions may be NULL.
    let descriptor = unsafe { address.read() };
    let missing = |name: &str| format!("has NULL for `{name}`");
    Ok(CPlugin {
        flags: descriptor.flags,
        parallel_calls: Some(descriptor.parallel_calls)
            .filter(|calls| *calls > 0)
            .ok_or("has 0 for `parallel_calls`, which is at least 1")?,
        options: options(descriptor.options, descriptor.option_count)?,
        functions: Functions {
            check: descriptor.check,
            open: descriptor.open.ok_or_else(|| missing("open"))?,
            close: descriptor.close.ok_or_else(|| missing("close"))?,
            get: descriptor.get.ok_or_else(|| missing("get"))?,
            put: descriptor.put.ok_or_else(|| missing("put"))?,
            scan: descriptor.scan.ok_or_else(|| missing("scan"))?,
            remove: descriptor.remove.ok_or_else(|| missing("remove"))?,
            health: descriptor.health,
            flush: descriptor.flush,
        },
    })
}

fn options(address: *const RawOption, count: usize) -> Result<Vec<DeclaredOption>, String> {
    if count == 0 {
        return Ok(Vec::new());
    }
    if address.is_null() || !address.is_aligned() || count > MAX_OPTIONS {
        return Err(format!("has {count} options at an address where there are none"));
    }
    // SAFETY: not null and aligned, and the header demands that as many are there.
    let raw = unsafe { std::slice::from_raw_parts(address, count) };
    let mut options: Vec<DeclaredOption> = Vec::with_capacity(count);
    for (index, option) in raw.iter().enumerate() {
        let name = name(option.name).ok_or_else(|| format!("has no readable name for option {index}"))?;
        if options.iter().any(|known| known.name == name) {
            return Err(format!("has the option `{name}` twice"));
        }
        let kind = match option.kind {
            TEXT => OptionKind::Text,
            INTEGER => OptionKind::Integer,
            BOOLEAN => OptionKind::Boolean,
            other => return Err(format!("has the unknown type {other} for option `{name}`")),
        };
        options.push(DeclaredOption { name, kind, required: option.required != 0 });
    }
    Ok(options)
}

fn name(address: *const c_char) -> Option<String> {
    if address.is_null() {
        return None;
    }
    // SAFETY: not null, and the header demands that a NUL ends it.
    let name = unsafe { CStr::from_ptr(address) };
    name.to_str().ok().filter(|name| !name.is_empty()).map(str::to_owned)
}
