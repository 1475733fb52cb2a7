//! The header for plugins in C says the same as the Rust definitions: a C compiler tells the sizes, the places and the
//! constants of the one, and they are compared with those of the other.

use std::fmt::Write;
use std::mem::{offset_of, size_of};
use std::path::Path;
use std::process::Command;

use storage_plugin_api::{ErrorKind, c_abi, manifest};

/// What is looked up in C, and what it must be.
#[derive(Default)]
struct Facts(Vec<(String, u64)>);

impl Facts {
    fn number(&mut self, expression: impl Into<String>, expected: u64) {
        self.0.push((expression.into(), expected));
    }

    fn size(&mut self, expression: impl Into<String>, expected: usize) {
        self.number(expression, expected as u64);
    }
}

macro_rules! structs {
    ($facts:expr, $($c:literal is $rust:ident { $($field:ident $(as $c_field:literal)?),* $(,)? })*) => {
        $(
            $facts.size(concat!("sizeof(", $c, ")"), size_of::<c_abi::$rust>());
            // In full, so that a field that is added is added here, too.
            let _ = |value: &c_abi::$rust| { let c_abi::$rust { $($field: _),* } = value; };
            $(
                let names: &[&str] = &[$($c_field,)? stringify!($field)];
                $facts.size(format!("offsetof({}, {})", $c, names[0]), offset_of!(c_abi::$rust, $field));
                $facts.size(format!("sizeof((({} *)0)->{})", $c, names[0]), size_of_field(|value: &c_abi::$rust| &value.$field));
            )*
        )*
    };
}

/// The size of what a function gives a reference to; the function is not called.
fn size_of_field<T, F>(_: impl Fn(&T) -> &F) -> usize {
    size_of::<F>()
}

fn facts() -> Facts {
    let mut facts = Facts::default();
    structs! { facts,
        "storage_text" is Text { bytes, length }
        "storage_option" is DeclaredOption { name, kind as "type", required }
        "storage_value" is Value { given, reserved, integer, text }
        "storage_put" is Put { id, expected, bytes, length, status, language, created_at, reserved }
        "storage_remove" is Remove { id, expected, reserved }
        "storage_host" is Host { struct_size, reserved, context, log, count, gauge }
        "storage_call" is Call {
            struct_size, attempt, budget_us, host, context, fail, document, answer, entry, figure, problem, note
        }
        "storage_description" is Description { struct_size, flags, parallel_calls }
        "storage_opening" is Opening { struct_size, flags, instance, values }
        "storage_descriptor" is Descriptor {
            magic, abi, struct_size, flags, reserved, parallel_calls, options, option_count,
            check, open, close, get, put, scan, remove, health, flush
        }
    }
    for (name, expected) in [
        ("STORAGE_PLUGIN_MAGIC", c_abi::MAGIC),
        ("STORAGE_PLUGIN_ABI", c_abi::ABI.into()),
        ("STORAGE_OK", c_abi::OK.into()),
        ("STORAGE_CONFLICT", c_abi::CONFLICT.into()),
        ("STORAGE_DURABLE", c_abi::DURABLE.into()),
        ("STORAGE_SHARED", c_abi::SHARED.into()),
        ("STORAGE_READ_ONLY", c_abi::READ_ONLY.into()),
        ("STORAGE_TEXT", c_abi::TEXT.into()),
        ("STORAGE_INTEGER", c_abi::INTEGER.into()),
        ("STORAGE_BOOLEAN", c_abi::BOOLEAN.into()),
    ] {
        facts.number(name, expected);
    }
    for kind in ErrorKind::ALL {
        facts.number(format!("STORAGE_{}", kind.as_str().to_uppercase()), kind.code().into());
    }
    for (code, level) in ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"].into_iter().enumerate() {
        facts.size(format!("STORAGE_{level}"), code + 1);
    }
    facts
}

/// What a C program prints that includes the header.
fn printed_in_c(body: &str) -> String {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (source, program) = (directory.path().join("facts.c"), directory.path().join("facts"));
    let text = format!(
        "#include <stdio.h>\n#include \"storage_plugin.h\"\n\
         STORAGE_PLUGIN_MANIFEST(\"odd\", \"0.1.0\")\n\
         const storage_descriptor storage_plugin_descriptor = {{ STORAGE_DESCRIPTOR_HEAD, .parallel_calls = 1 }};\n\
         int main(void) {{\n{body}    return 0;\n}}\n"
    );
    std::fs::write(&source, text).expect("written");
    let compiled = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
        .args(["-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-I"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
        .arg("-o")
        .args([&program, &source])
        .output()
        .expect("`cc` starts; install a C compiler");
    assert!(compiled.status.success(), "the header does not compile:\n{}", String::from_utf8_lossy(&compiled.stderr));
    let output = Command::new(&program).output().expect("the program starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("it prints text")
}

#[test]
fn sizes_places_and_constants_are_those_of_the_rust_definitions() {
    let facts = facts();
    let mut body = String::new();
    for (expression, _) in &facts.0 {
        writeln!(body, "    printf(\"%llu\\n\", (unsigned long long)({expression}));").expect("written");
    }

    let printed = printed_in_c(&body);

    let found: Vec<&str> = printed.lines().collect();
    assert_eq!(found.len(), facts.0.len());
    for ((expression, expected), found) in facts.0.iter().zip(found) {
        assert_eq!(
            *found,
            expected.to_string(),
            "`{expression}` of storage_plugin.h differs from plugin-api/src/c_abi.rs"
        );
    }
}

#[test]
fn the_manifest_that_the_header_writes_is_one_for_this_target() {
    let printed = printed_in_c("    fputs(storage_plugin_manifest, stdout);\n");

    let read: manifest::Manifest = serde_json::from_str(&printed).expect("it is JSON of a manifest");

    assert!(!read.compiler.is_empty());
    let expected = manifest::Manifest {
        magic: manifest::MAGIC.to_owned(),
        abi: manifest::ABI_C.to_owned(),
        api: manifest::API_VERSION.to_owned(),
        kind: manifest::DOCUMENTS.to_owned(),
        name: "odd".to_owned(),
        version: "0.1.0".to_owned(),
        panic: String::new(),
        rustc: String::new(),
        compiler: read.compiler.clone(),
        target: manifest::TARGET.to_owned(),
    };
    assert_eq!(read, expected);
}
