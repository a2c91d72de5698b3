//! The SQL functions `longshore.start_run` and `start_runs` with hostile arguments: each call starts a run that can be read back, or is refused
//! with a documented error and writes nothing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use longshore_core::run;
use longshore_tests::TestFleet;
use longshore_tests::fleet::chain;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

/// What a refusal may be: Longshore's own, data that Postgres refuses, or JSON nested deeper than its stack.
fn documented(code: &str) -> bool {
    code.starts_with("LS") || code.starts_with("22") || code == "54001"
}

async fn rows(conn: &mut PgConnection) -> i64 {
    let sql = "select (select count(*) from longshore.workflow_runs) + (select count(*) from longshore.step_ready)
        + (select count(*) from longshore.step_delayed)";
    sqlx::query_scalar(sql).fetch_one(conn).await.unwrap()
}

/// The arguments of one element, each an SQL expression.
#[derive(Clone)]
struct Call([String; 6]);

const WORKFLOWS: &[&str] = &[
    "'w'",
    "'w'",
    "'w'",
    "'w'",
    "null",
    "''",
    "'unheard'",
    "repeat('w', 100000)",
    "'w%s%'",
    "E'w\\n\"'",
    "'W'",
    "U&'\\+01F600'",
];
const INPUTS: &[&str] = &[
    "'{}'",
    "'{\"a\": 1}'",
    "'{\"a\": 1}'",
    "null",
    "'null'",
    "''",
    "'{'",
    "'1 2'",
    "'\"\\u0000\"'",
    "'{\"\\u0000\": 1}'",
    "'\"\\ud83d\"'",
    "'\"\\ude00\\ud83d\"'",
    "'\"\\ud83d\\ude00\"'",
    "'1e400'",
    "'1e200000'",
    "'-1e-400'",
    "'1e131071'",
    "'NaN'",
    "'Infinity'",
    "repeat('9', 5000)",
    "'0.' || repeat('9', 16383)",
    "'0.' || repeat('9', 20000)",
    "repeat('[', 100) || repeat(']', 100)",
    "repeat('[', 500) || repeat(']', 500)",
    "repeat('[', 6000) || repeat(']', 6000)",
    "repeat('[', 500000)",
    "'{\"' || repeat('k', 100000) || '\": 1}'",
    "'\"' || repeat('x', 1048575) || '\"'",
    "'\"' || repeat('x', 1048574) || '\"'",
    "'[' || repeat('1,', 400000) || '1]'",
    "'{\"a\": 1, \"a\": 2}'",
    "E'\"\\x01\"'",
    "'\"%\"'",
];
const KEYS: &[&str] = &[
    "null",
    "null",
    "null",
    "''",
    "' '",
    "'k'",
    "'k'",
    "repeat('k', 512)",
    "repeat('k', 513)",
    "repeat('😀', 512)",
    "repeat('😀', 513)",
    "repeat('k', 1000000)",
    "E'\\n\\t%'",
    "'\"}'",
    "U&'\\FFFD'",
];
const TIMES: &[&str] = &[
    "null",
    "null",
    "now()",
    "now() + interval '1 h'",
    "'infinity'",
    "'-infinity'",
    "'294276-12-31 23:59:59.999999+00'",
    "'200000-01-01 00:00:00+00'",
    "'9999-12-31 23:59:59+00'",
    "'10000-01-01 00:00:00+00'",
    "'4713-01-01 00:00:00+00 BC'",
    "'epoch'",
];
const PRIORITIES: &[&str] = &["null", "null", "0", "1", "2", "3", "4", "-1", "32767", "-32768", "40000"];
const VERSIONS: &[&str] = &["null", "null", "1", "2", "0", "-1", "2147483647", "-2147483648", "3000000000"];

fn pick(rng: &mut StdRng, words: &[&str]) -> String {
    words[rng.random_range(0..words.len())].to_owned()
}

impl Call {
    fn any(rng: &mut StdRng) -> Self {
        // Few at a time, so that the first thing that is wrong is not always the same.
        let mut call = Self(["'w'", "'{}'", "null", "null", "null", "null"].map(str::to_owned));
        for _ in 0..rng.random_range(1..4) {
            let place = rng.random_range(0..6);
            call.0[place] = pick(rng, [WORKFLOWS, INPUTS, KEYS, TIMES, PRIORITIES, VERSIONS][place]);
        }
        call
    }

    /// Each value in its place, the others as usual.
    fn each() -> Vec<Self> {
        let mut calls = Vec::new();
        for (place, words) in [WORKFLOWS, INPUTS, KEYS, TIMES, PRIORITIES, VERSIONS].into_iter().enumerate() {
            for word in words {
                let mut call = Self(["'w'", "'{}'", "null", "null", "null", "null"].map(str::to_owned));
                call.0[place] = (*word).to_owned();
                calls.push(call);
            }
        }
        calls
    }

    /// `start_run`, which takes jsonb.
    fn sql(&self) -> String {
        let [workflow, input, key, run_at, priority, version] = &self.0;
        format!(
            "select longshore.start_run({workflow}, ({input})::jsonb, {key}, {run_at}, ({priority})::smallint, ({version})::int, true)"
        )
    }

    /// `start_runs`, which takes JSON text, with these elements.
    fn many_sql(calls: &[Self]) -> String {
        let column = |place: usize| calls.iter().map(|call| call.0[place].as_str()).collect::<Vec<_>>().join(", ");
        let [workflows, inputs, keys, run_ats, priorities, versions] = std::array::from_fn(column);
        format!(
            "select run_id from longshore.start_runs(array[{workflows}]::text[], array[{inputs}]::text[], array[{keys}]::text[],
            array[{run_ats}]::timestamptz[], array[{priorities}]::smallint[], array[{versions}]::int[])"
        )
    }
}

/// Makes a call and looks at what came of it.
async fn check(conn: &mut PgConnection, sql: &str) {
    let shown: String = sql.chars().take(600).collect();
    let before = rows(conn).await;
    let called =
        tokio::time::timeout(Duration::from_secs(20), sqlx::query_scalar::<_, Option<Uuid>>(sql).fetch_all(&mut *conn));
    match called.await.unwrap_or_else(|_| panic!("{shown} hangs")) {
        Ok(runs) => {
            for run_id in runs {
                let run_id = run_id.unwrap_or_else(|| panic!("{shown} gives a run"));
                let read = run::get(&mut *conn, run_id).await.unwrap_or_else(|error| panic!("{shown}: {error}"));
                let read = read.unwrap_or_else(|| panic!("{shown}: run {run_id} is there"));
                assert_eq!(read.run_id, run_id);
                let step: Option<DateTime<Utc>> =
                    sqlx::query_scalar("select due_at from longshore.step_delayed where run_id = $1")
                        .bind(run_id)
                        .fetch_optional(&mut *conn)
                        .await
                        .unwrap();
                assert_eq!(step, read.run_at, "{shown}: a step is due when its run may begin");
            }
        }
        Err(error) => {
            let code = error.as_database_error().unwrap_or_else(|| panic!("{shown}: {error}")).code();
            let code = code.unwrap_or_default().into_owned();
            assert!(documented(&code), "{shown}: {code} {error}");
            assert_eq!(rows(conn).await, before, "{shown}: nothing is written");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_by_sql_is_a_run_that_can_be_read_or_a_documented_refusal_that_writes_nothing() {
    let fleet = TestFleet::publish([chain("w", 1)]).await;
    fleet.apply(json!({"name": "w", "nodes": [{"id": "s", "type": "set", "output": 2}], "edges": []})).await;
    let mut conn = fleet.database.pool.acquire().await.unwrap();
    sqlx::query("set statement_timeout = '20 s'").execute(&mut *conn).await.unwrap();
    for call in Call::each() {
        check(&mut conn, &call.sql()).await;
        check(&mut conn, &Call::many_sql(&[call])).await;
    }
    for odd in [
        "select longshore.start_run(null)",
        "select run_id from longshore.start_runs(null, null, null, null, null, null)",
        "select run_id from longshore.start_runs('{}', '{}', '{}', '{}', '{}', '{}')",
        "select run_id from longshore.start_runs('{w}', null, null, null, null, null)",
        "select run_id from longshore.start_runs('{w}', '{}', '{}', '{}', '{}', '{}')",
        "select run_id from longshore.start_runs('{w}', '{\"{}\",\"{}\"}', null, null, null, null)",
        "select run_id from longshore.start_runs('{w}', null, '{a,b}', null, null, null)",
        "select run_id from longshore.start_runs('{w}', null, null, null, '{1,1}', null)",
        "select run_id from longshore.start_runs(null, null, null, null, null, '{1}')",
        "select run_id from longshore.start_runs('{{w,w},{w,w}}', null, null, null, null, null)",
        "select run_id from longshore.start_runs('[5:6]={w,w}', null, '[7:8]={x,y}', null, null, null)",
        "select run_id from longshore.start_runs('{w,w}', '{1,2}', '{z,z}', null, null, null)",
        "select run_id from longshore.start_runs(array_fill('w'::text, array[3000]), null, null, null, null, null) limit 1",
    ] {
        check(&mut conn, odd).await;
    }
    let seed: u64 = super::setting("LONGSHORE_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    eprintln!("LONGSHORE_FUZZ_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let until = std::time::Instant::now() + Duration::from_secs(super::setting("LONGSHORE_FUZZ_SECONDS").unwrap_or(2));
    let mut count = 0;
    while std::time::Instant::now() < until {
        let calls: Vec<Call> = (0..rng.random_range(1..5)).map(|_| Call::any(&mut rng)).collect();
        check(&mut conn, &calls[0].sql()).await;
        check(&mut conn, &Call::many_sql(&calls)).await;
        count += 2;
    }
    eprintln!("start_run: {count} calls");
    drop(conn);
    fleet.finish().await;
}
