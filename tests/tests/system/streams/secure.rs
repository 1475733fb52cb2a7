//! Redis with TLS of a private authority, client certificates, and a user of its own for the worker.

use std::path::Path;

use serde_json::json;
use storage_worker_tests::authority::{Authority, Certificate};
use storage_worker_tests::confirmations::Confirmations;
use storage_worker_tests::publisher::Publisher;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::second_model::Sent;
use storage_worker_tests::streams::Stream;
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{GROUP, STREAM, setup, wait_until_settled};
use crate::SOON;

/// What the two sides show each other.
struct Certificates {
    authority: Authority,
    server: Certificate,
    client: Certificate,
}

impl Certificates {
    fn make() -> Self {
        let authority = Authority::new();
        let server = authority.issue("/CN=server", "IP:127.0.0.1");
        let client = authority.issue("/CN=client", "");
        Self { authority, server, client }
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("temporary paths are Unicode")
}

fn failed(id: &str) -> Sent {
    Sent::new("evaluation:failed", &json!({"eval_id": id, "error": "x"}))
}

/// A server that speaks TLS on a port beside its plain one, and asks for a client certificate.
fn start_redis(certificates: &Certificates) -> (RedisServer, u16) {
    let port = free_port();
    let Certificates { authority, server, .. } = certificates;
    let (port_text, authority) = (port.to_string(), authority.certificate());
    let arguments = [
        ["--tls-port", &*port_text],
        ["--tls-cert-file", text(&server.certificate)],
        ["--tls-key-file", text(&server.key)],
        ["--tls-ca-cert-file", text(&authority)],
        ["--tls-auth-clients", "yes"],
    ];
    (RedisServer::start_with(arguments.as_flattened()), port)
}

/// A worker's configuration with all that docs/streams.md says is needed.
fn secure(redis: &RedisServer, port: u16, certificates: &Certificates) -> Setup {
    setup(redis, "memory", "a")
        .set("source.pubsub.enabled", true)
        .set("redis.url", format!("rediss://worker:secret@127.0.0.1:{port}"))
        .set("redis.tls.ca_file", text(&certificates.authority.certificate()))
        .set("redis.tls.certificate_file", text(&certificates.client.certificate))
        .set("redis.tls.key_file", text(&certificates.client.key))
}

fn create_user(redis: &RedisServer) {
    let rights = "SETUSER worker on >secret ~evaluation:events resetchannels &storage:* &evaluation:* +@connection +publish \
        +xinfo +xreadgroup +xack +xclaim +xpending +xrange +xgroup|create +xgroup|delconsumer +eval \
        +subscribe +unsubscribe +ping";
    let rights: Vec<&str> = rights.split_whitespace().collect();
    redis::cmd("ACL").arg(rights).exec(&mut redis.connect()).expect("set a user");
}

#[test]
fn streams_channels_and_confirmations_go_over_tls_with_a_client_certificate_and_a_user() {
    let certificates = Certificates::make();
    let (redis, port) = start_redis(&certificates);
    create_user(&redis);
    let setup = secure(&redis, port, &certificates);
    let worker = setup.start();
    let confirmations = Confirmations::listen(&redis);
    let mut stream = Stream::new(&redis, STREAM);

    stream.add(&[failed("added")]);
    Publisher::new(&redis).publish(&[failed("published")]);

    confirmations.wait_for(2, SOON);
    wait_until_settled(&mut stream);
    assert!(worker.record("added").is_some() && worker.record("published").is_some());
    let publish = setup.command(&["publish", "--stream", STREAM, "evaluation:failed", "{}"]).output().expect("run it");
    let errors = String::from_utf8_lossy(&publish.stderr).into_owned();
    assert!(errors.contains("no permissions"), "the command speaks TLS, too, and its user may not add: {errors}");
    let (status, log) = worker.terminate(SOON);
    assert!(status.success(), "{log}");
    assert_eq!(stream.consumers(GROUP), ["a"], "its user may remove its run");
    let warnings: Vec<String> = log.lines().into_iter().filter(|line| line.contains("no permissions")).collect();
    assert!(warnings.is_empty(), "{warnings:?}");
}

#[test]
fn certificates_that_are_wrong_are_named_and_right_ones_taken_without_a_restart() {
    let (certificates, others) = (Certificates::make(), Certificates::make());
    let (redis, port) = start_redis(&certificates);
    create_user(&redis);
    let setup = secure(&redis, port, &certificates);
    let authority = setup.path("ca.pem");
    std::fs::copy(others.authority.certificate(), &authority).expect("copy a file");
    let setup = setup.set("redis.tls.ca_file", text(&authority));
    let worker = setup.start_unready();
    let says = |text: &str| {
        eventually(SOON, text, || worker.http().get("/health").json().to_string().contains(text));
    };

    says("certificate");
    std::fs::remove_file(&authority).expect("remove a file");
    says("cannot read `");
    std::fs::copy(certificates.authority.certificate(), &authority).expect("copy a file");

    eventually(SOON, "the worker to be well", || worker.http().get("/health").status == 200);
}

#[test]
fn a_client_without_the_certificate_that_is_asked_for_is_told() {
    let certificates = Certificates::make();
    let (redis, port) = start_redis(&certificates);
    create_user(&redis);
    let worker = setup(&redis, "memory", "a")
        .set("redis.url", format!("rediss://worker:secret@127.0.0.1:{port}"))
        .set("redis.tls.ca_file", text(&certificates.authority.certificate()))
        .start_unready();

    eventually(SOON, "the reason", || {
        worker.http().get("/health").json().to_string().to_lowercase().contains("certificate")
    });
}
