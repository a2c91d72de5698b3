//! Faults in the middle of what takes long: a `foreach` of 10,000, a `while` in its 50th pass, the `finally` of a `try`, branches, a run that waits for its
//! child, and waits whose signals race their time. Each test does one fault to all of them at once: a killed worker costs nothing but time, a canceled
//! run leaves nothing, a paused one stands still and loses nothing, and a drained worker charges no attempt.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::time::Duration;

use longshore_core::run::{self, Canceled};
use longshore_enqueuer::{Enqueuer, Error, Switched};
use longshore_tests::TestFleet;
use longshore_tests::fleet::{Gate, set};
use longshore_tests::lane::until_blocked;
use longshore_worker::{Slots, Step, WorkerBuilder};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

/// Items of the `foreach`.
const ITEMS: usize = 10_000;

/// So many of them at once: all of these stand in the gate, so that no other goes past them.
const WINDOW: usize = 100;

/// Passes of the `while`, and the one that stands in the gate.
const PASSES: usize = 60;
const PASS: usize = 50;

/// Waits whose signal races their time; one more waits for what no test sends before the fault is over.
const RACING: usize = 39;

/// So many steps stand in the gate when all are in their middle.
const INSIDE: usize = WINDOW + 1 + 1 + 2 + 1;

/// What a task of them completes in all.
const ACCEPTED: usize = ITEMS + PASSES + 1 + 3 + 1;

/// A task that stands in the gate while `n` is one of so many from `from` on; gives `n`. One failed attempt is too many.
fn task(id: &str, n: Value, from: usize, many: usize) -> Value {
    json!({"id": id, "type": "task", "handler": "middle", "retry": {"max_attempts": 1}, "input": {"n": n, "from": from, "to": from + many}})
}

/// The workflows, each with the block or node that is in its middle and what its runs give. Of a racing wait that is its item, or null where its time was
/// over first.
fn workflows() -> [(&'static str, &'static str, Value, Value); 6] {
    let items: Vec<usize> = (0..ITEMS).collect();
    let each = json!({"name": "foreach", "nodes": [{"id": "each", "type": "foreach", "items": items, "concurrency": WINDOW, "body": {
        "nodes": [task("t", json!("{{ item }}"), ITEMS / 2, WINDOW)], "output": "{{ nodes.t.output * 2 }}"}}]});
    let doubled: Vec<usize> = items.iter().map(|item| item * 2).collect();
    // the first pass is given 0
    let again = json!({"name": "while", "nodes": [{"id": "loop", "type": "while", "when": format!("input.n < {PASSES}"), "input": {"n": 0}, "body": {
        "nodes": [task("t", json!("{{ frame.input.n }}"), PASS - 1, 1), set("s", json!({"n": "{{ nodes.t.output + 1 }}"}))], "edges": [["t", "s"]]}}]});
    let failing = json!({"id": "bad", "type": "task", "handler": "flaky", "retry": {"max_attempts": 1}, "input": {"fail": 9, "permanent": true}});
    let tried = json!({"name": "try", "nodes": [{"id": "tried", "type": "try", "body": {"nodes": [failing]},
        "catch": [{"body": {"nodes": [set("caught", json!("caught"))]}}],
        "finally": {"nodes": [task("t", json!(1), 1, 1)]}}]});
    let branch = |id: &str, n: i64| {
        json!({"id": id, "nodes": [task(&format!("t{id}"), json!(n), 1, 2), set(&format!("s{id}"), json!({"gave": format!("{{{{ nodes.t{id}.output }}}}")}))],
        "edges": [[format!("t{id}"), format!("s{id}")]]})
    };
    let parallel = json!({"name": "parallel", "nodes": [{"id": "p", "type": "parallel", "branches": [branch("a", 0), branch("b", 1), branch("c", 2)]}]});
    let parent = json!({"name": "subflow", "nodes": [{"id": "call", "type": "subflow", "workflow": "child"}, set("s", json!({"got": "{{ input }}"}))],
        "edges": [["call", "s"]]});
    let racing: Vec<usize> = (0..=RACING).collect();
    let wait = json!({"id": "w", "type": "wait", "signal": "go", "match": "signal.payload == item", "timeout": "1h"});
    let race = json!({"name": "wait", "nodes": [{"id": "race", "type": "foreach", "items": racing, "concurrency": RACING + 1, "body": {
        "nodes": [wait, set("late", json!(0)), set("heard", json!(1))],
        "edges": [{"from": "w", "to": "late", "on": "timeout"}, ["w", "heard"]], "output": "{{ nodes.w.output.payload }}"}}]});
    [
        ("foreach", "each", each, json!(doubled)),
        ("while", "loop", again, json!({"n": PASSES})),
        ("try", "tried", tried, json!("caught")),
        ("parallel", "p", parallel, json!({"a": {"gave": 0}, "b": {"gave": 1}, "c": {"gave": 2}})),
        ("subflow", "call", parent, json!({"got": 7})),
        ("wait", "race", race, json!(racing)),
    ]
}

fn worker(fleet: &TestFleet, gate: &Gate) -> WorkerBuilder {
    let gate = gate.clone();
    let builder = fleet.worker().queue("default", Slots(150)).grace(Duration::from_millis(200));
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

/// Runs of each, and what they give.
struct Runs(Vec<(Uuid, Value)>);

impl Runs {
    fn ids(&self) -> impl Iterator<Item = Uuid> {
        self.0.iter().map(|(run, _)| *run)
    }

    /// That of the waits.
    fn waits(&self) -> Uuid {
        self.0[self.0.len() - 1].0
    }

    fn race(&self, fleet: &TestFleet) -> Race {
        Race { run: self.waits(), pool: fleet.database.pool.clone(), enqueuer: fleet.enqueuer.clone() }
    }

    async fn complete(&self, fleet: &TestFleet) {
        for (run, output) in &self.0 {
            let (state, mut given) = fleet.ended(*run).await;
            if *run == self.waits() {
                let told = given.as_array_mut().unwrap_or_else(|| panic!("{state}")).iter_mut().take(RACING);
                told.zip(0..).filter(|(given, _)| given.is_null()).for_each(|(given, item)| *given = json!(item));
            }
            assert!(state == "completed" && given == *output, "run {run} is {state}: {given}");
        }
    }
}

/// The signals that race the time of their waits.
struct Race {
    run: Uuid,
    pool: PgPool,
    enqueuer: Enqueuer,
}

impl Race {
    /// The time of all waits but the last is over about when their signals come. The fault is done when half of these were sent.
    async fn meanwhile<T>(self, fault: impl Future<Output = T>) -> T {
        let soon = "with soon as (
                update longshore.step_waiting w set due_at = now() + random() * interval '500 ms'
                from longshore.frames f
                where w.run_id = $1 and f.run_id = w.run_id and f.frame = w.frame and f.iteration < $2
                returning w.frame, w.timer_seq, w.due_at)
            update longshore.step_delayed d set due_at = s.due_at from soon s where d.run_id = $1 and d.frame = s.frame and d.seq = s.timer_seq";
        let moved = sqlx::query(soon).bind(self.run).bind(i32::try_from(RACING).unwrap()).execute(&self.pool).await;
        assert_eq!(moved.unwrap().rows_affected(), RACING as u64);
        self.send(0..RACING / 2).await;
        tokio::join!(fault, self.send(RACING / 2..RACING)).0
    }

    async fn send(&self, items: std::ops::Range<usize>) {
        for item in items {
            // spread over the time in which the timers are due
            tokio::time::sleep(Duration::from_millis(15)).await;
            match self.enqueuer.signal(self.run, "go", &item).await {
                Ok(_) | Err(Error::RunEnded { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What the last wait waits for.
    async fn end(self) {
        self.send(RACING..RACING + 1).await;
    }
}

/// A fleet of one worker with a run of each, all in their middle.
async fn in_the_middle(gate: &Gate) -> (TestFleet, Runs) {
    let child = json!({"name": "child", "nodes": [task("t", json!(7), 7, 1)]});
    let definitions = workflows().map(|(_, _, definition, _)| definition);
    let mut fleet = TestFleet::publish([child].into_iter().chain(definitions)).await;
    fleet.add(worker(&fleet, gate)).await;
    let mut runs = Vec::new();
    for (name, _, _, output) in workflows() {
        runs.push((fleet.start(name, json!({})).await, output));
    }
    gate.entered(INSIDE).await;
    let waiting = RACING + 1 + 1;
    fleet.until(&format!("select count(*) = {waiting} from longshore.step_waiting")).await;
    // nothing looks any more for what is not there yet
    fleet.until("select not exists (select from longshore.step_ready)").await;
    let ended = "select count(*) from longshore.frames f join longshore.workflow_runs r using (run_id) join longshore.workflows w using (workflow_id)
        where w.name = 'foreach' and not f.whole and f.state = 3";
    assert_eq!(fleet.database.number(ended).await, (ITEMS / 2) as i64, "the foreach is in its middle");
    (fleet, Runs(runs))
}

/// How many attempts of tasks had this outcome.
async fn attempts(fleet: &TestFleet, outcome: i16) -> usize {
    let sql = "select count(*) from longshore.execution_step_attempts a join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node where n.handler = 'middle' and a.outcome = $1";
    let count: i64 = sqlx::query_scalar(sql).bind(outcome).fetch_one(&fleet.database.pool).await.unwrap();
    usize::try_from(count).unwrap()
}

/// How often each wait was tried at most.
async fn waits_tried(fleet: &TestFleet, runs: &Runs) -> i32 {
    let sql = "select max(a.attempt) from longshore.execution_step_attempts a join longshore.workflow_nodes n using (node)
        join longshore.workflow_runs r on r.run_id = a.run_id and r.version_id = n.version_id where r.run_id = $1 and n.id = 'w'";
    fleet.ask(sql, runs.waits()).await
}

async fn cancel(pool: &PgPool, runs: &[Uuid]) {
    for run in runs {
        assert_eq!(run::cancel(pool, *run, "no longer wanted").await.unwrap(), Canceled::Canceled);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_worker_was_killed_completes_with_what_it_would_have_given() {
    let gate = Gate::default();
    let (mut fleet, runs) = in_the_middle(&gate).await;
    runs.race(&fleet).meanwhile(fleet.crash()).await;
    // handlers of the dead may still stand in the gate and pass it too
    gate.open(10 * INSIDE);
    fleet.add(worker(&fleet, &gate)).await;
    runs.race(&fleet).end().await;
    runs.complete(&fleet).await;
    let lost = attempts(&fleet, 3).await;
    assert!(lost >= INSIDE, "{lost} attempts were lost with the worker");
    assert_eq!(attempts(&fleet, 1).await, ACCEPTED, "each step is accepted once");
    fleet.forget_killed().await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_canceled_within_a_block_leaves_nothing_of_it() {
    let gate = Gate::default();
    let (fleet, runs) = in_the_middle(&gate).await;
    let (pool, ids) = (&fleet.database.pool, runs.ids().collect::<Vec<_>>());
    runs.race(&fleet).meanwhile(cancel(pool, &ids)).await;
    // all but the `finally`, which goes on
    gate.told(INSIDE - 1).await;
    gate.open(1);
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    for run in ids {
        assert_eq!(fleet.ended(run).await.0, "canceled");
    }
    assert_eq!(
        fleet.database.number("select count(*) from longshore.workflow_runs where state = 5").await,
        7,
        "the child, too"
    );
    assert_eq!(gate.count(), INSIDE, "nothing began after it");
    let left =
        "select (select count(*) from longshore.frames where state = 1) + (select count(*) from longshore.frame_chunks)
        + (select count(*) from longshore.step_joins) + (select count(*) from longshore.step_waiting) + (select count(*) from longshore.step_delayed)";
    assert_eq!(fleet.database.number(left).await, 0);
    for (run, (_, block, ..)) in runs.ids().zip(workflows()) {
        assert_eq!(fleet.tries(run, block).await, ["canceled"], "the attempt of {block} is on record");
    }
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_paused_within_a_block_stands_still_and_goes_on_with_what_it_had() {
    let gate = Gate::default();
    let (fleet, runs) = in_the_middle(&gate).await;
    let pause = async {
        for run in runs.ids() {
            assert_eq!(fleet.enqueuer.pause(run, "wait for ann").await.unwrap(), Switched::Changed);
        }
    };
    runs.race(&fleet).meanwhile(pause).await;
    gate.open(INSIDE);
    // the child is not paused with its parent; what it gave is parked
    fleet.until("select count(*) = 1 from longshore.workflow_runs where state = 3").await;
    let still = "select not exists (select from longshore.lanes) and not exists (select from longshore.step_ready)
        and not exists (select from longshore.step_delayed where not parked and due_at < now() + interval '1 minute')
        and (select count(distinct run_id) from longshore.step_delayed where parked) >= 5";
    fleet.until(still).await;
    let recorded = "select count(*) from longshore.execution_step_attempts";
    let before = fleet.database.number(recorded).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fleet.database.number(recorded).await, before, "nothing happens while they are paused");
    assert_eq!(attempts(&fleet, 1).await, ITEMS / 2 + WINDOW + PASS + 1 + 3 + 1, "what was at work ended");
    for run in runs.ids() {
        assert_eq!(fleet.enqueuer.resume(run).await.unwrap(), Switched::Changed);
    }
    runs.race(&fleet).end().await;
    runs.complete(&fleet).await;
    assert_eq!(attempts(&fleet, 1).await, ACCEPTED);
    for outcome in [2, 3, 4, 6] {
        assert_eq!(attempts(&fleet, outcome).await, 0, "outcome {outcome}: nothing is charged for a pause");
    }
    assert_eq!(waits_tried(&fleet, &runs).await, 1);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_within_a_block_charges_no_attempt() {
    let gate = Gate::default();
    let (mut fleet, runs) = in_the_middle(&gate).await;
    fleet.add(worker(&fleet, &gate)).await;
    runs.race(&fleet).meanwhile(fleet.leave_first()).await;
    gate.open(INSIDE);
    runs.race(&fleet).end().await;
    runs.complete(&fleet).await;
    assert_eq!(attempts(&fleet, 6).await, INSIDE, "what stood in the gate was given back");
    assert_eq!((attempts(&fleet, 2).await, attempts(&fleet, 3).await), (0, 0), "nothing failed and nothing was lost");
    assert_eq!(attempts(&fleet, 1).await, ACCEPTED);
    fleet.finish().await;
}

/// What a block came to is said by a step job of its own, which goes with what is around it.
#[tokio::test(flavor = "multi_thread")]
async fn the_attempt_of_a_block_that_had_ended_when_its_run_was_canceled_is_on_record() {
    let gate = Gate::default();
    let (fleet, runs) = in_the_middle(&gate).await;
    let ended = "update longshore.frames set state = 3, output = '1', finished_at = now() where whole and state = 1";
    fleet.database.execute(ended).await;
    cancel(&fleet.database.pool, &runs.ids().collect::<Vec<_>>()).await;
    // all but the `finally`, which goes on
    gate.told(INSIDE - 1).await;
    gate.open(1);
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    for (run, (_, block, ..)) in runs.ids().zip(workflows()) {
        assert_eq!(fleet.tries(run, block).await, ["canceled"]);
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
