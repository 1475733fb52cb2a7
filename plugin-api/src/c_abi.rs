//! The boundary to plugins that are written in C: the types and constants of `plugin-api/include/storage_plugin.h`.
//!
//! The header says what they mean; this is the same for Rust, and `plugin-api/tests/c_header.rs` compares the two with a
//! C compiler. The host speaks it (`host/src/plugin/c_store.rs`); plugins in Rust have nothing to do with it.

#![allow(missing_docs, reason = "the header documents them")]

use std::ffi::{c_char, c_void};

/// [`Descriptor::magic`].
pub const MAGIC: u64 = 0x6775_6c70_726f_7473;
/// [`Descriptor::abi`].
pub const ABI: u32 = 1;
/// The name of the exported [`Descriptor`].
pub const SYMBOL: &str = "storage_plugin_descriptor";

/// What a function answers, or an item, if it is no kind of error.
pub const OK: u32 = 0;
/// The answer to an item whose version is another one.
pub const CONFLICT: u32 = 6;

/// In [`Descriptor::flags`] and [`Description::flags`].
pub const DURABLE: u32 = 1;
/// In [`Descriptor::flags`] and [`Description::flags`].
pub const SHARED: u32 = 2;
/// In [`Opening::flags`].
pub const READ_ONLY: u32 = 1;

/// A [`DeclaredOption::kind`].
pub const TEXT: u32 = 1;
/// A [`DeclaredOption::kind`].
pub const INTEGER: u32 = 2;
/// A [`DeclaredOption::kind`].
pub const BOOLEAN: u32 = 3;

/// `storage_text`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Text {
    pub bytes: *const c_char,
    pub length: usize,
}

/// `storage_option`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DeclaredOption {
    pub name: *const c_char,
    /// `type` in C.
    pub kind: u32,
    pub required: u32,
}

/// `storage_value`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Value {
    pub given: u32,
    pub reserved: u32,
    pub integer: i64,
    pub text: Text,
}

/// `storage_put`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Put {
    pub id: Text,
    pub expected: u64,
    pub bytes: *const u8,
    pub length: usize,
    pub status: Text,
    pub language: Text,
    pub created_at: i64,
    pub reserved: [u64; 2],
}

/// `storage_remove`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Remove {
    pub id: Text,
    pub expected: u64,
    pub reserved: u64,
}

/// `storage_host`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub struct_size: u32,
    pub reserved: u32,
    pub context: *mut c_void,
    pub log: unsafe extern "C" fn(*const Host, u32, *const c_char),
    pub count: unsafe extern "C" fn(*const Host, *const c_char, u64),
    pub gauge: unsafe extern "C" fn(*const Host, *const c_char, f64),
}

/// `storage_call`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub struct_size: u32,
    pub attempt: u32,
    pub budget_us: u64,
    pub host: *const Host,
    pub context: *mut c_void,
    pub fail: unsafe extern "C" fn(*mut Call, u32, *const c_char) -> u32,
    pub document: unsafe extern "C" fn(*mut Call, usize, u64, *const c_void, usize),
    pub answer: unsafe extern "C" fn(*mut Call, usize, u32, *const c_char),
    pub entry: unsafe extern "C" fn(*mut Call, *const c_char, usize, u64, *const c_void, usize) -> u32,
    pub figure: unsafe extern "C" fn(*mut Call, *const c_char, i64),
    pub problem: unsafe extern "C" fn(*mut Call, *const c_char),
    pub note: unsafe extern "C" fn(*mut Call, *const c_char),
}

/// `storage_description`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Description {
    pub struct_size: u32,
    pub flags: u32,
    pub parallel_calls: u64,
}

/// `storage_opening`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    pub struct_size: u32,
    pub flags: u32,
    pub instance: Text,
    pub values: *const Value,
}

pub type Check = unsafe extern "C" fn(*mut Call, *const Value, *mut Description) -> u32;
pub type Open = unsafe extern "C" fn(*mut Call, *const Opening, *mut *mut c_void) -> u32;
pub type Get = unsafe extern "C" fn(*mut Call, *mut c_void, *const Text, usize) -> u32;
pub type PutAll = unsafe extern "C" fn(*mut Call, *mut c_void, *const Put, usize) -> u32;
pub type Scan = unsafe extern "C" fn(*mut Call, *mut c_void, Text, usize) -> u32;
pub type RemoveAll = unsafe extern "C" fn(*mut Call, *mut c_void, *const Remove, usize) -> u32;
/// `close`, `health` and `flush`.
pub type Plain = unsafe extern "C" fn(*mut Call, *mut c_void) -> u32;

/// `storage_descriptor`. Functions are `None` where the plugin has NULL.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Descriptor {
    pub magic: u64,
    pub abi: u32,
    pub struct_size: u32,
    pub flags: u32,
    pub reserved: u32,
    pub parallel_calls: u64,
    pub options: *const DeclaredOption,
    pub option_count: usize,
    pub check: Option<Check>,
    pub open: Option<Open>,
    pub close: Option<Plain>,
    pub get: Option<Get>,
    pub put: Option<PutAll>,
    pub scan: Option<Scan>,
    pub remove: Option<RemoveAll>,
    pub health: Option<Plain>,
    pub flush: Option<Plain>,
}
