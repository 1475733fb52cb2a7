//! The implementing side of the boundary: wraps a backend so that nothing but answers leaves it.
//!
//! Plugins use it through [`export_backend!`](crate::export_backend); the host uses it to hand backends to layers.
//! Every entry point catches panics, the drop of the backend included. `import.rs` is the calling side.

use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use abi_stable::prefix_type::PrefixTypeTrait;
use abi_stable::sabi_trait::TD_Opaque;
use abi_stable::std_types::{RArc, ROption, RSlice, RStr, RString, RVec};

use crate::abi::{
    Answered, BackendHandle, CallContext, CheckArguments, ChildHandle, DeleteItem, DocumentHandle, DocumentPage,
    FoundState, HostHandle, Item, MergeAnswers, OpenArguments, Opened, PluginModule, PluginModuleRef, PutItem,
    READ_ONLY, RawBackend, RawBackend_TO, RawDocumentStore, RawDocumentStore_TO, StatePage, StoredDocument,
};
use crate::backend::{Backend, Child, Delete, OpenBackend, Opening};
use crate::capabilities::{ChildDescription, Description};
use crate::convert::{
    Answers, budget, check_count, fields_from_code, from_context, from_delete, from_ids, from_json, to_answered,
    to_found, to_json,
};
use crate::document_store::{Columns, Document, DocumentStore, OpenDocumentStore, Put, Scan};
use crate::error::{Error, Result};
use crate::import::ImportedBackend;
use crate::plugin_host::{Host, connect, panic_message};
use crate::query::Health;

/// Exports a backend from a `cdylib`: the one line that makes it a plugin.
///
/// The type implements [`OpenBackend`](crate::OpenBackend), which has an example. The library is named `libstorage_backend_<name>.so` to be
/// found by its name. Exported are the root module that the loader of abi_stable looks for, and the manifest, in a
/// section of its own that is read without running the library.
#[macro_export]
macro_rules! export_backend {
    ($name:literal, $backend:ty) => {
        $crate::__export_plugin!($name, BACKEND, $crate::__private::BackendPlugin<$backend>);
    };
}

/// Exports a [`DocumentStore`](crate::DocumentStore) from a `cdylib`; see [`export_backend!`](crate::export_backend), and
/// the whole plugin in the [documentation of the crate](crate).
#[macro_export]
macro_rules! export_document_store {
    ($name:literal, $store:ty) => {
        $crate::__export_plugin!($name, DOCUMENTS, $crate::__private::DocumentPlugin<$store>);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export_plugin {
    ($name:literal, $kind:ident, $plugin:ty) => {
        const _: () = {
            const PARTS: &[&str] = &[
                "{\"magic\":\"",
                $crate::__private::manifest::MAGIC,
                "\",\"abi\":\"",
                $crate::__private::manifest::ABI_RUST,
                "\",\"api\":\"",
                $crate::__private::manifest::API_VERSION,
                "\",\"kind\":\"",
                $crate::__private::manifest::$kind,
                "\",\"name\":\"",
                $name,
                "\",\"version\":\"",
                env!("CARGO_PKG_VERSION"),
                "\",\"panic\":\"",
                // Expanded in the plugin's crate, so it tells how the plugin is built.
                if cfg!(panic = "abort") { "abort" } else { "unwind" },
                "\",\"rustc\":\"",
                $crate::__private::manifest::RUSTC,
                "\",\"target\":\"",
                $crate::__private::manifest::TARGET,
                "\"}",
            ];
            const LENGTH: usize = $crate::__private::manifest::length(PARTS);

            #[used]
            #[cfg_attr(not(target_os = "macos"), unsafe(link_section = ".storage_plugin"))]
            #[cfg_attr(target_os = "macos", unsafe(link_section = "__DATA,__storage_plugin"))]
            static MANIFEST: [u8; LENGTH] = $crate::__private::manifest::concatenate::<LENGTH>(PARTS);

            extern "C" fn construct() -> $crate::__private::RootModuleResult {
                $crate::__private::root_module::<$plugin>()
            }

            // The name under which abi_stable 0.11 looks for a library's header. A `macro_rules!` can make it where
            // the derive of abi_stable cannot: it would need the plugin to depend on abi_stable itself.
            #[unsafe(export_name = "_1as_0lib_1header_0root_bmodule_bloader")]
            static HEADER: $crate::__private::LibHeader = $crate::__private::header(construct);
        };
    };
}

/// What [`export_backend!`](crate::export_backend) expands to. Not part of the contract.
pub mod private {
    pub use abi_stable::library::{LibHeader, RootModuleResult};

    pub use super::{BackendPlugin, DocumentPlugin, header, root_module};
    pub use crate::manifest;
}

/// A kind of plugin: the two functions of its root module.
pub trait Plugin: 'static {
    /// See [`OpenBackend::check`].
    extern "C" fn check(arguments: CheckArguments) -> Answered<RString>;
    /// See [`OpenBackend::open`].
    extern "C" fn open(arguments: OpenArguments) -> Answered<Opened>;
}

/// A plugin that exports a [`Backend`].
#[derive(Debug)]
pub struct BackendPlugin<B>(PhantomData<B>);

/// A plugin that exports a [`DocumentStore`].
#[derive(Debug)]
pub struct DocumentPlugin<S>(PhantomData<S>);

/// The header that abi_stable looks for.
#[must_use]
pub const fn header(
    construct: extern "C" fn() -> abi_stable::library::RootModuleResult,
) -> abi_stable::library::LibHeader {
    // SAFETY: `construct` is made by `export_backend!` and returns what `root_module` returns, a `PluginModuleRef`.
    unsafe {
        abi_stable::library::LibHeader::from_constructor::<PluginModuleRef>(
            construct,
            abi_stable::library::CheckTypeLayout::Yes,
        )
    }
}

/// Makes the root module of a plugin.
#[must_use]
pub fn root_module<P: Plugin>() -> abi_stable::library::RootModuleResult {
    abi_stable::library::__call_root_module_loader(|| {
        PluginModule { check: P::check, open: P::open }.leak_into_prefix()
    })
}

impl<B: OpenBackend> Plugin for BackendPlugin<B> {
    extern "C" fn check(arguments: CheckArguments) -> Answered<RString> {
        check_with(&arguments, |options, children| Ok(B::check(&from_json("options", options)?, children)))
    }

    extern "C" fn open(arguments: OpenArguments) -> Answered<Opened> {
        open_with(arguments, |options, opening, host| {
            let backend: Arc<dyn Backend> = Arc::new(B::open(from_json("options", options)?, opening)?);
            let handle = backend_handle(backend, host);
            Ok(Opened { backend: ROption::RSome(handle), documents: ROption::RNone, reserved: [0; 2] })
        })
    }
}

impl<S: OpenDocumentStore> Plugin for DocumentPlugin<S> {
    extern "C" fn check(arguments: CheckArguments) -> Answered<RString> {
        check_with(&arguments, |options, _| Ok(S::check(&from_json("options", options)?)))
    }

    extern "C" fn open(arguments: OpenArguments) -> Answered<Opened> {
        open_with(arguments, |options, opening, host| {
            let store: Arc<dyn DocumentStore> = Arc::new(S::open(from_json("options", options)?, opening)?);
            let shim = Shim { inner: Mutex::new(Some(store)), host: Some(host) };
            let handle: DocumentHandle = RawDocumentStore_TO::from_ptr(RArc::new(shim), TD_Opaque);
            Ok(Opened { backend: ROption::RNone, documents: ROption::RSome(handle), reserved: [0; 2] })
        })
    }
}

/// Lends a backend of this library to another one; the host does so with the children of a layer.
#[must_use]
pub fn lend_backend(backend: Arc<dyn Backend>) -> BackendHandle {
    let shim = Shim { inner: Mutex::new(Some(backend)), host: None };
    RawBackend_TO::from_ptr(RArc::new(shim), TD_Opaque)
}

fn backend_handle(backend: Arc<dyn Backend>, host: Host) -> BackendHandle {
    let shim = Shim { inner: Mutex::new(Some(backend)), host: Some(host) };
    RawBackend_TO::from_ptr(RArc::new(shim), TD_Opaque)
}

fn check_with(
    arguments: &CheckArguments,
    check: impl FnOnce(&str, &[ChildDescription]) -> Result<Description>,
) -> Answered<RString> {
    let result = caught(|| {
        connect(&arguments.host);
        let children: Vec<ChildDescription> = from_json("children", &arguments.children)?;
        let host = Host::new(&arguments.instance, share(&arguments.host));
        host.speaking(|| check(&arguments.options, &children))
    });
    to_answered(result.map(|description| to_json(&description).into()))
}

fn open_with(arguments: OpenArguments, open: impl FnOnce(&str, Opening, Host) -> Result<Opened>) -> Answered<Opened> {
    to_answered(caught(|| {
        connect(&arguments.host);
        let host = Host::new(&arguments.instance, arguments.host);
        let children = arguments.children.into_iter().map(child).collect::<Result<_>>()?;
        let opening = Opening {
            instance: arguments.instance.into_string(),
            children,
            deadline: Instant::now() + budget(arguments.budget_us),
            read_only: arguments.flags & READ_ONLY != 0,
            host: host.clone(),
        };
        host.clone().speaking(|| open(&arguments.options, opening, host))
    }))
}

fn child(handle: ChildHandle) -> Result<Child> {
    let capabilities = from_json("capabilities", &handle.capabilities)?;
    let (role, name) = (handle.role.into_string(), handle.name.into_string());
    Ok(Child {
        description: ChildDescription { role: role.clone(), name: name.clone(), capabilities },
        backend: Arc::new(ImportedBackend::new(handle.backend)),
        role,
        name,
    })
}

fn share(host: &HostHandle) -> HostHandle {
    HostHandle::from_sabi(host.obj.shallow_clone())
}

/// Runs a call and makes an error of a panic.
fn caught<T>(call: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|payload| {
        let error = Error::internal(format_args!("panicked: {}", panic_message(&*payload)));
        // A payload may panic when it is dropped.
        std::mem::forget(payload);
        Err(error)
    })
}

/// A backend or a store until it is closed. Each call holds it, so that it is dropped after the last one, caught.
struct Shim<T: ?Sized> {
    inner: Mutex<Option<Arc<T>>>,
    host: Option<Host>,
}

impl<T: ?Sized> Shim<T> {
    fn call<R>(&self, call: impl FnOnce(&T) -> Result<R>) -> Answered<R> {
        to_answered(caught(|| {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let inner = inner.ok_or_else(|| Error::internal("called after it was closed"))?;
            self.speaking(move || call(&inner))
        }))
    }

    fn close(&self, close: impl FnOnce(&T) -> Result<()>) -> Answered<()> {
        to_answered(caught(|| {
            let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
            // Closing twice is no error: the first one did it all.
            inner.map_or(Ok(()), |inner| self.speaking(move || close(&inner)))
        }))
    }

    fn speaking<R>(&self, call: impl FnOnce() -> R) -> R {
        match &self.host {
            Some(host) => host.speaking(call),
            None => call(),
        }
    }
}

impl<T: ?Sized> Drop for Shim<T> {
    fn drop(&mut self) {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner).take();
        let _ = caught(|| {
            drop(inner);
            Ok(())
        });
    }
}

fn health_json(answered: Answered<Health>) -> RString {
    let health = answered.into_result().unwrap_or_else(|failure| Health::unhealthy(failure.message));
    to_json(&health).into()
}

impl RawBackend for Shim<dyn Backend> {
    fn merge(&self, context: &CallContext, batch: RSlice<'_, Item<'_>>) -> Answered<MergeAnswers> {
        self.call(|backend| {
            let answers = backend.merge(&from_context(context), batch.as_slice())?;
            check_count(answers.len(), batch.len())?;
            Ok(Answers::of_merge(answers))
        })
    }

    fn get(&self, context: &CallContext, ids: RSlice<'_, RStr<'_>>, fields: u32) -> Answered<RVec<FoundState>> {
        self.call(|backend| {
            let ids = from_ids(ids);
            let found = backend.get(&from_context(context), &ids, fields_from_code(fields))?;
            check_count(found.len(), ids.len())?;
            Ok(ids.iter().zip(&found).map(|(id, found)| to_found(id, found.as_ref())).collect())
        })
    }

    fn list(&self, context: &CallContext, query: RStr<'_>) -> Answered<StatePage> {
        self.call(|backend| {
            let page = backend.list(&from_context(context), &from_json("query", &query)?)?;
            let entries = page.entries.iter().map(|(id, found)| to_found(id, Some(found))).collect();
            Ok(StatePage { entries, cursor: page.cursor.unwrap_or_default().into(), reserved: [0; 2] })
        })
    }

    fn counts(&self, context: &CallContext) -> Answered<RString> {
        self.call(|backend| Ok(to_json(&backend.counts(&from_context(context))?).into()))
    }

    fn delete(&self, context: &CallContext, items: RSlice<'_, DeleteItem<'_>>) -> Answered<MergeAnswers> {
        self.call(|backend| {
            // A digest that is none must not become an unconditional delete.
            if items.iter().any(|item| !matches!(item.digest.len(), 0 | 32)) {
                return Err(Error::internal("a digest has 32 bytes"));
            }
            let items: Vec<Delete<'_>> = items.iter().map(from_delete).collect();
            let answers = backend.delete(&from_context(context), &items)?;
            check_count(answers.len(), items.len())?;
            Ok(Answers::of_delete(answers))
        })
    }

    fn health(&self) -> RString {
        health_json(self.call(|backend| Ok(backend.health())))
    }

    fn flush(&self, context: &CallContext) -> Answered<()> {
        self.call(|backend| backend.flush(&from_context(context)))
    }

    fn close(&self, context: &CallContext) -> Answered<()> {
        self.close(|backend| backend.close(&from_context(context)))
    }

    fn prune(&self, context: &CallContext, prune: RStr<'_>) -> Answered<RString> {
        self.call(|backend| Ok(to_json(&backend.prune(&from_context(context), &from_json("prune", &prune)?)?).into()))
    }

    fn put_blob(&self, context: &CallContext, key: RStr<'_>, bytes: RSlice<'_, u8>) -> Answered<()> {
        self.call(|backend| backend.put_blob(&from_context(context), &key, &bytes))
    }

    fn get_blob(&self, context: &CallContext, key: RStr<'_>) -> Answered<ROption<RVec<u8>>> {
        self.call(|backend| Ok(backend.get_blob(&from_context(context), &key)?.map(RVec::from).into()))
    }

    fn scan_blobs(&self, context: &CallContext, after: RStr<'_>, limit: u64) -> Answered<RString> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        self.call(|backend| Ok(to_json(&backend.scan_blobs(&from_context(context), &after, limit)?).into()))
    }

    fn delete_blob(&self, context: &CallContext, key: RStr<'_>, untouched_since: i64) -> Answered<bool> {
        self.call(|backend| backend.delete_blob(&from_context(context), &key, untouched_since))
    }

    fn begin(&self, context: &CallContext) -> Answered<()> {
        self.call(|backend| backend.begin(&from_context(context)))
    }
}

impl RawDocumentStore for Shim<dyn DocumentStore> {
    fn get(&self, context: &CallContext, ids: RSlice<'_, RStr<'_>>) -> Answered<RVec<StoredDocument>> {
        self.call(|store| {
            let ids = from_ids(ids);
            let documents = store.get(&from_context(context), &ids)?;
            check_count(documents.len(), ids.len())?;
            Ok(ids.iter().zip(documents).map(|(id, document)| stored_document(id, document)).collect())
        })
    }

    fn put(&self, context: &CallContext, puts: RSlice<'_, PutItem<'_>>) -> Answered<MergeAnswers> {
        self.call(|store| {
            let puts: Vec<Put<'_>> = puts.iter().map(from_put).collect();
            let answers = store.put(&from_context(context), &puts)?;
            check_count(answers.len(), puts.len())?;
            Ok(Answers::of_put(answers))
        })
    }

    fn scan(&self, context: &CallContext, after: RStr<'_>, limit: u64) -> Answered<DocumentPage> {
        self.call(|store| {
            let scan = Scan { after: after.into(), limit: usize::try_from(limit).unwrap_or(usize::MAX) };
            let page = store.scan(&from_context(context), &scan)?;
            let documents = page.documents.into_iter().map(|(id, document)| stored_document(&id, Some(document)));
            Ok(DocumentPage { documents: documents.collect(), more: u8::from(page.more), reserved: [0; 15] })
        })
    }

    fn delete(&self, context: &CallContext, items: RSlice<'_, DeleteItem<'_>>) -> Answered<MergeAnswers> {
        self.call(|store| {
            let items: Vec<(&str, u64)> = items.iter().map(|item| (item.id.as_str(), item.version)).collect();
            let answers = store.delete(&from_context(context), &items)?;
            check_count(answers.len(), items.len())?;
            Ok(Answers::of_put(answers))
        })
    }

    fn health(&self) -> RString {
        health_json(self.call(|store| Ok(store.health())))
    }

    fn flush(&self, context: &CallContext) -> Answered<()> {
        self.call(|store| store.flush(&from_context(context)))
    }

    fn close(&self, context: &CallContext) -> Answered<()> {
        self.close(|store| store.close(&from_context(context)))
    }
}

fn stored_document(id: &str, document: Option<Document>) -> StoredDocument {
    let (version, bytes) = document.map_or((0, Vec::new()), |document| (document.version, document.bytes));
    StoredDocument { id: id.into(), bytes: bytes.into(), version, reserved: [0; 2] }
}

fn from_put<'a>(item: &'a PutItem<'a>) -> Put<'a> {
    Put {
        id: item.id.as_str(),
        expected: item.expected,
        bytes: item.bytes.as_slice(),
        columns: Columns {
            status: item.status.as_str(),
            language: item.language.as_str(),
            created_at: item.created_at,
        },
    }
}
