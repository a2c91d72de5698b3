//! A database for one test, cloned from a migrated template and dropped at its end.

use std::str::FromStr;

use longshore_core::migrate;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};
use uuid::Uuid;

/// The cluster's URL: any database of it will do.
pub const URL_VARIABLE: &str = "LONGSHORE_TEST_DATABASE_URL";

/// Only one process makes the template at a time.
const TEMPLATE_LOCK: i64 = 0x10_4e65_5405;

/// A database of its own.
pub struct TestDatabase {
    /// How to reach it.
    pub url: String,
    /// A pool for the test's own questions.
    pub pool: PgPool,
    name: String,
    admin: PgConnectOptions,
}

fn admin() -> PgConnectOptions {
    let url = std::env::var(URL_VARIABLE)
        .unwrap_or_else(|_| panic!("{URL_VARIABLE} is not set: run ops/test, or point it at a private Postgres"));
    PgConnectOptions::from_str(&url).expect("a Postgres URL").disable_statement_logging()
}

impl TestDatabase {
    /// A new database with the schema of this build.
    pub async fn new() -> Self {
        let admin = admin();
        let template = template(&admin).await;
        let name = format!("t_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect_with(&admin).await.expect("the test cluster runs");
        execute(&mut connection, &format!("create database {name} template {template}")).await;
        connection.close().await.ok();
        Self::open(admin, name).await
    }

    /// A new database without the schema.
    pub async fn empty() -> Self {
        let admin = admin();
        let name = format!("t_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect_with(&admin).await.expect("the test cluster runs");
        execute(&mut connection, &format!("create database {name} template template0")).await;
        connection.close().await.ok();
        Self::open(admin, name).await
    }

    async fn open(admin: PgConnectOptions, name: String) -> Self {
        let options = admin.clone().database(&name);
        let url = options.to_url_lossy().to_string();
        let pool = PgPoolOptions::new().max_connections(8).connect_with(options).await.expect("the new database");
        Self { url, pool, name, admin }
    }

    /// One number that SQL of the test's own asks for.
    pub async fn number(&self, sql: &str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
    }

    /// Run SQL of the test's own.
    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(sql).execute(&self.pool).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }

    /// Drop it. A test that panics leaves it to the end of the cluster.
    pub async fn drop(self) {
        self.pool.close().await;
        let mut connection = PgConnection::connect_with(&self.admin).await.expect("the test cluster runs");
        execute(&mut connection, &format!("drop database {} with (force)", self.name)).await;
    }
}

async fn execute(connection: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(sql).execute(connection).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// The migrated template of this build, made by whichever test comes first.
async fn template(admin: &PgConnectOptions) -> String {
    let mut connection = PgConnection::connect_with(admin).await.expect("the test cluster runs");
    let script = migrate::sql();
    let digest = script
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3));
    let name = format!("template_{digest:x}");
    sqlx::query("select pg_advisory_lock($1)").bind(TEMPLATE_LOCK).execute(&mut connection).await.expect("a lock");
    let made: bool = sqlx::query_scalar("select exists (select from pg_database where datname = $1 and datistemplate)")
        .bind(&name)
        .fetch_one(&mut connection)
        .await
        .expect("pg_database");
    if !made {
        execute(&mut connection, &format!("drop database if exists {name}")).await;
        execute(&mut connection, &format!("create database {name} template template0")).await;
        let mut inside = PgConnection::connect_with(&admin.clone().database(&name)).await.expect("the template");
        migrate::up(&mut inside).await.expect("the migrations apply");
        inside.close().await.ok();
        execute(&mut connection, &format!("alter database {name} with is_template true")).await;
    }
    connection.close().await.ok();
    name
}
