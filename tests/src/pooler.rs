//! A PgBouncer of its own for one test, which can be killed and started again. Where none is installed there is none, and the test says so.

use std::io::Read;
use std::process::{Child, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgPool};
use tempfile::TempDir;

use crate::TestDatabase;
use crate::bouncer::{self, Bouncer};
use crate::fleet::PATIENCE;

/// See the module; killed when dropped.
#[derive(Debug)]
pub struct Pooler {
    bouncer: Bouncer,
    database: String,
    child: Child,
    /// Where its settings are.
    _folder: TempDir,
}

impl Pooler {
    /// A pooler before this database, if PgBouncer is installed.
    pub fn before(database: &TestDatabase) -> Option<Self> {
        if bouncer::program().is_none() {
            eprintln!("skipped: pgbouncer is not installed");
            return None;
        }
        let upstream = PgConnectOptions::from_str(&database.url).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let bouncer = Bouncer::before(&upstream, folder.path()).unwrap();
        let child = spawn(&bouncer);
        let database = upstream.get_database().unwrap().to_owned();
        let mut pooler = Self { bouncer, database, child, _folder: folder };
        pooler.answers();
        Some(pooler)
    }

    /// How to reach the database through it.
    pub fn url(&self) -> String {
        format!("postgres://longshore@{}/{}", self.bouncer.address, self.database)
    }

    /// A pool as an application would make it.
    pub async fn pool(&self) -> PgPool {
        let options = PgConnectOptions::from_str(&self.url()).unwrap().extra_float_digits(None);
        PgPoolOptions::new().max_connections(8).connect_with(options.disable_statement_logging()).await.unwrap()
    }

    /// Kill it without a word: every connection through it is cut, wherever it was.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Start it again, at the same address.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.bouncer);
        self.answers();
    }

    fn answers(&mut self) {
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(self.bouncer.address).is_err() {
            if self.child.try_wait().unwrap().is_some() || Instant::now() > until {
                let mut said = String::new();
                self.child.kill().ok();
                self.child.stderr.take().unwrap().read_to_string(&mut said).ok();
                panic!("pgbouncer does not answer: {said}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(bouncer: &Bouncer) -> Child {
    bouncer.command().stderr(Stdio::piped()).spawn().unwrap()
}
