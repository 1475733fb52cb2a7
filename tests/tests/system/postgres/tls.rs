//! TLS to the server, as each `sslmode` has it: what is encrypted, who the server must be, and who we are.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{Backend, Error, ErrorKind};
use storage_worker_tests::authority::{Authority, Certificate, self_signed};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::RedisServer;
use storage_worker_tests::second_model::Sent;

use super::{open, setup};
use crate::SOON;

/// Has the server show a certificate, and trust the clients of an authority.
fn show(server: &mut PostgresServer, certificate: &Certificate, clients: &Authority) {
    let read = |path: &Path| std::fs::read(path).expect("read what was made");
    server.keep("server.crt", &read(&certificate.certificate));
    server.keep("server.key", &read(&certificate.key));
    let clients = server.keep("clients.crt", &read(&clients.certificate()));
    server.set("ssl=on");
    server.set(&format!("ssl_ca_file={}", clients.display()));
    server.restart();
}

/// The URL of a server under some name, which nobody needs to know for the way to it.
fn url(server: &PostgresServer, host: &str, more: &str) -> String {
    format!("postgres://postgres@{host}:{}/postgres?hostaddr=127.0.0.1&{more}", server.port())
}

fn root(authority: &Authority) -> String {
    format!("&sslrootcert={}", authority.certificate().display())
}

/// Whether an instance that is open talks to the server through TLS.
fn is_encrypted(server: &PostgresServer, name: &str) -> bool {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = '{name}' AND ssl = "
    );
    let database = server.connect();
    let [encrypted, plain] = ["true", "false"].map(|is| database.number(&format!("{sql}{is}")));
    assert!((encrypted == 0) != (plain == 0), "{encrypted} encrypted and {plain} plain connections of {name}");
    encrypted > 0
}

/// Opens at a URL with other options.
fn open_at(server: &PostgresServer, cache: &Path, url: &str, more: &Value) -> Result<Arc<dyn Backend>, Error> {
    let mut options = json!({"url": url});
    if let (Some(options), Some(more)) = (options.as_object_mut(), more.as_object()) {
        options.extend(more.clone());
    }
    open(server, cache, &options)
}

/// What became of an opening.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    Plain,
    Encrypted,
    /// Refused, for a reason that has these words.
    Refused(&'static str),
}

#[track_caller]
fn assert_comes(server: &PostgresServer, cache: &Path, url: &str, expected: &Came) {
    match (open_at(server, cache, url, &json!({"application_name": "asked"})), expected) {
        (Ok(backend), expected) => {
            let came = if is_encrypted(server, "asked") { Came::Encrypted } else { Came::Plain };
            assert_eq!(came, *expected, "{url}");
            drop(backend);
        }
        (Err(error), Came::Refused(words)) => {
            // The server may get another certificate tomorrow.
            assert_eq!(error.kind, ErrorKind::Unavailable, "{url}: {error}");
            assert!(error.message.contains(words), "{url}: {error}");
        }
        (Err(error), expected) => panic!("{url}: {expected:?}, but {error}"),
    }
    let gone = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'asked'";
    let database = server.connect();
    storage_worker_tests::wait::eventually(SOON, "the connections to end", || database.number(gone) == 0);
}

#[test]
fn each_sslmode_encrypts_and_checks_what_it_says() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (mut server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let (ours, others) = (root(&authority), root(&stranger));

    for (mode, expected) in [
        ("disable", Came::Plain),
        ("prefer", Came::Plain),
        ("require", Came::Refused("does not support TLS")),
        ("verify-ca", Came::Refused("does not support TLS")),
        ("verify-full", Came::Refused("does not support TLS")),
    ] {
        let url = url(&server, "db.test", &format!("sslmode={mode}{ours}"));
        assert_comes(&server, cache.path(), &url, &expected);
    }

    show(&mut server, &authority.issue("/CN=db.test", "DNS:db.test"), &authority);
    for (host, mode, root, expected) in [
        ("db.test", "disable", "", Came::Plain),
        ("db.test", "prefer", "", Came::Encrypted),
        ("db.test", "require", "", Came::Encrypted),
        // As libpq has it: who names an authority wants it asked.
        ("other.test", "require", &*ours, Came::Encrypted),
        ("db.test", "require", &*others, Came::Refused("UnknownIssuer")),
        ("other.test", "verify-ca", &*ours, Came::Encrypted),
        ("db.test", "verify-ca", &*others, Came::Refused("UnknownIssuer")),
        ("db.test", "verify-full", &*ours, Came::Encrypted),
        ("db.test", "verify-full", &*others, Came::Refused("UnknownIssuer")),
        // The authorities of the system do not know this one.
        ("db.test", "verify-full", "", Came::Refused("UnknownIssuer")),
        ("other.test", "verify-full", &*ours, Came::Refused("not valid for name \"other.test\"")),
        ("127.0.0.1", "verify-full", &*ours, Came::Refused("not valid for name")),
    ] {
        assert_comes(&server, cache.path(), &url(&server, host, &format!("sslmode={mode}{root}")), &expected);
    }

    show(&mut server, &authority.issue("/CN=any", "IP:127.0.0.1"), &authority);
    let by_address = url(&server, "127.0.0.1", &format!("sslmode=verify-full{ours}"));
    assert_comes(&server, cache.path(), &by_address, &Came::Encrypted);
}

/// `openssl req -x509` makes an authority of a certificate; that used to keep it from being the server's own.
#[test]
fn a_certificate_that_signed_itself_can_be_trusted_by_itself() {
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let made = self_signed(cache.path(), "DNS:db.test");
    let mut server = PostgresServer::start();
    show(&mut server, &made, &Authority::new());
    let trusted = format!("&sslrootcert={}", made.certificate.display());

    for (host, mode, expected) in [
        ("db.test", "verify-full", Came::Encrypted),
        ("other.test", "verify-ca", Came::Encrypted),
        ("other.test", "verify-full", Came::Refused("not valid for name \"other.test\"")),
    ] {
        assert_comes(&server, cache.path(), &url(&server, host, &format!("sslmode={mode}{trusted}")), &expected);
    }

    // Another one that signed itself under the same name is another one.
    let elsewhere = tempfile::tempdir().expect("make a temporary directory");
    show(&mut server, &self_signed(elsewhere.path(), "DNS:db.test"), &Authority::new());
    let url = url(&server, "db.test", &format!("sslmode=verify-ca{trusted}"));
    assert_comes(&server, cache.path(), &url, &Came::Refused("invalid peer certificate"));
}

#[test]
fn a_worker_shows_its_certificate_to_a_server_that_asks_for_it() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    let (redis, mut server) = (RedisServer::start(), PostgresServer::start());
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let [ours, others] = [&authority, &stranger].map(|authority| authority.issue("/CN=postgres", ""));
    // Who has none comes in from elsewhere: the test itself.
    server.let_in_only("hostssl all all 127.0.0.1/32 cert\nhostnossl all all 127.0.0.1/32 trust");
    show(&mut server, &authority.issue("/CN=db.test", "DNS:db.test"), &authority);
    let url = url(&server, "db.test", &format!("sslmode=verify-full{}", root(&authority)));
    let with = |shown: &Certificate| json!({"sslcert": shown.certificate, "sslkey": shown.key});

    let without = open_at(&server, cache.path(), &url, &json!({})).map(drop).expect_err("it has to show one");
    let strange = open_at(&server, cache.path(), &url, &with(&others)).map(drop).expect_err("nobody knows it");

    assert!(without.message.contains("requires a valid client certificate"), "{without}");
    assert!(strange.message.contains("cannot connect to database"), "{strange}");
    let [certificate, key] = [&ours.certificate, &ours.key].map(|path| path.to_str().expect("paths are Unicode"));
    let setup = setup(&redis, &server)
        .set("backends.main.options.url", url)
        .set("backends.main.options.sslcert", certificate)
        .set("backends.main.options.sslkey", key);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let event = json!({"eval_id": "e", "event_id": "1", "output": "seen", "timestamp": "2025-01-01T00:00:00Z"});
    Publisher::new(&redis).publish(&[Sent::new("evaluation:completed", &event)]);
    confirmations.wait_for(1, SOON);
    assert!(is_encrypted(&server, "storage-worker"));
    worker.terminate(Duration::from_secs(30));
}

#[test]
fn certificates_that_cannot_be_read_end_the_start_by_name() {
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let empty = cache.path().join("empty.pem");
    std::fs::write(&empty, "nothing").expect("write a file");
    let authority = Authority::new();
    let (issued, other) = (authority.issue("/CN=a", ""), authority.issue("/CN=b", ""));
    for (options, named) in [
        (json!({"sslmode": "verify-ca", "sslrootcert": "/nowhere/ca.pem"}), "/nowhere/ca.pem"),
        (json!({"sslmode": "verify-ca", "sslrootcert": empty}), "empty.pem` has no certificate"),
        (json!({"sslcert": empty, "sslkey": issued.key}), "empty.pem"),
        (json!({"sslcert": issued.certificate, "sslkey": "/nowhere/key.pem"}), "/nowhere/key.pem"),
        (json!({"sslcert": issued.certificate, "sslkey": empty}), "empty.pem` has no private key"),
        (json!({"sslcert": issued.certificate, "sslkey": other.key}), "`sslcert` and `sslkey`"),
    ] {
        let error = open(&server, cache.path(), &options).map(drop).expect_err("it cannot be read");

        assert_eq!(error.kind, ErrorKind::Configuration, "{options}: {error}");
        assert!(error.message.contains(named), "{options}: {error}");
    }
}
