//! What crosses the plugin boundary has the layout of `today.txt`: sizes, offsets, fields and functions of every type. And
//! that is the layout of `1.0.0.txt`, which never changes again, with functions added at the end of tables.
//!
//! The loader compares the layout of a plugin with that of the worker; this test compares ours with that of the plugins
//! which are out there. What may change, and how, is in docs/plugin-compatibility.md.

mod growth;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use abi_stable::StableAbi;
use abi_stable::std_types::utypeid::UTypeId;
use abi_stable::type_layout::{TLData, TLField, TLFields, TypeLayout};
use storage_plugin_api::abi::PluginModuleRef;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/abi_layout").join(name)
}

/// `UPDATE_GOLDEN=1` changes nothing here: what fails is a plugin out there that no longer loads.
#[test]
fn the_layout_of_1_0_0_has_only_grown_and_only_at_its_ends() {
    let frozen = std::fs::read_to_string(golden("1.0.0.txt")).expect("read 1.0.0.txt");
    let today = everything_that_crosses();

    let growth = growth::of(&frozen, &today);

    let broken = growth.broken.join("\n\n");
    assert!(
        broken.is_empty(),
        "plugins that were built against plugin-api 1.0.0 would no longer load; only functions at the end of a trait or of \
         `PluginModule` may be added (docs/plugin-compatibility.md). Of these types the layout is another one now:\n\n{broken}"
    );
    let version = env!("CARGO_PKG_VERSION");
    assert!(
        growth.added.is_empty() || !version.starts_with("1.0."),
        "this is more than plugin-api 1.0.0 has, so `version` in plugin-api/Cargo.toml must be at least 1.1.0, not \
         {version}:\n\n{}",
        growth.added.join("\n\n")
    );
}

#[test]
fn the_layout_of_what_crosses_is_the_promised_one() {
    let golden = golden("today.txt");
    let found = everything_that_crosses();

    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&golden, &found).expect("write the golden file");
    }

    let promised = std::fs::read_to_string(&golden).expect("read today.txt");
    let differs = promised.lines().zip(found.lines()).find(|(promised, found)| promised != found);
    assert!(
        promised == found,
        "the layout of the plugin boundary has changed, first {differs:?} (promised, found);\n\
         only functions at the end of a trait or of `PluginModule` may be added, with a higher minor version:\n\
         read docs/plugin-compatibility.md, then run this test with UPDATE_GOLDEN=1\n\n{found}"
    );
}

/// A paragraph for each type that can be reached from what a plugin exports, sorted by name.
fn everything_that_crosses() -> String {
    let mut reached = HashMap::new();
    reach(<PluginModuleRef as StableAbi>::LAYOUT, &mut reached);
    reached.into_values().flatten().collect::<BTreeSet<_>>().into_iter().collect()
}

fn reach(layout: &'static TypeLayout, reached: &mut HashMap<UTypeId, Option<String>>) {
    if reached.contains_key(&layout.get_utypeid()) {
        return;
    }
    // Numbers and pointers are what their names say, and markers are nothing.
    let is_known = matches!(layout.data(), TLData::Primitive(_)) || layout.size() == 0;
    reached.insert(layout.get_utypeid(), (!is_known).then(|| paragraph(layout)));
    for nested in layout.shared_vars().type_layouts() {
        reach(nested(), reached);
    }
    if let Some(checks) = layout.extra_checks() {
        for nested in &*checks.nested_type_layouts() {
            reach(nested, reached);
        }
    }
}

fn paragraph(layout: &'static TypeLayout) -> String {
    let mut text = format!("{}: {} bytes, aligned to {}\n", name(layout), layout.size(), layout.alignment());
    match layout.data() {
        TLData::Struct { fields: all } => fields(&mut text, all),
        // A module or a table of functions, which may grow.
        TLData::PrefixType(prefix) => fields(&mut text, prefix.fields),
        TLData::Enum(variants) => {
            let mut all = variants.fields.iter();
            for (index, count) in variants.field_count.iter().enumerate() {
                let own: Vec<String> = all.by_ref().take(usize::from(*count)).map(|field| typed(&field)).collect();
                writeln!(text, "{}", format!("  variant {index}  {}", own.join(", ")).trim_end())
                    .expect("writing to a string does not fail");
            }
        }
        TLData::Primitive(_) | TLData::Opaque | TLData::Union { .. } => {}
    }
    text.push('\n');
    text
}

/// Fields with their offsets, which follow from the order of the declaration: it is what `repr(C)` keeps.
fn fields(text: &mut String, all: TLFields) {
    let mut offset: usize = 0;
    for field in all.iter() {
        let layout = field.layout();
        offset = offset.next_multiple_of(layout.alignment().max(1));
        writeln!(text, "  {offset:>3}  {}", typed(&field)).expect("writing to a string does not fail");
        offset += layout.size();
    }
}

fn typed(field: &TLField) -> String {
    let Some(function) = field.function_range().iter().next() else {
        return format!("{}: {}", field.name(), name(field.layout()));
    };
    // `fn(names,: type, name: type)->type`, and then lines about lifetimes.
    let whole = function.to_string();
    let line = whole
        .lines()
        .next()
        .unwrap_or_default()
        .replace("'a  ", "'a ")
        .replace(" ,", ",")
        .replace(" )->", ") -> ")
        .replace(")->", ") -> ");
    let (start, parameters) = line.split_once('(').expect("a function has parameters");
    let parameters =
        parameters.split_once(": ").filter(|(names, _)| !names.contains(')')).map_or(parameters, |(_, rest)| rest);
    let (parameters, _) = parameters.rsplit_once(" -> ").expect("a function returns something");
    let returned = function.return_type_layout().map_or_else(|| "()".to_owned(), |layout| name(layout()));
    format!("{}: {start}({parameters} -> {returned}", field.name())
}

/// The type, with what a container of abi_stable contains.
fn name(layout: &'static TypeLayout) -> String {
    let full = layout.full_type().to_string().replace("'a  ", "'a ").replace(" >", ">").trim_end().to_owned();
    let base = full.split('<').next().unwrap_or_default();
    let contained = match layout.data() {
        TLData::Enum(variants) if ["ROption", "RResult"].contains(&base) => {
            variants.fields.iter().map(|field| name(field.layout())).collect::<Vec<_>>()
        }
        TLData::Struct { fields } if ["RVec", "RSlice", "RArc"].contains(&base) => {
            let marker = fields.iter().find(|field| field.name() == "_marker").expect("it says what it contains");
            marker.layout().shared_vars().type_layouts().iter().map(|layout| name(layout())).collect()
        }
        _ => return full,
    };
    format!("{base}<{}>", contained.join(", "))
}
