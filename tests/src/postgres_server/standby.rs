//! A server that follows another one by streaming replication, until it is promoted.

use std::time::Duration;

use super::PostgresServer;
use crate::wait::eventually;

/// How long a standby may take to follow, or to be promoted.
const LIMIT: Duration = Duration::from_secs(60);

impl PostgresServer {
    /// A standby of this server with settings of its own, that can be read. The primary knows it by its name.
    ///
    /// # Panics
    /// When it does not follow in time.
    #[must_use]
    pub fn start_standby(&self, name: &str, settings: &[&str]) -> Self {
        let standby = Self::empty(settings);
        let source = format!("host=127.0.0.1 port={} user=postgres application_name={name}", self.port);
        let copied = standby
            .command("pg_basebackup")
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync"])
            .args(["--dbname", &source, "--pgdata"])
            .arg(standby.data())
            .output()
            .expect("run pg_basebackup");
        assert!(copied.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&copied.stderr));
        let standby = standby.begin();
        self.wait_for_standby(name);
        standby
    }

    /// Waits until a standby of that name has everything.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_for_standby(&self, name: &str) {
        let database = self.connect();
        let follows = format!(
            "SELECT count(*) FROM pg_stat_replication \
             WHERE application_name = '{name}' AND state = 'streaming' AND flush_lsn >= pg_current_wal_flush_lsn()"
        );
        eventually(LIMIT, "a standby to follow", || database.number(&follows) == 1);
    }

    /// Makes a standby a server of its own, that can be written to.
    ///
    /// # Panics
    /// When it does not become one in time.
    pub fn promote(&self) {
        let database = self.connect();
        let promoted = format!("SELECT pg_promote(true, {})::int::bigint", LIMIT.as_secs());
        assert_eq!(database.number(&promoted), 1, "it was not promoted:\n{}", self.log());
    }
}
