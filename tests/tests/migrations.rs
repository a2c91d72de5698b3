//! The schema: up, down, up again, from many processes at once, and what `status` says of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::migrate::{self, FunctionState};
use longshore_core::session::Session;
use longshore_tests::TestDatabase;
use sqlx::{Connection, PgConnection};

/// Everything the catalog says of the schema: relations, columns, defaults, constraints, indexes, functions, triggers, views, settings.
const CATALOG: &str = "
    with n as (select oid from pg_namespace where nspname = 'longshore')
    select string_agg(fact, E'\\n' order by fact) from (
        select format('relation %s %s %s %s', c.relname, c.relkind, c.reloptions, pg_get_expr(c.relpartbound, c.oid)) from pg_class c
        where c.relnamespace in (table n) and c.relkind in ('r', 'p', 'v', 'S')
        union all
        select format('column %s.%s %s %s %s %s %s', c.relname, a.attname, row_number() over (partition by c.oid order by a.attnum), format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attstorage,
            pg_get_expr(d.adbin, d.adrelid))
        from pg_attribute a join pg_class c on c.oid = a.attrelid left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
        where c.relnamespace in (table n) and c.relkind in ('r', 'p', 'v') and a.attnum > 0 and not a.attisdropped
        union all
        select format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) from pg_constraint where connamespace in (table n)
        union all
        select format('index %s', indexdef) from pg_indexes where schemaname = 'longshore'
        union all
        select format('function %s', pg_get_functiondef(oid)) from pg_proc where pronamespace in (table n)
        union all
        select format('trigger %s', pg_get_triggerdef(t.oid)) from pg_trigger t join pg_class c on c.oid = t.tgrelid
        where c.relnamespace in (table n) and not t.tgisinternal
        union all
        select format('view %s %s', viewname, definition) from pg_views where schemaname = 'longshore'
        union all
        select format('row %s', row(name)) from longshore.queues) facts (fact)";

async fn connect(database: &TestDatabase) -> PgConnection {
    PgConnection::connect(&database.url).await.unwrap()
}

async fn catalog(database: &TestDatabase) -> String {
    sqlx::query_scalar(CATALOG).fetch_one(&database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn up_down_up_leaves_the_same_schema() {
    let database = TestDatabase::empty().await;
    let mut connection = connect(&database).await;
    let first = migrate::up(&mut connection).await.unwrap();
    assert!(first.applied.len() >= 3 && first.applied.is_sorted());
    let before = catalog(&database).await;
    for step in first.applied.iter().rev() {
        let undone = migrate::down(&mut connection, step - 1).await.unwrap();
        assert_eq!(undone, [*step]);
    }
    let second = migrate::up(&mut connection).await.unwrap();
    assert_eq!(second.applied, first.applied);
    assert_eq!(catalog(&database).await, before);
    assert_eq!(migrate::up(&mut connection).await.unwrap().applied, [0_i64; 0], "nothing more to do");
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_down_goes_up_again() {
    let database = TestDatabase::new().await;
    let mut connection = connect(&database).await;
    let before = catalog(&database).await;
    let versions: Vec<i64> =
        migrate::status(&mut connection).await.unwrap().migrations.iter().map(|m| m.version).collect();
    for to in versions.iter().rev().map(|version| version - 1) {
        let undone = migrate::down(&mut connection, to).await.unwrap();
        assert!(!undone.is_empty() && undone.iter().all(|version| *version > to));
        assert_eq!(migrate::up(&mut connection).await.unwrap().applied.len(), undone.len());
        assert_eq!(catalog(&database).await, before, "down to {to} and up again");
    }
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn down_to_zero_leaves_nothing() {
    let database = TestDatabase::empty().await;
    let objects = "select (select count(*) from pg_class where relnamespace not in (select oid from pg_namespace where nspname ~ '^pg_' or nspname = 'information_schema'))
        + (select count(*) from pg_proc where pronamespace not in (select oid from pg_namespace where nspname ~ '^pg_' or nspname = 'information_schema'))
        + (select count(*) from pg_namespace) + (select count(*) from pg_type)";
    let before = database.number(objects).await;
    let mut connection = connect(&database).await;
    migrate::up(&mut connection).await.unwrap();
    assert!(database.number(objects).await > before);
    migrate::down(&mut connection, 0).await.unwrap();
    assert_eq!(database.number(objects).await, before);
    assert!(migrate::down(&mut connection, 0).await.unwrap().is_empty(), "safe to repeat");
    let missing = migrate::check(&mut Session::direct(&mut connection)).await.unwrap_err();
    assert!(matches!(missing, migrate::Error::SchemaMissing), "{missing}");
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_what_is_applied_and_installed() {
    let database = TestDatabase::empty().await;
    let mut connection = connect(&database).await;
    let status = migrate::status(&mut connection).await.unwrap();
    assert!(!status.is_current() && status.unknown.is_empty());
    assert!(status.migrations.iter().all(|migration| migration.applied_at.is_none()));
    migrate::up(&mut connection).await.unwrap();
    assert!(migrate::status(&mut connection).await.unwrap().is_current());
    migrate::check(&mut Session::direct(&mut connection)).await.unwrap();

    database.execute("create or replace function longshore.seq_time(p_seq bigint) returns timestamptz language sql as 'select now()'").await;
    database.execute("create or replace function longshore.settle_begin(p_shard smallint) returns table (run_ids uuid[], close_ids bigint[], lane_ids bigint[], cycles bigint[])
        language plpgsql as 'begin return; end'").await;
    let status = migrate::status(&mut connection).await.unwrap();
    let differing: Vec<_> =
        status.functions.iter().filter(|f| f.state == FunctionState::Differs).map(|f| f.name).collect();
    assert_eq!(differing, ["settle_begin"]);
    migrate::check(&mut Session::direct(&mut connection)).await.unwrap();

    database.execute("drop function longshore.settle_begin").await;
    let old = migrate::check(&mut Session::direct(&mut connection)).await.unwrap_err();
    assert!(matches!(&old, migrate::Error::SchemaOld { missing } if missing.contains("settle_begin")), "{old}");
    migrate::up(&mut connection).await.unwrap();
    assert!(migrate::status(&mut connection).await.unwrap().is_current(), "up puts functions back");

    database.execute("insert into longshore._sqlx_migrations (version, description, success, checksum, execution_time) values (9999, 'later', true, '', 0)").await;
    assert_eq!(migrate::status(&mut connection).await.unwrap().unknown, [9999]);
    migrate::up(&mut connection).await.unwrap();
    let newer = migrate::down(&mut connection, 0).await.unwrap_err();
    assert!(matches!(newer, migrate::Error::SchemaNewer { version: 9999 }), "{newer}");
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_may_migrate_at_once() {
    let database = TestDatabase::empty().await;
    let ups = (0..6).map(|_| async {
        let mut connection = connect(&database).await;
        let up = migrate::up(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        up.applied.len()
    });
    let mut applied = futures::future::join_all(ups).await;
    applied.sort_unstable();
    assert_eq!(applied[..5], [0; 5], "one did it all: {applied:?}");
    let mut connection = connect(&database).await;
    assert!(migrate::status(&mut connection).await.unwrap().is_current());
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_script_for_psql_makes_the_same_schema() {
    let (database, scripted) = (TestDatabase::new().await, TestDatabase::empty().await);
    scripted.execute(&migrate::sql()).await;
    assert_eq!(catalog(&scripted).await, catalog(&database).await);
    let mut connection = connect(&scripted).await;
    assert!(migrate::up(&mut connection).await.unwrap().applied.is_empty(), "up finds its migrations applied");
    connection.close().await.unwrap();
    scripted.drop().await;
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_returned_other_columns_is_made_anew() {
    let database = TestDatabase::new().await;
    let before = catalog(&database).await;
    database.execute("alter function longshore.settle_begin rename to other; drop function longshore.other").await;
    let older = "create function longshore.settle_begin(p_shard smallint) returns table (run_ids uuid[]) language sql as 'select null::uuid[]'";
    database.execute(older).await;
    let mut connection = connect(&database).await;
    migrate::up(&mut connection).await.unwrap();
    assert_eq!(catalog(&database).await, before);
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_does_not_queue_the_fleet_behind_somebodys_long_transaction() {
    let database = TestDatabase::new().await;
    let (mut reader, mut connection) = (connect(&database).await, connect(&database).await);
    sqlx::raw_sql("begin; select count(*) from longshore.frames").execute(&mut reader).await.unwrap();
    let refused = migrate::down(&mut connection, 9).await.unwrap_err();
    assert!(matches!(refused, migrate::Error::Busy), "{refused}");
    reader.close().await.unwrap();
    assert!(!migrate::down(&mut connection, 9).await.unwrap().is_empty());
    migrate::up(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_waits_for_nobody_who_reads_or_writes_attempts() {
    let database = TestDatabase::new().await;
    let mut busy = connect(&database).await;
    let uses = "begin; select count(*) from longshore.execution_step_attempts;
        lock longshore.execution_step_attempts in row exclusive mode";
    sqlx::raw_sql(uses).execute(&mut busy).await.unwrap();
    let made = database
        .number("select longshore.make_partitions(now() + interval '6 months')::bigint from set_config('lock_timeout', '5s', true)")
        .await;
    assert!((2..=3).contains(&made), "{made}");
    let alike = "select count(distinct (c.reloptions, (select count(*) from pg_index i where i.indrelid = c.oid), c.relnatts)) from pg_class c
        join pg_inherits h on h.inhrelid = c.oid where h.inhparent = 'longshore.execution_step_attempts'::regclass";
    assert_eq!(database.number(alike).await, 1);
    busy.close().await.unwrap();
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_have_partitions_for_this_month_and_three_more() {
    let database = TestDatabase::new().await;
    let ahead = "select count(*) from generate_series(0, 3) month
        where to_regclass('longshore.execution_step_attempts_' || to_char((now() + month * interval '1 month') at time zone 'UTC', 'YYYY_MM')) is not null";
    assert_eq!(database.number(ahead).await, 4);
    let made: i64 = database.number("select longshore.make_partitions(now() + interval '5 months')::bigint").await;
    assert!((1..=2).contains(&made), "{made}");
    assert_eq!(database.number("select longshore.make_partitions(now() + interval '5 months')::bigint").await, 0);
    database.drop().await;
}
