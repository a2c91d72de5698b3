//! The cost of every hot function in the worst case for its plans: they are made while the tables are analyzed and empty, the session keeps them,
//! and then there are 100,000 rows. A plan that reads a whole table shows in the rows it reads and the buffers it touches; time only guards
//! against a collapse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use longshore_core::migrate::FUNCTIONS;
use longshore_tests::TestFleet;
use longshore_tests::fleet::with;
use longshore_tests::lane::dag;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use uuid::Uuid;

/// Rows in each table that grows.
const ROWS: usize = 100_000;

/// Keys in one call, as in a full cycle.
const KEYS: usize = 128;

/// Rows and buffers show a collapsed plan; this is for one that hangs. A sound call takes 1 to 40 ms on an idle machine.
const MOST_MS: f64 = 1_000.0;

/// What one call cost.
#[derive(Clone, Copy, Debug)]
struct Cost {
    ms: f64,
    buffers: i64,
    rows: i64,
}

/// One session, whose plans are never thrown away.
struct Session {
    connection: PgConnection,
    arguments: BTreeMap<String, Vec<(String, String)>>,
    called: BTreeMap<String, Vec<Cost>>,
}

impl Session {
    async fn open(url: &str) -> Self {
        let mut connection = PgConnection::connect(url).await.unwrap();
        let sql = "select p.proname::text, a.name, format_type(a.type, null) from pg_proc p,
            lateral unnest(p.proargnames[1:p.pronargs], p.proargtypes::oid[]) with ordinality a(name, type, n)
            where p.pronamespace = 'longshore'::regnamespace and a.n <= p.pronargs - p.pronargdefaults order by p.proname, a.n";
        let mut arguments: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
        for (function, name, kind) in
            sqlx::query_as::<_, (String, String, String)>(sql).fetch_all(&mut connection).await.unwrap()
        {
            arguments.entry(function).or_default().push((name, kind));
        }
        Self { connection, arguments, called: BTreeMap::new() }
    }

    /// Call a function with these arguments (name, text of the value); the others are empty. Returns what it cost.
    async fn call(&mut self, function: &str, given: &[(&str, String)]) -> Cost {
        let arguments = &self.arguments[function];
        let value = |(name, kind): &(String, String)| {
            let given = given.iter().find(|(given, _)| given == name);
            let text = match given {
                Some((_, text)) => text.clone(),
                None if kind.ends_with("[]") => "{}".to_owned(),
                None if kind == "boolean" => "false".to_owned(),
                None if kind == "interval" => "15 s".to_owned(),
                None if matches!(kind.as_str(), "smallint" | "integer" | "bigint") => "0".to_owned(),
                None => return format!("{name} => null::{kind}"),
            };
            format!("{name} => '{text}'::{kind}")
        };
        let optional = given.iter().filter(|(name, _)| arguments.iter().all(|(known, _)| known != name));
        let optional = optional.map(|(name, text)| format!("{name} => '{text}'"));
        let values: Vec<String> = arguments.iter().map(value).chain(optional).collect();
        let sql = format!(
            "explain (analyze, buffers, timing off, format json) select * from longshore.{function}({})",
            values.join(", ")
        );
        let mut transaction = self.connection.begin().await.unwrap();
        let read = "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_xact_user_tables where schemaname = 'longshore'";
        let before: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
        let plan: Value =
            sqlx::query_scalar(&sql).fetch_one(&mut *transaction).await.unwrap_or_else(|e| panic!("{function}: {e}"));
        let after: i64 = sqlx::query_scalar(read).fetch_one(&mut *transaction).await.unwrap();
        transaction.commit().await.unwrap();
        let number = |value: &Value| value.as_f64().unwrap();
        let top = &plan[0]["Plan"];
        let buffers = number(&top["Shared Hit Blocks"]) + number(&top["Shared Read Blocks"]);
        #[allow(clippy::cast_possible_truncation)]
        let cost = Cost { ms: number(&plan[0]["Execution Time"]), buffers: buffers as i64, rows: after - before };
        self.called.entry(function.to_owned()).or_default().push(cost);
        cost
    }
}

/// An array's text: the same value for each key.
fn each(value: &str, keys: usize) -> String {
    format!("{{{}}}", vec![value; keys].join(","))
}

fn list<T: ToString>(values: impl IntoIterator<Item = T>) -> String {
    format!("{{{}}}", values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(","))
}

/// A baton that lists these runs' node 0.
fn baton(lane: i64, cycle: i64, runs: &[Uuid], expired: bool) -> String {
    let (keys, ids) = (runs.len(), list(runs));
    let when = if expired { "now() - interval '1 s'" } else { "now() + interval '1 h'" };
    format!(
        "insert into longshore.lanes (shard, lane_id, cycle, expires_at, run_ids, frames, nodes, kinds, attempts, claimed_at)
         values (0, {lane}, {cycle}, {when}, '{ids}', '{zero}', '{zero}', '{zero}', '{two}', array_fill(now(), array[{keys}]));
         insert into longshore.worker_lanes (shard, lane_id, worker_id) values (0, {lane}, gen_random_uuid()) on conflict do nothing;",
        zero = each("0", keys),
        two = each("2", keys),
    )
}

/// Frames that begin and end, and waits, one of each for every run, as the cycle takes them. `signals` are those that wake the waits.
fn frames(runs: &[Uuid], signals: &[i64], round: usize) -> String {
    let each = |fields: Value| runs.iter().map(|run| with(fields.clone(), json!({"run": run}))).collect::<Vec<Value>>();
    let number = 100 + round;
    let woken = runs.iter().enumerate().map(|(at, run)| {
        json!({"run": run, "frame": 0, "node": 0, "signal": signals.get(at).copied().unwrap_or(1), "keep": at % 2 == 0})
    });
    json!({
        "wait": each(json!({"frame": 0, "node": number, "attempt": 1, "version": 1, "queue": 1, "priority": 1, "failed": 0, "names": ["s"],
            "picky": false, "after_us": 3_600_000_000_i64, "timer": 1})),
        "wake": woken.collect::<Vec<_>>(),
        "waited": each(json!({"frame": 0, "node": 1})),
        "new": each(json!({"frame": number, "parent": 1, "node": 0, "attempt": 1, "iteration": number, "body": 1, "path": [1], "failed": 0,
            "whole": false, "inputs": ["1"]})),
        "end": each(json!({"frame": 2, "state": 3, "output": "1", "announce": false, "keep": false})),
        "chunks": each(json!({"frame": 1, "chunk": number, "count": 1, "items": "[1]"})),
        "opened": each(json!({"frame": 1, "chunk": 1, "first": 2})),
        "forget": each(json!({"frame": 3, "deep": true})),
        "pause": each(json!({"why": "{}"})),
        "park": each(json!({"version": 1, "frame": 0, "node": 0, "kind": 0, "attempt": 1, "failed": 0, "lost": 0, "queue": 1, "priority": 1})),
        "context": each(json!({"version": 1, "frame": 0, "node": 0, "attempt": number, "changes": r#"[{"op": "increment", "path": ["n"], "value": 1}]"#})),
        "children": runs.iter().map(|run| json!({"run": Uuid::now_v7(), "workflow": 1, "depth": 1, "policy": 1, "awaited": true, "input": "1", "priority": 1,
            "parent": run, "frame": 1, "node": number, "attempt": 1})).collect::<Vec<_>>(),
        "asks": [],
    })
    .to_string()
}

/// Call every function once, with these runs as keys (sorted). `round` makes what is inserted unique.
async fn round(session: &mut Session, admin: &mut PgConnection, runs: &[Uuid], after: Uuid, round: usize) {
    let keys = runs.len();
    let ids = list(runs);
    let (ones, zeros, falses) = (each("1", keys), each("0", keys), each("false", keys));
    let nulls = each("null", keys);
    let lane = 1_000_000 + i64::try_from(round).unwrap() * 10;
    let attempt = each(&(2 + round).to_string(), keys);
    let one = |name: &'static str, value: &str| (name, value.to_owned());

    let names = each("w", keys);
    let priorities = each("1", keys);
    let unique = list((0..keys).map(|key| format!("k{round}-{key}")));
    let inputs = each("\"{}\"", keys);
    session
        .call(
            "start_runs",
            &[
                one("p_workflows", &names),
                one("p_inputs", &inputs),
                one("p_keys", &unique),
                one("p_run_ats", &nulls),
                one("p_priorities", &priorities),
                one("p_versions", &nulls),
            ],
        )
        .await;
    session.call("start_run", &[one("workflow", "w"), one("input", "{}"), one("key", &format!("single{round}"))]).await;
    session.call("read_inputs", &[one("p_runs", &ids)]).await;
    session.call("step_results", &[one("p_runs", &ids), one("p_frames", &zeros), one("p_nodes", &zeros)]).await;

    // a cycle with 128 of everything: joins that count, joins that go, runs that end, attempts, jobs later and now, private batons, a claim
    sqlx::raw_sql(&baton(lane, 1, runs, false)).execute(&mut *admin).await.unwrap();
    let lanes = list((0..keys).map(|key| lane * 1000 + i64::try_from(key).unwrap()));
    let common = [
        one("p_lane", &lane.to_string()),
        one("j_run", &ids),
        one("j_frame", &zeros),
        one("j_node", &ones),
        one("j_resolved", &ones),
        one("j_taken", &ones),
        one("j_queue", &ones),
        one("j_priority", &ones),
        one("j_version", &ones),
    ];
    let hot = [
        one("p_cycle", "1"),
        one("p_worker", &Uuid::new_v4().to_string()),
        one("p_look", "true"),
        one("p_ended", &ids),
        one("j_indegree", &each("1000", keys)),
        one("j_need", &zeros),
        one("j_keep", &falses),
        one("g_run", &ids),
        one("g_frame", &zeros),
        one("g_node", &each("2", keys)),
        one("a_run", &ids),
        one("a_frame", &zeros),
        one("a_node", &each("3", keys)),
        one("a_attempt", &attempt),
        one("a_outcome", &ones),
        one("a_enqueued", &nulls),
        one("a_claimed", &nulls),
        one("a_duration", &ones),
        one("a_output", &ones),
        one("a_error", &nulls),
        one("d_after_us", &each("3600000000", keys)),
        one("d_at", &nulls),
        one("d_queue", &ones),
        one("d_priority", &ones),
        one("d_run", &ids),
        one("d_version", &ones),
        one("d_frame", &zeros),
        one("d_node", &zeros),
        one("d_kind", &zeros),
        one("d_attempt", &ones),
        one("d_failed", &zeros),
        one("d_lost", &zeros),
        one("s_queue", &ones),
        one("s_priority", &ones),
        one("s_run", &ids),
        one("s_version", &ones),
        one("s_frame", &zeros),
        one("s_node", &zeros),
        one("s_kind", &zeros),
        one("s_attempt", &ones),
        one("s_failed", &zeros),
        one("s_lost", &zeros),
        one("b_lane", &lanes),
        one("b_run", &ids),
        one("b_frame", &zeros),
        one("b_node", &zeros),
        one("b_kind", &zeros),
        one("b_attempt", &ones),
        one("b_claimed", &each("2026-01-01 00:00:00+00", keys)),
        one("q_queue", "{1,1}"),
        one("q_priority", "{1,2}"),
        one("q_low", "{0,0}"),
        one("q_limit", &list([keys, keys])),
        one("p_limit", &keys.to_string()),
        one("h_run", &list(&runs[..keys / 4])),
        one("h_frame", &each("0", keys / 4)),
        one("h_node", &each("5", keys / 4)),
        one("h_kind", &each("0", keys / 4)),
        one("h_attempt", &each("1", keys / 4)),
    ];
    // before the cycle takes them
    session.call("read_waiters", &[one("p_runs", &ids)]).await;
    let looks = [one("p_runs", &ids), one("p_frames", &zeros), one("p_nodes", &zeros)];
    let candidates = [one("p_after", &zeros), one("p_limit", "64")];
    session.call("read_candidates", &[looks.as_slice(), candidates.as_slice()].concat()).await;
    let sql = "select min(signal_id) from longshore.signals where run_id = any($1) and taken_at is null group by run_id order by run_id";
    let signals: Vec<i64> = sqlx::query_scalar(sql).bind(runs).fetch_all(&mut *admin).await.unwrap();
    let waits = frames(runs, &signals, round);
    // the runs that steps of these wait for end
    let children =
        "select run_id from longshore.workflow_runs where parent_run_id = any($1) and awaited and state = 1 order by 1";
    let children: Vec<Uuid> = sqlx::query_scalar(children).bind(runs).fetch_all(&mut *admin).await.unwrap();
    let count = children.len();
    let ends = [
        one("p_frames", &waits),
        one("z_run", &list(&children)),
        one("z_state", &each("4", count)),
        one("z_output", &each("null", count)),
        one("z_error", &each("1", count)),
        one("z_close", &each("true", count)),
    ];
    session.call("cycle_2", &[common.as_slice(), hot.as_slice(), &ends].concat()).await;
    let told = "select count(*) from longshore.step_ready where run_id = any($1) and node = -10";
    assert_eq!(
        sqlx::query_scalar::<_, i64>(told).bind(runs).fetch_one(&mut *admin).await.unwrap(),
        i64::try_from(count).unwrap()
    );
    session.call("read_contexts", &[one("p_runs", &ids)]).await;
    let woken =
        "select count(*) from longshore.step_waiting where run_id = any($1) and node = 0 and signal_id is not null";
    let woken: i64 = sqlx::query_scalar(woken).bind(runs).fetch_one(&mut *admin).await.unwrap();
    assert_eq!(woken, i64::try_from(signals.len()).unwrap(), "each of the waits was woken");
    session.call("read_woken", &looks).await;
    let waits = [one("p_runs", &ids), one("p_frames", &ones), one("p_nodes", &ones), one("p_results", "true")];
    session.call("read_children", &waits).await;
    if round > 0 {
        for name in ["context", "output", "state"] {
            session.call("query", &[one("run", &runs[0].to_string()), one("name", name)]).await;
        }
        session
            .call("signal", &[one("run", &runs[0].to_string()), one("name", "s"), one("key", &format!("k{round}"))])
            .await;
    }
    session.call("cycle", &[one("p_lane", "1"), one("p_cycle", "1")]).await;
    session.call("read_frames", &[one("p_runs", &ids), one("p_frames", &ones)]).await;
    let instances = [one("p_runs", &ids), one("p_frames", &ones), one("p_before", &each("true", keys))];
    session.call("read_instances", &instances).await;
    session.call("read_iterations", &[one("p_runs", &ids), one("p_frames", &ones)]).await;
    session.call("recover", &[one("p_lane", &lane.to_string()), one("p_cycle", "1")]).await;
    // a cycle whose joins all fire, half of them held, and whose runs end
    let fires = [
        one("p_cycle", "2"),
        one("j_indegree", &each("1000", keys)),
        one("j_need", &ones.replace('1', "2")),
        one("j_keep", &each("true", keys)),
        one("p_keep", &(keys / 2).to_string()),
        one("z_run", &ids),
        one("z_state", &each("4", keys)),
        one("z_output", &nulls),
        one("z_error", &each("1", keys)),
        one("z_close", &each("true", keys)),
    ];
    let finals = json!({"context": runs.iter().map(|run| json!({"run": run})).collect::<Vec<_>>()}).to_string();
    session.call("cycle_2", &[common.as_slice(), fires.as_slice(), &[one("p_frames", &finals)]].concat()).await;
    let first = sqlx::query("delete from longshore.lanes where lane_id >= 1000000").execute(&mut *admin).await.unwrap();
    assert!(first.rows_affected() > 0);

    let due = "update longshore.step_delayed set due_at = now() - interval '1 s' where run_id = any($1)";
    sqlx::query(due).bind(runs).execute(&mut *admin).await.unwrap();
    session.call("promote", &[one("p_limit", &keys.to_string())]).await;

    // the runs' closings, each with joins, ready and delayed jobs to clear away, a `try` that was cut off, and a `finally` at work
    let cut = "update longshore.frames set cleanup = case when whole then 1 end, shield = case when frame = 2 then 2 end, state = 1, output = null,
        finished_at = null where run_id = any($1) and frame < 3";
    sqlx::query(cut).bind(runs).execute(&mut *admin).await.unwrap();
    session.call("clean_up", &[one("p_run", &runs[1].to_string()), one("p_frame", "1")]).await;
    session.call("settle_begin", &[]).await;
    let closings: Vec<(Uuid, i64)> =
        sqlx::query_as("select run_id, close_id from longshore.closed where run_id = any($1) order by 1")
            .bind(runs)
            .fetch_all(&mut *admin)
            .await
            .unwrap();
    assert!(closings.len() >= keys.min(closings.len()));
    session
        .call(
            "settle",
            &[
                one("p_runs", &list(closings.iter().map(|(run, _)| run))),
                one("p_closes", &list(closings.iter().map(|(_, close)| close))),
                one("p_lanes", &list((1..=50).map(|lane| 5_000_000 + lane))),
                one("p_cycles", &list(1..=50)),
            ],
        )
        .await;
    sqlx::raw_sql("update longshore.workflow_runs set state = 1, error = null, finished_at = null where state = 4")
        .execute(&mut *admin)
        .await
        .unwrap();

    // half of them by their run, the others by the frame of the step that waits
    let frames: Vec<usize> = (0..keys).map(|key| key % 2).collect();
    session.call("close_children", &[one("p_runs", &ids), one("p_frames", &list(frames))]).await;
    let (child, parent) = (children.first().unwrap_or(&runs[0]), runs[0]);
    session.call("ask_child", &[one("p_child", &child.to_string()), one("p_parent", &parent.to_string())]).await;

    for scan in ["false", "true"] {
        sqlx::raw_sql(&baton(lane + 1, 7, runs, true)).execute(&mut *admin).await.unwrap();
        session.call("reap", &[one("p_scan", scan)]).await;
        let left = "select count(*) from longshore.lanes where expires_at < now()";
        assert_eq!(
            sqlx::query_scalar::<_, i64>(left).fetch_one(&mut *admin).await.unwrap(),
            0,
            "one baton, and it was found"
        );
        sqlx::query("delete from longshore.execution_step_attempts where outcome = 3")
            .execute(&mut *admin)
            .await
            .unwrap();
    }
    for upkeep in ["upkeep", "upkeep_2"] {
        session
            .call(
                upkeep,
                &[one("p_worker", &Uuid::new_v4().to_string()), one("p_queues", "{1,2,3}"), one("p_promote", "128")],
            )
            .await;
    }
    sqlx::raw_sql(&baton(lane + 2, 1, &runs[..1], false)).execute(&mut *admin).await.unwrap();
    session
        .call(
            "complete_in",
            &[
                one("p_lane", &(lane + 2).to_string()),
                one("p_cycle", "1"),
                one("p_queue", "1"),
                one("p_priority", "1"),
                one("p_run", &runs[0].to_string()),
                one("p_node", "4"),
                one("p_attempt", &(2 + round).to_string()),
                one("p_output", "1"),
            ],
        )
        .await;
    // parked by the cycle above
    session.call("pause_run", &[one("p_run", &runs[0].to_string()), one("p_why", "{}")]).await;
    let state = "update longshore.workflow_runs set state = 2, finished_at = null, error = null where run_id = $1";
    sqlx::query(state).bind(runs[0]).execute(&mut *admin).await.unwrap();
    session.call("resume_run", &[one("p_run", &runs[0].to_string())]).await;
    let parked: bool =
        sqlx::query_scalar("select exists (select from longshore.step_delayed where run_id = $1 and parked)")
            .bind(runs[0])
            .fetch_one(&mut *admin)
            .await
            .unwrap();
    assert!(!parked);
    session
        .call("close_run", &[one("p_run", &runs[keys - 1].to_string()), one("p_state", "5"), one("p_error", "{}")])
        .await;
    session
        .call(
            "prune_runs",
            &[one("p_after", &after.to_string()), one("p_before", "now"), one("p_limit", &keys.to_string())],
        )
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_function_reads_a_whole_table_with_the_plans_it_made_while_it_was_empty() {
    let queries = json!({"context": "run.context.n", "output": "nodes.a.output", "state": "nodes.b.state"});
    let fleet = TestFleet::publish([with(dag("w", "a b", "a>b"), json!({"queries": queries}))]).await;
    let mut admin = PgConnection::connect(&fleet.database.url).await.unwrap();
    // nothing but this test may analyze: a new statistic would throw the plans away
    let mut tables: Vec<String> = sqlx::query_scalar(
        "select relname::text from pg_class where relnamespace = 'longshore'::regnamespace and relkind = 'r'",
    )
    .fetch_all(&mut admin)
    .await
    .unwrap();
    for table in &tables {
        let sql = format!("alter table longshore.{table} set (autovacuum_enabled = false)");
        sqlx::raw_sql(&sql).execute(&mut admin).await.unwrap();
    }
    tables.push("execution_step_attempts".to_owned());
    for table in &tables {
        sqlx::raw_sql(&format!("analyze longshore.{table}")).execute(&mut admin).await.unwrap();
    }

    // the plans: first with keys that are nowhere, on empty tables; then with a few rows, for what is reached only with them
    let mut session = Session::open(&fleet.database.url).await;
    let mut few: Vec<Uuid> = sqlx::query_scalar("select longshore.new_run_id() from generate_series(1, 4)")
        .fetch_all(&mut admin)
        .await
        .unwrap();
    few.sort();
    round(&mut session, &mut admin, &few, Uuid::nil(), 0).await;
    for table in [
        "step_joins",
        "step_ready",
        "step_delayed",
        "execution_step_attempts",
        "workflow_runs",
        "lanes",
        "worker_lanes",
        "frames",
        "frame_chunks",
        "step_waiting",
        "signals",
        "context_heads",
        "execution_context_snapshots",
        "pauses",
    ] {
        sqlx::raw_sql(&format!("delete from longshore.{table}")).execute(&mut admin).await.unwrap();
    }
    fill(&mut admin, &few).await;
    round(&mut session, &mut admin, &few, Uuid::nil(), 1).await;
    session.called.clear();

    let mut many: Vec<Uuid> = sqlx::query_scalar("select longshore.new_run_id() from generate_series(1, $1)")
        .bind(i32::try_from(ROWS).unwrap())
        .fetch_all(&mut admin)
        .await
        .unwrap();
    many.sort();
    fill(&mut admin, &many).await;
    for lane in 1..=200_i64 {
        sqlx::raw_sql(&baton(lane, 5, &many[..10], false)).execute(&mut admin).await.unwrap();
    }
    // old ended runs, for prune
    let (live, ended) = many.split_at(ROWS * 9 / 10);
    let sql = "update longshore.workflow_runs set state = 3, finished_at = now() - interval '1 min', output = '1' where run_id = any($1)";
    sqlx::query(sql).bind(ended).execute(&mut admin).await.unwrap();
    sqlx::query("delete from longshore.closed where run_id = any($1)").bind(ended).execute(&mut admin).await.unwrap();
    for number in 2..5 {
        // keys from all over the table, other ones each time
        let keys: Vec<Uuid> = (0..KEYS).map(|key| live[100 + (key * 601 + number * 97) % (live.len() - 100)]).collect();
        let keys: BTreeSet<Uuid> = keys.into_iter().collect();
        let keys: Vec<Uuid> = keys.into_iter().collect();
        assert_eq!(keys.len(), KEYS);
        round(&mut session, &mut admin, &keys, ended[number * 500], number).await;
    }

    let called: BTreeSet<&str> = session.called.keys().map(String::as_str).collect();
    // what reads no table has no plan
    let all = FUNCTIONS.iter().filter(|function| !function.text.contains("language plpgsql immutable"));
    let all: BTreeSet<&str> = all.map(|function| function.name).collect();
    assert_eq!(called, all, "every function is called here");
    let mut wrong = Vec::new();
    for (function, costs) in &session.called {
        let ms = costs.iter().map(|cost| cost.ms).fold(f64::INFINITY, f64::min);
        let buffers = costs.iter().map(|cost| cost.buffers).max().unwrap();
        let rows = costs.iter().map(|cost| cost.rows).max().unwrap();
        let (most_rows, most_buffers) = most(function);
        eprintln!(
            "{function}: {ms:.1} ms; rows read {rows}, at most {most_rows}; buffers {buffers}, at most {most_buffers}"
        );
        if ms > MOST_MS || rows > most_rows || buffers > most_buffers {
            wrong.push(format!(
                "{function}: {costs:?}, at most {most_rows} rows, {most_buffers} buffers and {MOST_MS} ms"
            ));
        }
    }
    assert!(wrong.is_empty(), "a plan has collapsed: {wrong:#?}");
    drop(session);
    fleet.database.drop().await;
}

/// The rows read and the buffers touched by one call, at most: two to four times what it takes when every key is looked up (most functions are
/// called with 128). One walk over a table reads its 100,000 rows.
fn most(function: &str) -> (i64, i64) {
    match function {
        "close_run" | "pause_run" | "resume_run" | "complete_in" | "start_run" | "ask_child" | "clean_up" => {
            (1_000, 200)
        }
        // it looks at what is ready of each closing, some hundreds here
        "settle_begin" => (6_000, 20_000),
        "read_inputs" | "step_results" => (500, 2_000),
        "recover" | "promote" | "prune_runs" => (3_000, 10_000),
        // it looks at each lane of the fleet, 400 here, for each run
        "settle" => (100_000, 50_000),
        // 128 of everything there is
        "cycle_2" => (9_000, 40_000),
        _ => (5_000, 25_000),
    }
}

/// For each of these runs: its row, an attempt of node 0, a ready and a delayed job, two joins, a closing.
async fn fill(admin: &mut PgConnection, runs: &[Uuid]) {
    let statements = [
        "insert into longshore.workflow_runs (run_id, workflow_id, version_id, shard, priority, key, input)
         select r, 1, 1, 0, 1, 'f' || r, '{}' from unnest($1::uuid[]) r",
        "insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, claimed_at, finished_at, output)
         select 0, r, 0, 0, 1, 1, 1, now(), now(), '{}' from unnest($1::uuid[]) r",
        "insert into longshore.step_ready (shard, queue_id, priority, run_id, version_id, node, kind, attempt)
         select 0, 1, 1, r, 1, 0, 0, 1 from unnest($1::uuid[]) r",
        "insert into longshore.step_delayed (shard, due_at, queue_id, priority, run_id, version_id, node, kind, attempt)
         select 0, now() + interval '1 day', 1, 1, r, 1, 0, 0, 1 from unnest($1::uuid[]) r",
        "insert into longshore.step_joins (shard, run_id, frame, node, resolved, taken)
         select 0, r, 0, n, 1, 1 from unnest($1::uuid[]) r, generate_series(1, 2) n",
        "insert into longshore.frames (shard, run_id, frame, parent, node, attempt, iteration, body, path, whole, input)
         select 0, r, f, f - 1, 0, 1, f - 2, case f when 2 then 1 end, array_fill(1, array[f - 1]), f = 1, '1' from unnest($1::uuid[]) r, generate_series(1, 2) f",
        "insert into longshore.frame_chunks (shard, run_id, frame, chunk, count, items)
         select 0, r, 1, 1, 1, '[1]' from unnest($1::uuid[]) r",
        "insert into longshore.context_heads (shard, run_id, n) select 0, r, 1 from unnest($1::uuid[]) r",
        "insert into longshore.execution_context_snapshots (shard, run_id, n, reason, context)
            select 0, r, n, 1, '{\"n\": 1}' from unnest($1::uuid[]) r, generate_series(0, 1) n",
        "insert into longshore.signals (shard, run_id, name, payload) select 0, r, 's', '1' from unnest($1::uuid[]) r, generate_series(1, 2)",
        "insert into longshore.step_waiting (shard, run_id, frame, node, attempt, version_id, queue_id, priority, picky, names, woken_at, due_at, timer_seq)
         select 0, r, 0, n, 1, 1, 1, 1, false, '{s,t}', case n when 1 then now() end, now(), 1 from unnest($1::uuid[]) r, generate_series(0, 1) n",
        "insert into longshore.step_waiting (shard, run_id, frame, node, attempt, version_id, queue_id, priority, picky, names, child_run_id)
         select 0, r, 1, 1, 1, 1, 1, 1, false, '{}', r from unnest($1::uuid[]) r",
        "insert into longshore.closed (shard, run_id) select 0, r from unnest($1::uuid[]) r where false",
        "insert into longshore.workflow_runs (run_id, workflow_id, version_id, shard, priority, input, parent_run_id, parent_frame, parent_node, parent_attempt,
            depth, close_policy, awaited)
         select longshore.new_run_id(), 1, 1, 0, 1, '{}', r, 1, 1, 1, 1, 1, true from unnest($1::uuid[]) r",
    ];
    for sql in statements {
        sqlx::query(sql).bind(runs).execute(&mut *admin).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

fn sql_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sql_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "sql") {
            found.push(path);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_prepares_on_the_migrated_schema() {
    let fleet = TestFleet::publish([]).await;
    let mut connection = PgConnection::connect(&fleet.database.url).await.unwrap();
    let mut files = Vec::new();
    sql_files(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../core/sql"), &mut files);
    let (mut prepared, mut wrong) = (0, Vec::new());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let folder = file.parent().unwrap().file_name().unwrap().to_str().unwrap();
        let name = file.file_stem().unwrap().to_str().unwrap();
        let script = matches!(folder, "migrate" | "system")
            || matches!(
                (folder, name),
                ("bench", "create_database" | "drop_database" | "pin_snapshot") | ("session", "begin")
            );
        if script || text.contains("create or replace function") {
            continue;
        }
        match (&mut connection).prepare(&text).await {
            Ok(_) => prepared += 1,
            Err(error) => wrong.push(format!("{}: {error}", file.display())),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(prepared > 20, "{prepared}");
    connection.close().await.unwrap();
    fleet.database.drop().await;
}
