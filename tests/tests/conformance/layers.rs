//! Every layer keeps the whole contract over every store, and layers over layers do.
//!
//! A tree is written `layer(primary, other)`. What a tree must reach follows from its stores. `LAYERS=all` tries every
//! layer over every store, every order of the three over every store, and the few trees that are always tried;
//! `LAYERS='mirror(file, memory)'` that one.

use std::fmt::Write;
use std::time::Instant;

use storage_worker_tests::outside::build_example;
use storage_worker_tests::postgres_server::PostgresServer;

use crate::Kit;
use crate::right::assert_reached;

/// Each layer above the two others, each store below all of them, and one that used to fail.
const FEW: [&str; 4] = [
    "composite(mirror_all(tiered(postgres, file), sqlite), file)",
    "tiered(composite(mirror_all(sqlite, sqlite), sqlite), sqlite)",
    "mirror(tiered(composite(memory, file), file), memory)",
    // Exclusive for its shadow alone, which refuses nobody.
    "mirror(sqlite, memory)",
];

const STORES: [&str; 4] = ["memory", "file", "sqlite", "postgres"];

/// With `ack = "primary"` no shadow keeps files: where the primary is another process, the kit sees a file that was written
/// to and not synced before the answer, and cannot know that nothing depends on it.
fn all() -> Vec<String> {
    let over = |layer: &str, primary: &str, store: &str| format!("{layer}({primary}, {store})");
    let mut trees = Vec::new();
    for store in STORES {
        for (layer, other) in [
            ("composite", "file"),
            ("tiered", "sqlite"),
            ("mirror", "memory"),
            ("mirror", "postgres"),
            ("mirror_all", "sqlite"),
        ] {
            trees.push(over(layer, store, other));
        }
        let [composite, tiered, mirror] = [("composite", "sqlite"), ("tiered", "file"), ("mirror_all", "sqlite")];
        for order in [
            [composite, tiered, mirror],
            [composite, mirror, tiered],
            [tiered, composite, mirror],
            [tiered, mirror, composite],
            [mirror, composite, tiered],
            [mirror, tiered, composite],
            [composite, tiered, ("mirror", "memory")],
        ] {
            let below = |tree: String, (layer, other): &(&str, &str)| over(layer, &tree, other);
            trees.push(order.iter().rev().fold(store.to_owned(), below));
        }
    }
    trees.extend(FEW.map(str::to_owned));
    trees
}

/// What one backend of a tree is.
struct Built {
    name: String,
    durable: bool,
    /// Several processes may store in it.
    shared: bool,
}

/// Writes the configuration of a tree, children first.
struct Builder<'a> {
    text: String,
    count: usize,
    sqlite: &'a str,
    postgres: &'a str,
}

impl Builder<'_> {
    fn add(&mut self, plugin: &str, children: &str, options: &str) -> String {
        self.count += 1;
        let name = format!("b{}", self.count);
        let options = options.replace("NAME", &name);
        writeln!(
            self.text,
            "[backends.{name}]\nplugin = \"{plugin}\"\nchildren = {{ {children} }}\noptions = {{ {options} }}"
        )
        .expect("writing to a string does not fail");
        name
    }

    fn build(&mut self, tree: &str) -> Built {
        let Some((layer, children)) = tree.split_once('(') else { return self.store(tree) };
        let children = children.strip_suffix(')').expect("a layer has children in parentheses");
        let (primary, other) = children.rsplit_once(", ").expect("a layer has a primary and another child");
        let (primary, other) = (self.build(primary), self.build(other));
        let child = |role: &str| format!("primary = \"{}\", {role} = \"{}\"", primary.name, other.name);
        let shared = primary.shared && other.shared;
        let (name, durable) = match layer {
            "composite" => {
                let cache = self.add("memory", "", "evict = true, max_bytes = \"8MiB\"");
                let children = format!("{}, cache = \"{cache}\"", child("fallback"));
                (self.add("cached-composite", &children, "catch_up_batch = 7"), primary.durable)
            }
            // So low that the bodies of the kit are moved.
            "tiered" => {
                let options = "threshold = 64, preview = 16";
                (self.add("tiered", &child("blobs"), options), primary.durable && other.durable)
            }
            "mirror" => (self.add("mirror", &child("shadow"), "ack = \"primary\""), primary.durable),
            "mirror_all" => (self.add("mirror", &child("shadow"), "ack = \"all\""), primary.durable && other.durable),
            other => panic!("there is no layer `{other}`"),
        };
        Built { name, durable, shared }
    }

    fn store(&mut self, store: &str) -> Built {
        let (sqlite, postgres) = (self.sqlite, self.postgres);
        let (name, durable, shared) = match store {
            "memory" => (self.add("memory", "", ""), false, false),
            "file" => (self.add("file", "", "path = \"{dir}/NAME\""), true, false),
            "sqlite" => (self.add(sqlite, "", "path = \"{dir}/NAME.db\""), true, true),
            "postgres" => {
                let options =
                    format!("url = \"{postgres}\", durability = \"durable\", table_prefix = \"{{place}}_NAME\"");
                (self.add("postgres", "", &options), true, true)
            }
            other => panic!("there is no store `{other}`"),
        };
        Built { name, durable, shared }
    }
}

#[expect(clippy::print_stdout, reason = "how long each takes is for people")]
#[test]
fn layers_keep_the_contract_over_every_store_and_over_each_other() {
    let trees = match std::env::var("LAYERS").as_deref() {
        Ok("all") => all(),
        Ok(one) => vec![one.to_owned()],
        Err(_) => FEW.map(str::to_owned).to_vec(),
    };
    let built = tempfile::tempdir().expect("make a temporary directory");
    let sqlite = build_example("sqlite", built.path());
    let server = PostgresServer::start_with(&["fsync=off", "full_page_writes=off", "max_connections=300"]);
    let (sqlite, postgres) = (sqlite.to_str().expect("temporary paths are Unicode"), server.url());

    for tree in trees {
        let (began, kit) = (Instant::now(), Kit::new());
        let mut builder = Builder { text: String::new(), count: 0, sqlite, postgres: &postgres };
        let root = builder.build(&tree);
        let config = kit.cache().join("tree.toml");
        std::fs::write(&config, format!("[storage]\nbackend = \"{}\"\n{}", root.name, builder.text)).expect("written");
        let config = config.to_str().expect("temporary paths are Unicode");

        let answer = kit.run(&["--config", config, "--backend", &root.name, "--timeout", "300", "--output", "json"]);

        assert!(answer.stdout.starts_with('{'), "{tree}: {}", answer.stderr);
        let mut reached = if root.durable { vec!["basic", "durable", "complete"] } else { vec!["basic"] };
        reached.extend(root.shared.then_some("shared"));
        println!("{tree}: {} in {:.1?}", reached.join(", "), began.elapsed());
        assert_reached(&answer.json(), &reached);
    }
}
