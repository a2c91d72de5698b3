#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::json;

use super::*;
use crate::graph::FAILURES;

fn at(second: u32) -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000 + i64::from(second), 0).unwrap()
}

fn step(number: i32, state: NodeState) -> StepView {
    StepView {
        node: format!("n{number}"),
        number,
        frame: 0,
        within: None,
        node_type: "task".to_owned(),
        handler: Some("h".to_owned()),
        queue: "q".to_owned(),
        state,
        attempts: 1,
        since: None,
        until: None,
        worker: None,
        duration_ms: None,
        error: None,
    }
}

fn join(node: &str, resolved: i32) -> Join {
    Join {
        node: node.to_owned(),
        frame: 0,
        within: None,
        need: 0,
        in_edges: 0,
        resolved,
        taken: resolved,
        fired: false,
        waits_for: Vec::new(),
        waits_for_total: 0,
    }
}

fn counted(number: i32, node: &str, resolved: i32) -> Counted {
    Counted { number, body: Some(0), iterations: None, join: join(node, resolved) }
}

fn worker(queue: &str, handler: &str) -> WorkerView {
    WorkerView {
        worker_id: Uuid::nil(),
        name: "w".to_owned(),
        host: "host".to_owned(),
        pid: 7,
        version: "1".to_owned(),
        started_at: at(0),
        heartbeat_at: at(0),
        heartbeat_age_seconds: 0.0,
        live: true,
        draining: false,
        queues: vec![queue.to_owned()],
        handlers: vec![handler.to_owned()],
        slots: 1,
        lanes: 0,
        held: 0,
        lease_until: None,
    }
}

fn ready() -> Ready {
    Ready {
        node: "n1".to_owned(),
        frame: 0,
        within: None,
        work: Work::Run,
        attempt: 1,
        queue: "q".to_owned(),
        priority: 1,
        alone: false,
        handler: Some("h".to_owned()),
        since: at(0),
        ahead: MAX_AHEAD,
        workers: 0,
    }
}

fn explanation() -> Explanation {
    Explanation {
        run_id: Uuid::nil(),
        workflow: "order".to_owned(),
        version: 2,
        state: RunState::Running,
        now: at(100),
        created_at: at(0),
        run_at: None,
        finished_at: None,
        error: None,
        paused_at: None,
        paused_because: None,
        cleans_up: false,
        stuck: false,
        lost: Vec::new(),
        ready: Vec::new(),
        ready_total: 0,
        delayed: Vec::new(),
        delayed_total: 0,
        waiting: Vec::new(),
        waiting_total: 0,
        held: Vec::new(),
        held_total: 0,
        joins: Vec::new(),
        joins_total: 0,
        pending: 3,
        problems: Vec::new(),
    }
}

#[test]
fn a_join_names_the_predecessors_that_have_not_ended() {
    use StepState as S;
    let steps = [
        step(0, NodeState::Step(S::Completed)),
        step(1, NodeState::Step(S::Running)),
        step(2, NodeState::Pending),
        step(3, NodeState::Step(S::Completed)), // fired early, counts on
    ];
    let joins = vec![counted(2, "n2", 1), counted(3, "n3", 1), counted(END, "(end)", 1)];
    let in_edges =
        [(0, 2, 0), (0, 2, 1), (0, 2, 1), (0, 3, 0), (0, 3, 1), (0, END, 2), (0, END, 3), (0, END, 3), (1, 2, 7)];
    let waiting = waiting(joins, &in_edges, &[], &steps);
    let named = |place: usize| -> Vec<&str> { waiting[place].waits_for.iter().map(|p| p.node.as_str()).collect() };
    assert_eq!((waiting[0].in_edges, named(0)), (3, vec!["n1"]));
    assert!(!waiting[0].fired && waiting[1].fired);
    assert_eq!(named(1), ["n1"]);
    assert_eq!((waiting[2].in_edges, named(2)), (3, vec!["n2", "n3"]));
}

#[test]
fn a_whole_join_waits_for_nothing() {
    let waiting = waiting(vec![counted(2, "n2", 2)], &[(0, 2, 0), (0, 2, 1)], &[], &[]);
    assert!(waiting.is_empty());
}

#[test]
fn a_block_names_the_iterations_that_go_on() {
    let of_block = |number, node, resolved| {
        let within = Some("each".to_owned());
        Counted { number, body: None, iterations: Some(9), join: Join { frame: 4, within, ..join(node, resolved) } }
    };
    let joins = vec![of_block(END, "(iterations)", 3), of_block(FAILURES, "(failed iterations)", 1)];
    let iterations = [(4, "each[3]".to_owned()), (4, "each[5]".to_owned()), (8, "other[1]".to_owned())];
    let mut waiting = waiting(joins, &[], &iterations, &[]);
    waiting[1].need = 3;
    let said: Vec<String> = waiting.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "3 of 9 iterations of each have ended; waits for each[3] (running), each[5] (running) and 4 more",
            "1 of 9 iterations of each failed, it fails with 3"
        ]
    );
}

#[test]
fn what_no_live_worker_does_is_said_once() {
    let steps = [ready(), ready()];
    let said = |fleet: &[WorkerView]| unserved(&steps, &[], &[], fleet);
    assert_eq!(said(&[worker("q", "h")]), [""; 0]);
    assert_eq!(said(&[worker("q", "x")]), ["no live worker knows handler h"]);
    assert_eq!(said(&[worker("x", "h")]), ["no live worker serves queue q"]);
    assert_eq!(said(&[worker("q", "x"), worker("x", "h")]), ["no live worker that serves queue q knows handler h"]);
    let gone = WorkerView { live: false, ..worker("q", "h") };
    assert_eq!(
        said(&[gone]),
        ["no live worker at all", "no live worker knows handler h", "no live worker serves queue q"]
    );
}

#[test]
fn the_text_says_what_each_thing_waits_for() {
    let mut answer = explanation();
    answer.ready = vec![ready()];
    answer.ready_total = 3;
    answer.delayed = vec![Delayed {
        node: "pay".to_owned(),
        frame: 0,
        within: None,
        work: Work::Run,
        attempt: 2,
        queue: "q".to_owned(),
        handler: Some("h".to_owned()),
        due_at: at(142),
        delay: Delay::Backoff {
            after_attempt: 1,
            failed_at: at(90),
            error: Some(json!({"name": "declined", "message": "no money"})),
        },
    }];
    answer.delayed_total = 1;
    answer.held = vec![Held {
        node: "ship".to_owned(),
        frame: 0,
        within: None,
        work: Work::Run,
        attempt: 1,
        claimed_at: Some(at(10)),
        lane_id: 9,
        lease_until: at(60),
        overdue: true,
        worker: Some("w1".to_owned()),
        host: Some("host".to_owned()),
        pid: Some(4),
        heartbeat_at: Some(at(50)),
        worker_live: false,
    }];
    answer.held_total = 1;
    answer.joins = vec![Join {
        in_edges: 2,
        waits_for: vec![Predecessor { node: "ship".to_owned(), state: NodeState::Step(StepState::Running) }],
        waits_for_total: 1,
        ..join("done", 1)
    }];
    answer.joins_total = 1;
    answer.problems = vec!["no live worker serves queue q".to_owned()];
    assert_eq!(
        answer.to_string(),
        "run 00000000-0000-0000-0000-000000000000 (order version 2): running, started 1m40s ago; \
         1 held, 3 ready, 1 delayed, 3 nodes pending\n\
         \x20 held: ship, attempt 1, for 1m30s by worker w1 (host host, pid 4), lane 9; \
         its lease is overdue by 40s: any live worker will reclaim it\n\
         \x20 ready: n1, attempt 1, in queue q, priority 1, for 1m40s, 1000 or more step jobs ahead of it\n\
         \x20 and 2 more ready\n\
         \x20 delayed: pay, attempt 2, until 2027-01-15T08:02:22Z (in 42s): \
         backoff after attempt 1 failed 10s ago with declined: no money\n\
         \x20 join done has 1 of 2 in-edges resolved, 1 taken; waits for ship (running)\n\
         \x20 problem: no live worker serves queue q"
    );
}

#[test]
fn the_text_says_how_a_run_ended_and_that_one_is_stuck() {
    let failed = Explanation {
        state: RunState::Failed,
        finished_at: Some(at(70)),
        error: Some(
            json!({"name": "declined", "kind": "permanent", "message": "no money", "node": "pay", "attempt": 3}),
        ),
        ..explanation()
    };
    let text = failed.to_string();
    assert!(text.ends_with("failed 30s ago, after 1m10s: node pay, attempt 3: declined: no money"), "{text}");
    let cleans_up = Explanation { cleans_up: true, held_total: 1, ..failed }.to_string();
    assert!(cleans_up.contains("goes on\n  and 1 more held"), "{cleans_up}");
    let stuck = Explanation { stuck: true, lost: vec!["ship".to_owned()], ..explanation() };
    let text = stuck.to_string();
    assert!(text.contains("STUCK: ") && text.ends_with("it broke off before ship"), "{text}");
}

#[test]
fn the_keys_of_the_json_are_the_fields() {
    let answer = Explanation {
        delayed: vec![Delayed {
            node: "n".to_owned(),
            frame: 0,
            within: None,
            work: Work::Wake,
            attempt: 1,
            queue: "q".to_owned(),
            handler: None,
            due_at: at(1),
            delay: Delay::DelayNode,
        }],
        ..explanation()
    };
    let json = serde_json::to_value(&answer).unwrap();
    assert_eq!(json["state"], "running");
    assert_eq!(json["delayed"][0]["reason"], "delay_node");
    assert_eq!(json["delayed"][0]["work"], "wake");
}
