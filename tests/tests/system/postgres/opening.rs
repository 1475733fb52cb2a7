//! What opens and what does not: wrong options, missing rights, newer tables, and a server that is not there yet.

use std::net::TcpListener;
use std::time::Duration;

use serde_json::{Value, json};
use storage_plugin_api::{Call, ErrorKind, EventStamp, Outcome, State, Status, with_items};
use storage_worker_tests::postgres_server::PostgresServer;
use storage_worker_tests::redis_server::{RedisServer, free_port};
use storage_worker_tests::wait::eventually;
use storage_worker_tests::worker::Setup;

use super::{open, refusal, setup};
use crate::SOON;

/// How a worker ends that cannot start, and what it says then.
fn start(setup: &Setup) -> (Option<i32>, String) {
    let output = setup.command(&["run"]).output().expect("run the worker");
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn wrong_options_end_the_start_with_one_clear_line() {
    let redis = RedisServer::start();
    for (key, value, said) in [
        ("url", "mysql://u:geheim@h/d", "`url` is no URL of PostgreSQL"),
        ("url", "postgres://u:geheim@h:port/d", "`url` cannot be read: invalid value for option `port`"),
        ("url", "postgres://u:gehei@geheim@h/d", "`%40`"),
        ("url", "host=h user=u password='geheim", "`url`: the quotes of `password` do not end"),
        ("url", "host=h user=u pasword='geheim' dbname=d", "unknown option `pasword`"),
        ("url", "postgres://u:geheim@h/d?colour=red", "unknown option `colour`"),
        ("url", "host=h,i port=1,2,3 user=u password=geheim", "`url` has 2 hosts and 3 ports"),
        ("urll", "postgres://u:geheim@h/d", "urll"),
        ("sslmode", "sometimes", "sometimes"),
    ] {
        let setup = Setup::new(&redis.url(), "postgres").set(&format!("backends.main.options.{key}"), value);

        let (code, text) = start(&setup);

        assert_eq!(code, Some(2), "{text}");
        let lines = text.lines().filter(|line| !line.contains("\"event\":\"plugin loaded\""));
        assert!(text.contains(said) && lines.count() == 1, "{text}");
        assert!(!text.contains("geheim") && !text.contains("[redacted]"), "{text}");
    }
}

#[test]
fn missing_rights_and_newer_tables_end_the_start() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let database = server.connect();
    database.run("CREATE ROLE little LOGIN");
    let little = json!({"url": server.url_for("little", server.port())});
    let (kind, message) = refusal(&server, cache.path(), &little);
    assert_eq!(kind, ErrorKind::Configuration, "{message}");
    assert!(message.contains("docs/postgres.md"), "{message}");
    drop(open(&server, cache.path(), &json!({})).expect("the tables are made"));

    let with_little =
        || setup(&redis, &server).set("backends.main.options.url", server.url_for("little", server.port()));
    let (code, text) = start(&with_little());
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("GRANT SELECT ON"), "{text}");

    database.run("GRANT SELECT, INSERT, UPDATE, DELETE ON evaluations, evaluation_events, evaluation_bodies TO little");
    database.run(
        "GRANT USAGE ON SEQUENCE evaluation_events_id_seq TO little; GRANT SELECT ON storage_worker_schema TO little",
    );
    drop(open(&server, cache.path(), &little).expect("these rights suffice"));

    database.run("INSERT INTO storage_worker_schema (version) VALUES (99)");
    let (code, text) = start(&setup(&redis, &server));
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("version 99"), "{text}");
}

#[test]
fn tables_of_others_and_of_an_older_migration_are_left_alone() {
    let server = PostgresServer::start();
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let database = server.connect();
    database.run("CREATE TABLE evaluations (id integer, title text)");

    let (kind, message) = refusal(&server, cache.path(), &json!({}));

    assert_eq!(kind, ErrorKind::Configuration);
    assert!(message.contains("`code_hash`") && message.contains("table_prefix"), "{message}");
    database.run("ALTER TABLE evaluations ADD COLUMN output_preview text");
    let (_, message) = refusal(&server, cache.path(), &json!({}));
    assert!(message.contains("alembic upgrade head"), "{message}");
    assert_eq!(database.number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), 1);

    // Beside them there is room.
    drop(open(&server, cache.path(), &json!({"table_prefix": "our \"own\" "})).expect("another name"));
    drop(open(&server, cache.path(), &json!({"schema": "Mine"})).expect("another schema"));
    assert_eq!(database.number("SELECT count(*) FROM \"Mine\".evaluations"), 0);
    let (kind, _) = refusal(&server, cache.path(), &json!({"schema": "later", "migrate": "check"}));
    assert_eq!(kind, ErrorKind::Configuration);
}

/// One that found no tables, and then waited for who made them, did not see them.
#[test]
fn workers_that_start_at_once_on_an_empty_database_all_open() {
    const STARTING: usize = 6;
    let (server, cache) = (PostgresServer::start(), tempfile::tempdir().expect("make a temporary directory"));
    let start = |options: &dyn Fn(usize) -> Value| {
        let options: Vec<Value> = (0..STARTING).map(options).collect();
        std::thread::scope(|scope| {
            let opening: Vec<_> =
                options.iter().map(|options| scope.spawn(|| open(&server, cache.path(), options).map(drop))).collect();
            for opened in opening {
                opened.join().expect("no panic").expect("it opens");
            }
        });
    };
    for round in 0..8 {
        start(&|_| json!({"table_prefix": format!("of_{round}_")}));
        // The schema is everybody's, the tables are not.
        start(&|number| json!({"schema": format!("made_{round}"), "table_prefix": format!("of_{number}_")}));
    }
}

#[test]
fn any_name_will_do_and_long_columns_are_compressed_by_lz4() {
    let server = PostgresServer::start();
    let cache = tempfile::tempdir().expect("make a temporary directory");
    let database = server.connect();
    let schema = "it's $$ \"x\"";

    let names = json!({"schema": schema, "table_prefix": "'$$\" "});
    let backend = open(&server, cache.path(), &names).expect("the tables are made");

    let mut state = State::new();
    state.set_open(&EventStamp::new(1, "e"), Status::Queued);
    let call = Call::with_budget(Duration::from_secs(20));
    let merged = with_items(&[("new", &state)], |items| backend.merge(&call, items)).expect("it is stored");
    assert_eq!(merged[0].outcome, Outcome::Created);
    let compressed = "SELECT attname::text FROM pg_attribute JOIN pg_class c ON c.oid = attrelid \
        JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname = 'it''s $$ \"x\"' AND attcompression = 'l' ORDER BY 1";
    let compressed: Vec<String> = database.rows(compressed).iter().map(|row| row.get(0)).collect();
    assert_eq!(compressed, ["body", "error", "metadata", "output", "state"]);
}

#[test]
fn a_host_that_takes_connections_and_says_nothing_is_passed_over() {
    let server = PostgresServer::start();
    let cache = tempfile::tempdir().expect("make a temporary directory");
    // Connections wait in its queue, and nobody takes them out.
    let silent = TcpListener::bind("127.0.0.1:0").expect("listen");
    let silent_port = silent.local_addr().expect("an address").port();
    let url = format!("postgres://postgres@127.0.0.1:{silent_port},127.0.0.1:{}/postgres", server.port());

    let backend = open(&server, cache.path(), &json!({"url": url})).expect("the second host is found");

    let mut state = State::new();
    state.set_open(&EventStamp::new(1, "e"), Status::Queued);
    let call = Call::with_budget(Duration::from_secs(20));
    with_items(&[("new", &state)], |items| backend.merge(&call, items)).expect("it is stored");
}

#[test]
fn a_right_to_connect_and_a_setting_that_are_missing_end_the_start() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let database = server.connect();
    database.run("CREATE ROLE outside LOGIN; REVOKE CONNECT ON DATABASE postgres FROM PUBLIC");
    let unset = format!("{}?options=-c%20no_such_setting=1", server.url());
    for (url, said) in [
        (server.url_for("outside", server.port()), "permission denied for database"),
        (unset, "unrecognized configuration parameter"),
    ] {
        let (code, text) = start(&setup(&redis, &server).set("backends.main.options.url", url));

        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

#[test]
fn reading_makes_nothing_that_was_not_there() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let setup = setup(&redis, &server);

    let listed = setup.command(&["list"]).output().expect("run the worker");
    let checked = setup.command(&["check"]).output().expect("run the worker");

    let said = String::from_utf8_lossy(&listed.stderr);
    assert!(!listed.status.success() && said.contains("version 0"), "{said}");
    assert_eq!(checked.status.code(), Some(0), "{}", String::from_utf8_lossy(&checked.stderr));
    assert_eq!(server.connect().number("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'"), 0);
    drop(setup.start());
    let listed = setup.command(&["list"]).output().expect("run the worker");
    assert_eq!(listed.status.code(), Some(0), "{}", String::from_utf8_lossy(&listed.stderr));
}

#[test]
fn a_server_that_is_away_or_refuses_is_waited_for_and_no_password_is_told() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let closed = free_port();
    let away = format!("postgres://somebody:geheim@127.0.0.1:{closed}/postgres");
    let password = format!("postgres://secretive:geheim@127.0.0.1:{}/postgres", server.port());
    server.connect().run("CREATE ROLE secretive LOGIN PASSWORD 'another'");
    server.let_in_only("host all secretive 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust");
    server.connect().run("SELECT pg_reload_conf()");
    let refused = format!("postgres://nobody:geheim@127.0.0.1:{}/postgres", server.port());
    for (url, said) in [
        (away, format!("cannot connect to database `postgres` on `127.0.0.1:{closed}`: Connection refused")),
        (refused, "role \\\"nobody\\\" does not exist".to_owned()),
        (password, "password authentication failed for user \\\"secretive\\\"".to_owned()),
    ] {
        let said = &*said;
        let worker = setup(&redis, &server).set("backends.main.options.url", url).start_unready();

        eventually(SOON, "the reason to be logged", || worker.log().to_string().contains(said));

        let health = worker.http().get("/health");
        assert_eq!(health.status, 503, "{}", health.body);
        let log = worker.log().lines().concat();
        assert!(!log.contains("geheim") && !health.body.contains("geheim"), "{log}");
    }
}

#[test]
fn a_role_that_is_made_later_is_let_in_later() {
    let (redis, server) = (RedisServer::start(), PostgresServer::start());
    let url = server.url_for("later", server.port());
    let setup = setup(&redis, &server).set("backends.main.options.url", url).set("storage.open_retry_max", "200ms");
    let worker = setup.start_unready();
    eventually(SOON, "the reason to be logged", || worker.log().to_string().contains("\\\"later\\\" does not exist"));

    server.connect().run("CREATE ROLE later LOGIN SUPERUSER");

    eventually(SOON, "the worker to be ready", || worker.is_ready());
}
