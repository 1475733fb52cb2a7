//! Private servers of buckets on 127.0.0.1, each on a port of its own: moto speaks S3 and forgets everything when it ends,
//! azurite speaks Azure Blob Storage and keeps its blobs in a temporary directory. `scripts/setup.sh` installs both into the
//! build directory.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, find_program, worker_binary};
use crate::redis_server::free_port;
use crate::wait::eventually;

/// How long a server may take to answer: both are interpreted, and many start at once.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A server that speaks S3. Stopped when dropped.
#[derive(Debug)]
pub struct S3Server {
    port: u16,
    process: Process,
}

/// Azurite answers sooner than it can be told to end, and would forget what it was asked in between. So SIGTERM waits until
/// somebody else heeds it.
const PATIENT: &str = r#"
process.on("SIGTERM", () => {
    const isHeeded = () => process.listenerCount("SIGTERM") > 1;
    if (isHeeded()) return;
    const waiting = setInterval(() => {
        if (!isHeeded()) return;
        clearInterval(waiting);
        process.emit("SIGTERM");
    }, 10);
});
"#;

/// What the server has said of a user of its own.
#[derive(Clone, Debug)]
pub struct S3User {
    /// The id of its key.
    pub access_key_id: String,
    /// The key.
    pub secret_access_key: String,
}

impl S3Server {
    /// Starts a server without buckets that takes any key, and waits until it answers.
    ///
    /// # Panics
    /// When moto is not installed, or does not answer in time.
    #[must_use]
    pub fn start() -> Self {
        let program = installed("moto/bin/moto_server");
        // Another program may take the free port before the server does: then another one is tried.
        for _ in 0..5 {
            let port = free_port();
            let mut command = Command::new(&program);
            command.args(["-H", "127.0.0.1", "-p", &port.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            let mut process = Process::start(&mut command);
            if answers(&mut process, &format!("http://127.0.0.1:{port}/moto-api/")) {
                return Self { port, process };
            }
        }
        panic!("moto did not start on five free ports");
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients find it.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops it without closing anything, as a hanging machine would; `resume` lets it go on.
    pub fn pause(&self) {
        self.process.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.process.signal(Signal::CONT);
    }

    /// Makes a bucket. Its name has at least three letters.
    ///
    /// # Panics
    /// When that fails.
    pub fn make_bucket(&self, name: &str) {
        let made = agent().put(format!("{}/{name}", self.endpoint())).send_empty().expect("ask for a bucket");
        assert_eq!(made.status(), 200, "make the bucket `{name}`");
    }

    /// The names of the objects in a bucket, as far as one page has them. Not with [`users_only`](Self::users_only).
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn objects(&self, bucket: &str) -> Vec<String> {
        names(&format!("{}/{bucket}?list-type=2", self.endpoint()), "Key")
    }

    /// From now on it only takes what a user has signed, who may do everything with buckets. Gives that user.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn users_only(&self) -> S3User {
        let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C%22Action%22%3A%22s3%3A*%22%2C%22Resource%22%3A%22*%22%7D%5D%7D";
        self.ask_about_users("Action=CreateUser&UserName=somebody");
        self.ask_about_users(&format!("Action=PutUserPolicy&UserName=somebody&PolicyName=all&PolicyDocument={policy}"));
        let key = self.ask_about_users("Action=CreateAccessKey&UserName=somebody");
        let element = |name: &str| elements(&key, name).pop().unwrap_or_else(|| panic!("no {name} in {key}"));
        let user = S3User { access_key_id: element("AccessKeyId"), secret_access_key: element("SecretAccessKey") };
        let reset = agent()
            .post(format!("{}/moto-api/reset-auth", self.endpoint()))
            .content_type("text/plain")
            .send("0")
            .expect("ask for authentication");
        assert_eq!(reset.status(), 200, "authentication");
        user
    }

    fn ask_about_users(&self, form: &str) -> String {
        let credential =
            "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/iam/aws4_request, SignedHeaders=host, Signature=x";
        let mut answer = agent()
            .post(self.endpoint())
            .header("authorization", credential)
            .content_type("application/x-www-form-urlencoded")
            .send(format!("{form}&Version=2010-05-08"))
            .expect("ask about users");
        let text = answer.body_mut().read_to_string().expect("an answer is text");
        assert_eq!(answer.status(), 200, "{text}");
        text
    }
}

/// A server that speaks Azure Blob Storage. Stopped when dropped.
#[derive(Debug)]
pub struct AzureServer {
    directory: TempDir,
    port: u16,
    process: Option<Process>,
}

impl AzureServer {
    /// The account that every such server has, with the key that is known to all.
    pub const ACCOUNT: &str = "devstoreaccount1";
    /// The account's key.
    pub const KEY: &str = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
    /// What somebody signed with that key: to do everything with containers and blobs, until 2099.
    pub const SAS: &str = "sv=2020-12-06&ss=b&srt=sco&sp=rwdlac&se=2099-01-01T00%3A00%3A00Z&spr=https%2Chttp&sig=wuAW2s2z8U7NhHG8Efazfqb52Qnj74OIPXvd3nVp8a4%3D";

    /// Starts a server without containers, and waits until it answers.
    ///
    /// # Panics
    /// When azurite is not installed, or does not answer in time.
    #[must_use]
    pub fn start() -> Self {
        let mut server = Self {
            directory: tempfile::tempdir().expect("make a temporary directory"),
            port: free_port(),
            process: None,
        };
        for _ in 0..5 {
            if server.try_start() {
                return server;
            }
            server.port = free_port();
        }
        panic!("azurite did not start on five free ports");
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where clients find the account.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.endpoint_at(self.port)
    }

    /// Where clients find the account on some port that leads to it.
    #[must_use]
    pub fn endpoint_at(&self, port: u16) -> String {
        format!("http://127.0.0.1:{port}/{}", Self::ACCOUNT)
    }

    /// Makes a container. Its name has at least three letters.
    ///
    /// # Panics
    /// When that fails.
    pub fn make_container(&self, name: &str) {
        let url = format!("{}/{name}?restype=container&{}", self.endpoint(), Self::SAS);
        let made = agent().put(url).send_empty().expect("ask for a container");
        assert_eq!(made.status(), 201, "make the container `{name}`");
    }

    /// Removes a container with everything in it.
    ///
    /// # Panics
    /// When that fails.
    pub fn remove_container(&self, name: &str) {
        let url = format!("{}/{name}?restype=container&{}", self.endpoint(), Self::SAS);
        let removed = agent().delete(url).call().expect("ask for the end of a container");
        assert_eq!(removed.status(), 202, "remove the container `{name}`");
    }

    /// The names of the blobs in a container, as far as one page has them.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn blobs(&self, container: &str) -> Vec<String> {
        names(&format!("{}/{container}?restype=container&comp=list&{}", self.endpoint(), Self::SAS), "Name")
    }

    /// Tells it to end, and waits until it has: killed it would forget what it did in the last seconds.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.signal(Signal::TERM);
            assert!(process.wait(START_LIMIT).is_some(), "azurite did not end");
        }
    }

    /// Starts it again on the same port and data.
    ///
    /// # Panics
    /// When it does not answer in time.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.try_start(), "azurite did not start again on port {}", self.port);
    }

    fn try_start(&mut self) -> bool {
        let program = find_program("node").expect("node is not installed; run `make setup`");
        let patient = self.directory.path().join("patient.js");
        std::fs::write(&patient, PATIENT).expect("write a file");
        let mut command = Command::new(program);
        command.arg("--require").arg(patient);
        command.arg(installed("azurite/node_modules/azurite/dist/src/blob/main.js"));
        command.args(["--blobHost", "127.0.0.1", "--blobPort", &self.port.to_string(), "--location"]);
        command.arg(self.directory.path()).args(["--silent", "--skipApiVersionCheck", "--disableTelemetry"]);
        let mut process = Process::start(command.stdout(Stdio::null()).stderr(Stdio::null()));
        let is_started = answers(&mut process, &self.endpoint());
        self.process = is_started.then_some(process);
        is_started
    }
}

/// A program or file of a server that was installed into the build directory.
fn installed(path: &str) -> PathBuf {
    let target = worker_binary().ancestors().nth(2).expect("target/<profile>/<file>").to_owned();
    let path = target.join("servers").join(path);
    assert!(path.is_file(), "`{}` is not installed; run `make setup`", path.display());
    path
}

/// Waits until a server answers anything at all; false if it ends instead.
fn answers(process: &mut Process, url: &str) -> bool {
    let mut is_there = false;
    eventually(START_LIMIT, &format!("an answer of {url}"), || {
        is_there = agent().get(url).call().is_ok();
        is_there || !process.is_running()
    });
    is_there
}

fn names(url: &str, element: &str) -> Vec<String> {
    let mut answer = agent().get(url).call().expect("ask for a list");
    let text = answer.body_mut().read_to_string().expect("a list is text");
    assert_eq!(answer.status(), 200, "{text}");
    elements(&text, element)
}

/// What stands in the elements of a name.
fn elements(xml: &str, name: &str) -> Vec<String> {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    xml.split(&open).skip(1).filter_map(|rest| Some(rest.split_once(&close)?.0.to_owned())).collect()
}

fn agent() -> ureq::Agent {
    let config = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(10)))
        .proxy(None)
        .build();
    config.into()
}
