//! Faults in the middle of blocks: a killed worker costs them nothing but time, a canceled run leaves nothing of them, and a drained worker charges
//! no attempt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use longshore_core::run::{self, Canceled};
use longshore_tests::TestFleet;
use longshore_tests::fleet::Gate;
use longshore_tests::lane::until_blocked;
use longshore_worker::{Slots, Step, WorkerBuilder};
use serde_json::{Value, json};
use uuid::Uuid;

/// So many steps stand in the gate when all four blocks are in their middle.
const INSIDE: usize = 10 + 1 + 1 + 2;

/// A task that stands in the gate while `n` is one of so many from `from` on; gives `n`. One failed attempt is too many.
fn task(id: &str, n: Value, from: i64, many: i64) -> Value {
    json!({"id": id, "type": "task", "handler": "middle", "retry": {"max_attempts": 1}, "input": {"n": n, "from": from, "to": from + many}})
}

fn set(id: &str, output: Value) -> Value {
    json!({"id": id, "type": "set", "output": output})
}

/// A workflow, and what its runs give.
fn workflows() -> [(&'static str, Value, Value); 4] {
    let items: Vec<i64> = (0..200).collect();
    let each = json!({"name": "foreach", "nodes": [{"id": "each", "type": "foreach", "items": items, "concurrency": 20, "body": {
        "nodes": [task("t", json!("{{ item }}"), 100, 10), set("s", json!("{{ nodes.t.output * 2 }}"))], "edges": [["t", "s"]]}}]});
    let doubled: Vec<i64> = items.iter().map(|item| item * 2).collect();
    // its 30th pass is given 29
    let again = json!({"name": "while", "nodes": [{"id": "loop", "type": "while", "when": "input.n < 40", "input": {"n": 0}, "body": {
        "nodes": [task("t", json!("{{ frame.input.n }}"), 29, 1), set("s", json!({"n": "{{ nodes.t.output + 1 }}"}))], "edges": [["t", "s"]]}}]});
    let failing = json!({"id": "bad", "type": "task", "handler": "flaky", "retry": {"max_attempts": 1}, "input": {"fail": 9, "permanent": true}});
    let tried = json!({"name": "try", "nodes": [{"id": "tried", "type": "try", "body": {"nodes": [failing]},
        "catch": [{"body": {"nodes": [set("caught", json!("caught"))]}}],
        "finally": {"nodes": [task("t", json!(1), 1, 1)]}}]});
    let branch = |id: &str, n: i64| {
        json!({"id": id, "nodes": [task(&format!("t{id}"), json!(n), 1, 2), set(&format!("s{id}"), json!({"gave": format!("{{{{ nodes.t{id}.output }}}}")}))],
        "edges": [[format!("t{id}"), format!("s{id}")]]})
    };
    let parallel = json!({"name": "parallel", "nodes": [{"id": "p", "type": "parallel", "branches": [branch("a", 0), branch("b", 1), branch("c", 2)]}]});
    [
        ("foreach", each, json!(doubled)),
        ("while", again, json!({"n": 40})),
        ("try", tried, json!("caught")),
        ("parallel", parallel, json!({"a": {"gave": 0}, "b": {"gave": 1}, "c": {"gave": 2}})),
    ]
}

fn worker(fleet: &TestFleet, gate: &Gate) -> WorkerBuilder {
    let gate = gate.clone();
    let builder = fleet.worker().queue("default", Slots(40)).grace(Duration::from_millis(200));
    builder.handler("middle", move |step: Step, input: Value| {
        let gate = gate.clone();
        async move {
            let bound = |name: &str| input[name].as_i64().unwrap();
            if (bound("from")..bound("to")).contains(&bound("n")) {
                gate.pass(step, Value::Null).await?;
            }
            Ok(input["n"].clone())
        }
    })
}

/// A fleet of one worker with a run of each, all in their middle.
async fn in_the_middle(gate: &Gate) -> (TestFleet, Vec<(Uuid, Value)>) {
    let mut fleet = TestFleet::publish(workflows().map(|(_, definition, _)| definition)).await;
    fleet.add(worker(&fleet, gate)).await;
    let mut runs = Vec::new();
    for (name, _, output) in workflows() {
        runs.push((fleet.start(name, json!({})).await, output));
    }
    gate.entered(INSIDE).await;
    (fleet, runs)
}

async fn all_complete(fleet: &TestFleet, runs: &[(Uuid, Value)]) {
    for (run, output) in runs {
        let (state, given) = fleet.ended(*run).await;
        assert_eq!((state.as_str(), &given), ("completed", output));
    }
}

/// How many attempts of tasks had this outcome.
async fn attempts(fleet: &TestFleet, outcome: i16) -> i64 {
    let sql = "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node where n.handler = 'middle' and a.outcome = $1";
    sqlx::query_scalar(sql).bind(outcome).fetch_one(&fleet.database.pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_worker_was_killed_completes_with_what_it_would_have_given() {
    let gate = Gate::default();
    let (mut fleet, runs) = in_the_middle(&gate).await;
    fleet.crash().await;
    // handlers of the dead may still stand in the gate and pass it too
    gate.open(10 * INSIDE);
    fleet.add(worker(&fleet, &gate)).await;
    all_complete(&fleet, &runs).await;
    let lost = attempts(&fleet, 3).await;
    assert!(lost >= INSIDE as i64, "{lost} attempts were lost with the worker");
    assert_eq!(attempts(&fleet, 1).await, 200 + 40 + 1 + 3, "each step is accepted once");
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_canceled_within_a_block_leaves_nothing_of_it() {
    let gate = Gate::default();
    let (fleet, runs) = in_the_middle(&gate).await;
    for (run, _) in &runs {
        assert_eq!(run::cancel(&fleet.database.pool, *run, "no longer wanted").await.unwrap(), Canceled::Canceled);
    }
    gate.told(INSIDE).await;
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    for (run, _) in &runs {
        assert_eq!(fleet.ended(*run).await.0, "canceled");
    }
    assert_eq!(gate.count(), INSIDE, "nothing began after it");
    let left =
        "select (select count(*) from longshore.frames where state = 1) + (select count(*) from longshore.frame_chunks)
        + (select count(*) from longshore.step_joins)";
    assert_eq!(fleet.database.number(left).await, 0);
    let blocks = "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node where n.handler is null and a.outcome = 4";
    assert_eq!(fleet.database.number(blocks).await, 4, "the attempts of the blocks are on record");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_within_a_block_charges_no_attempt() {
    let gate = Gate::default();
    let (mut fleet, runs) = in_the_middle(&gate).await;
    fleet.add(worker(&fleet, &gate)).await;
    fleet.leave_first().await;
    gate.open(INSIDE);
    all_complete(&fleet, &runs).await;
    assert_eq!(attempts(&fleet, 6).await, INSIDE as i64, "what stood in the gate was given back");
    assert_eq!((attempts(&fleet, 2).await, attempts(&fleet, 3).await), (0, 0), "nothing failed and nothing was lost");
    assert_eq!(attempts(&fleet, 1).await, 200 + 40 + 1 + 3);
    fleet.finish().await;
}

/// What a block came to is said by a step job of its own, which goes with what is around it.
#[tokio::test(flavor = "multi_thread")]
async fn the_attempt_of_a_block_that_had_ended_when_its_run_was_canceled_is_on_record() {
    let gate = Gate::default();
    let (fleet, runs) = in_the_middle(&gate).await;
    let ended = "update longshore.frames set state = 3, output = '1', finished_at = now() where whole and state = 1";
    fleet.database.execute(ended).await;
    for (run, _) in &runs {
        assert_eq!(run::cancel(&fleet.database.pool, *run, "no longer wanted").await.unwrap(), Canceled::Canceled);
    }
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    for ((run, _), block) in runs.iter().zip(["each", "loop", "tried", "p"]) {
        assert_eq!(fleet.tries(*run, block).await, ["canceled"]);
    }
    fleet.finish().await;
}

/// The lane does not read the frames around what its own cycle brought about, so the cycle has to tell what was closed meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_join_in_a_frame_that_was_closed_while_its_cycle_was_in_flight_does_not_start() {
    let (gate, passed, stands) = (Gate::default(), json!(0), json!(1));
    let nodes = [task("x", passed, 1, 1), task("y", stands.clone(), 1, 1), task("j", stands, 1, 1)];
    let body = json!({"nodes": nodes, "edges": [["x", "j"], ["y", "j"]]});
    let chosen = json!({"name": "w", "nodes": [{"id": "b", "type": "if", "when": "true", "then": body}]});
    let mut fleet = TestFleet::publish([chosen]).await;
    fleet.add(worker(&fleet, &gate)).await;
    let run = fleet.start("w", json!({})).await;
    gate.entered(1).await;
    fleet.until("select count(*) = 1 from longshore.execution_step_attempts where outcome = 1").await;
    // the key of y's attempt, uncommitted: its cycle waits there, after it has counted the join
    let mut holder = fleet.database.pool.acquire().await.unwrap();
    let y = "begin; insert into longshore.execution_step_attempts (shard, run_id, frame, node, attempt, outcome, lane_id, finished_at, output)
        select 0, f.run_id, f.frame, n.node, 1, 1, 1, now(), '1' from longshore.frames f, longshore.workflow_nodes n where n.id = 'y'";
    sqlx::raw_sql(y).execute(&mut *holder).await.unwrap();
    gate.open(1);
    until_blocked(&fleet.database.pool, 1).await;
    let close = "with f as (update longshore.frames set state = 4, error = '{}', finished_at = now() returning shard, run_id, frame)
        insert into longshore.closed (shard, run_id, frame) select shard, run_id, frame from f";
    fleet.database.execute(close).await;
    sqlx::raw_sql("rollback").execute(&mut *holder).await.unwrap();
    drop(holder);
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    assert_eq!(
        (fleet.tries(run, "y").await, fleet.tries(run, "j").await),
        (vec!["completed".into()], vec!["canceled".into()])
    );
    assert_eq!(gate.count(), 1, "j began after its frame was closed");
    assert_eq!(
        run::cancel(&fleet.database.pool, run, "nothing follows a frame closed by hand").await.unwrap(),
        Canceled::Canceled
    );
    fleet.finish().await;
}
