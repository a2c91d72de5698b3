//! The cycle under random interleavings: four lanes driven by hand claim, complete, fail, crash, come back late, send twice; runs are canceled,
//! timers promoted, leases reaped, closings settled, in any order and partly at the same moment. At the end every run is where an independent
//! reading of its graph says, and nothing is left.
//!
//! A walk is named by its seed, printed before it; `LONGSHORE_SEED=n` repeats that walk alone, `LONGSHORE_WALK_SECONDS` changes how long it goes on.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, missing_docs)]

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use futures::future::join_all;
use longshore_core::attempt::{Ending, Plan};
use longshore_core::cycle::{Baton, Pass, Sender};
use longshore_core::error::StepError;
use longshore_core::payload::Payload;
use longshore_core::queue::StepKey;
use longshore_core::run::{self, Canceled};
use longshore_core::session::Session;
use longshore_core::upkeep::Settling;
use longshore_tests::lane::{Answer, assert_nothing_left, copy_baton, expire, reap, send_again};
use longshore_tests::{ManualLane, TestFleet};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

/// A graph as the reference knows it. Edges lead from smaller to larger numbers.
#[derive(Clone, Debug)]
struct Dag {
    name: String,
    /// 0: all, n: the first n taken.
    need: Vec<usize>,
    edges: Vec<Edge>,
}

#[derive(Clone, Debug)]
struct Edge {
    from: usize,
    to: usize,
    on: &'static str,
    /// Taken if the output's `v` is at least this.
    at_least: Option<u8>,
}

/// What a node's handler does in one run: fails so often, then completes with a value or gives up.
#[derive(Clone, Copy, Debug)]
struct Behavior {
    failures: u8,
    value: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Completed(u8),
    GaveUp,
    Skipped,
}

impl Dag {
    fn random(name: String, random: &mut StdRng) -> Self {
        let size = random.random_range(2..=9);
        let mut edges = Vec::new();
        for to in 1..size {
            for from in 0..to {
                if random.random_bool(0.35) {
                    let on =
                        ["success", "success", "success", "success", "always", "failure"][random.random_range(0..6)];
                    let at_least = (on == "success" && random.random_bool(0.3)).then(|| random.random_range(1..9));
                    edges.push(Edge { from, to, on, at_least });
                }
            }
        }
        let indegree = |node| edges.iter().filter(|edge: &&Edge| edge.to == node).count();
        let need = (0..size)
            .map(|node| match indegree(node) {
                n if n >= 2 && random.random_bool(0.6) => random.random_range(1..=n),
                _ => 0,
            })
            .collect();
        Self { name, need, edges }
    }

    fn definition(&self) -> Value {
        let retry = json!({"max_attempts": 5, "initial": "1ms", "jitter": 0});
        let node = |(number, need): (usize, &usize)| {
            let join = if *need == 0 { json!("all") } else { json!(need) };
            json!({"id": format!("n{number}"), "type": "task", "handler": "h", "retry": retry, "join": join})
        };
        let edge = |edge: &Edge| {
            let mut value = json!({"from": format!("n{}", edge.from), "to": format!("n{}", edge.to), "on": edge.on});
            if let Some(v) = edge.at_least {
                value["when"] = json!(format!("nodes.n{}.output.v >= {v}", edge.from));
            }
            value
        };
        let nodes: Vec<Value> = self.need.iter().enumerate().map(node).collect();
        json!({"name": self.name, "nodes": nodes, "edges": self.edges.iter().map(edge).collect::<Vec<_>>()})
    }

    fn takes(edge: &Edge, end: End) -> bool {
        match (end, edge.on) {
            (End::Completed(v), "success") => edge.at_least.is_none_or(|least| v >= least),
            (End::Completed(_), "always") | (End::GaveUp, "always" | "failure") => true,
            _ => false,
        }
    }

    /// How each node ends if the run is left alone, and whether the run fails.
    fn play(&self, behavior: &[Behavior]) -> (Vec<End>, bool) {
        let mut ends: Vec<End> = Vec::new();
        for (node, behavior) in behavior.iter().enumerate() {
            let (mut into, mut taken) = (0, 0);
            for edge in self.edges.iter().filter(|edge| edge.to == node) {
                into += 1;
                taken += usize::from(Self::takes(edge, ends[edge.from]));
            }
            let runs = into == 0 || taken >= self.need[node].max(1);
            ends.push(match (runs, behavior.value) {
                (false, _) => End::Skipped,
                (true, Some(v)) => End::Completed(v),
                (true, None) => End::GaveUp,
            });
        }
        let caught = |node: usize| self.edges.iter().any(|edge| edge.from == node && Self::takes(edge, End::GaveUp));
        let fails = ends.iter().enumerate().any(|(node, end)| *end == End::GaveUp && !caught(node));
        (ends, fails)
    }

    fn sinks(&self) -> Vec<usize> {
        (0..self.need.len()).filter(|node| self.edges.iter().all(|edge| edge.from != *node)).collect()
    }
}

struct Started {
    dag: Dag,
    behavior: Vec<Behavior>,
    /// The database's clock after a cancel was acknowledged.
    canceled_at: Option<f64>,
}

type Endings = Vec<(StepKey, Ending)>;

/// Node, attempt, outcome, value, when it was claimed.
type Attempt = (i32, i32, i16, Option<i32>, Option<f64>);

/// A lane that crashed, and the cycle it was about to send.
struct Ghost {
    sender: Sender,
    baton: Baton,
    plan: Plan,
}

struct Walk<'a> {
    fleet: &'a TestFleet,
    random: StdRng,
    lanes: Vec<ManualLane>,
    ghosts: Vec<Ghost>,
    runs: HashMap<Uuid, Started>,
    settling: Settling,
}

/// The engine's own steps end as the engine says, tasks as their run's behavior says.
fn ending(lane: &ManualLane, key: StepKey, runs: &HashMap<Uuid, Started>) -> Ending {
    let ending = lane.natural(key, &Payload::null());
    let (Ending::Completed(_), Ok(node)) = (&ending, usize::try_from(key.node)) else { return ending };
    let behavior = runs[&key.run_id].behavior[node];
    let held = lane.held.iter().find(|held| held.step.key() == key).unwrap();
    if held.step.failed < i16::from(behavior.failures) {
        return Ending::Failed { error: StepError::retryable("later", "not yet"), retry_after: None };
    }
    match behavior.value {
        Some(v) => Ending::Completed(Payload::of(&json!({"v": v, "n": node})).unwrap()),
        None => Ending::Failed { error: StepError::permanent("never", "it cannot be"), retry_after: None },
    }
}

impl Walk<'_> {
    fn some_endings(&mut self, lane: usize) -> Endings {
        let lane = &self.lanes[lane];
        let mut endings = Vec::new();
        for key in lane.keys() {
            match self.random.random_range(0..20) {
                0..10 => endings.push((key, ending(lane, key, &self.runs))),
                10 => endings.push((key, Ending::Released)),
                _ => {}
            }
        }
        // a closed run's steps are not given back
        for (key, ending) in &mut endings {
            if lane.closed.contains_key(&key.run_id) {
                *ending = Ending::Canceled;
            }
        }
        endings
    }

    /// Some lanes pass their batons at the same moment, each with what it likes to end and to claim.
    async fn pass(&mut self, which: &[usize]) {
        let mut todo: Vec<Option<(Endings, usize)>> = self.lanes.iter().map(|_| None).collect();
        for lane in which {
            let endings = self.some_endings(*lane);
            let most = if self.lanes[*lane].solo { usize::from(self.lanes[*lane].held.is_empty()) } else { 4 };
            let claim = if self.random.random_bool(0.5) { self.random.random_range(0..=most) } else { 0 };
            todo[*lane] = Some((endings, claim));
        }
        let twice = which.len() == 1 && self.random.random_bool(0.2);
        let again = which[0];
        let copy = twice.then(|| {
            let (endings, claim) = todo[again].clone().unwrap();
            let lane = &mut self.lanes[again];
            (copy_baton(lane.baton.as_ref().unwrap()), lane.plan(&endings, claim))
        });
        let cycles = self.lanes.iter_mut().zip(todo).filter_map(|(lane, todo)| {
            let (endings, claim) = todo?;
            Some(lane.cycle(endings, claim))
        });
        for answer in join_all(cycles).await {
            assert!(
                matches!(answer, Answer::Passed(_) | Answer::Refused(_)),
                "no lane of the living loses its baton: {answer:?}"
            );
            if let (Answer::Passed(_), Some((baton, plan))) = (&answer, &copy)
                && baton.stands
            {
                // it arrives a second time: nothing happens
                let second = send_again(&self.lanes[again].sender, baton, &plan.batch).await;
                let holds = !self.lanes[again].held.is_empty();
                let right = match second {
                    Pass::Recovered(_, listed) => holds && listed.len() == self.lanes[again].held.len(),
                    Pass::Fenced => !holds,
                    _ => false,
                };
                assert!(right, "a repeated cycle is recognized");
            }
        }
    }

    /// A lane's process dies. What it was about to send may still arrive.
    async fn crash(&mut self, lane: usize) {
        if self.lanes[lane].held.is_empty() || self.lanes[lane].held.iter().any(|held| held.step.lost >= 3) {
            return;
        }
        let endings = self.some_endings(lane);
        let lane = &mut self.lanes[lane];
        let plan = lane.plan(&endings, 0);
        let baton = copy_baton(lane.baton.as_ref().unwrap());
        lane.expire().await;
        self.ghosts.push(Ghost { sender: lane.sender.clone(), baton, plan });
        lane.forget();
    }

    /// What a crashed lane had sent arrives late: it counts if nobody took its steps back, and then only once.
    async fn haunt(&mut self) {
        if self.ghosts.is_empty() {
            return;
        }
        let ghost = self.ghosts.swap_remove(self.random.random_range(0..self.ghosts.len()));
        let sql = "select count(*) from longshore.lanes where lane_id = $1 and cycle = $2";
        let stands: i64 = sqlx::query_scalar(sql)
            .bind(ghost.baton.lane_id)
            .bind(ghost.baton.cycle)
            .fetch_one(&self.fleet.database.pool)
            .await
            .unwrap();
        match send_again(&ghost.sender, &ghost.baton, &ghost.plan.batch).await {
            Pass::Passed(baton, _) => {
                assert_eq!(stands, 1);
                expire(&self.fleet.database.pool, baton.lane_id).await;
                let again = send_again(&ghost.sender, &ghost.baton, &ghost.plan.batch).await;
                assert!(matches!(again, Pass::Fenced | Pass::Recovered(..)), "{again:?}");
            }
            Pass::Refused(..) => assert_eq!(stands, 1),
            Pass::Fenced => assert_eq!(stands, 0, "only a lane whose baton is gone is fenced"),
            other => panic!("a late cycle: {other:?}"),
        }
    }

    async fn cancel(&mut self) {
        let mut ids: Vec<Uuid> = self.runs.keys().copied().collect();
        ids.sort();
        let id = ids[self.random.random_range(0..ids.len())];
        let pool = &self.fleet.database.pool;
        if run::cancel(pool, id, "by chance").await.unwrap() == Canceled::Canceled {
            let clock = "select extract(epoch from clock_timestamp())::float8";
            let at: f64 = sqlx::query_scalar(clock).fetch_one(pool).await.unwrap();
            self.runs.get_mut(&id).unwrap().canceled_at = Some(at);
        }
    }

    async fn promote(&self) {
        self.fleet.database.execute("update longshore.step_delayed set due_at = now() - interval '1 s'").await;
        self.fleet.database.number("select promoted::bigint from longshore.promote(0::smallint, 50)").await;
    }

    async fn settle(&mut self) {
        let mut connection = self.fleet.database.pool.acquire().await.unwrap();
        self.settling.step(&mut Session::direct(&mut connection)).await.unwrap();
    }

    async fn step(&mut self) {
        let lane = self.random.random_range(0..self.lanes.len());
        match self.random.random_range(0..100) {
            0..45 => self.pass(&[lane]).await,
            45..70 => {
                let which: Vec<usize> = (0..self.lanes.len()).filter(|_| self.random.random_bool(0.7)).collect();
                if !which.is_empty() {
                    self.pass(&which).await;
                }
            }
            70..76 => self.crash(lane).await,
            76..82 => self.haunt().await,
            82..87 => drop(reap(&self.fleet.database.pool).await),
            87..93 => self.promote().await,
            93..99 => self.settle().await,
            _ => self.cancel().await,
        }
    }

    /// Everything that is left comes to its end.
    async fn finish(&mut self) {
        self.ghosts.clear();
        for _ in 0..3000 {
            while reap(&self.fleet.database.pool).await.is_some() {}
            self.promote().await;
            for lane in &mut self.lanes {
                let free = if lane.solo { usize::from(lane.held.is_empty()) } else { 20 };
                let endings = lane.keys().into_iter().map(|key| (key, ending(lane, key, &self.runs))).collect();
                let answer = lane.cycle(endings, free).await;
                assert!(matches!(answer, Answer::Passed(_) | Answer::Refused(_)), "{answer:?}");
            }
            self.settle().await;
            let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.step_ready)
                + (select count(*) from longshore.step_delayed) + (select count(*) from longshore.closed)";
            if self.fleet.database.number(left).await == 0 {
                return;
            }
        }
        let live = "select run_id from longshore.workflow_runs where state in (1, 2) limit 1";
        let stuck: Option<Uuid> = sqlx::query_scalar(live).fetch_optional(&self.fleet.database.pool).await.unwrap();
        match stuck {
            Some(run) => panic!("run {run} is stuck: {}", self.fleet.state(run).await),
            None => panic!("something is left for ever"),
        }
    }

    async fn check(&self) {
        let joins = "select run_id, node, resolved, taken from longshore.step_joins";
        let joins: Vec<(Uuid, i32, i32, i32)> =
            sqlx::query_as(joins).fetch_all(&self.fleet.database.pool).await.unwrap();
        if let Some((id, ..)) = joins.first() {
            let started = &self.runs[id];
            panic!("left: {joins:?} of {:?} {:?}: {}", started.dag, started.behavior, self.fleet.state(*id).await);
        }
        assert_nothing_left(&self.fleet.database).await;
        for (id, started) in &self.runs {
            self.check_run(*id, started).await;
        }
    }

    async fn check_run(&self, id: Uuid, started: &Started) {
        let pool = &self.fleet.database.pool;
        let sql = "select node, attempt, outcome, (output ->> 'v')::int, extract(epoch from claimed_at)::float8
            from longshore.execution_step_attempts where run_id = $1 order by node, attempt";
        let rows: Vec<Attempt> = sqlx::query_as(sql).bind(id).fetch_all(pool).await.unwrap();
        let sql = "select state, output from longshore.workflow_runs where run_id = $1";
        let (state, output): (i16, Option<Value>) = sqlx::query_as(sql).bind(id).fetch_one(pool).await.unwrap();
        let (ends, fails) = started.dag.play(&started.behavior);
        let about = format!(
            "run {id}, state {state}, {:?}, {:?}, expected {ends:?}, found {rows:?}",
            started.dag, started.behavior
        );
        let expected = match (started.canceled_at, fails) {
            (Some(_), _) => 5,
            (None, true) => 4,
            (None, false) => 3,
        };
        assert_eq!(state, expected, "{about}");

        let mut of_node: BTreeMap<i32, Vec<(i32, i16, Option<i32>)>> = BTreeMap::new();
        for (node, attempt, outcome, v, claimed_at) in &rows {
            of_node.entry(*node).or_default().push((*attempt, *outcome, *v));
            if let (Some(acknowledged), Some(claimed), 1 | 2) = (started.canceled_at, claimed_at, outcome) {
                assert!(claimed <= &acknowledged, "node {node} began after the cancel was acknowledged: {about}");
            }
        }
        for (node, tries) in &of_node {
            let count = |wanted: i16| tries.iter().filter(|(_, outcome, _)| *outcome == wanted).count();
            let numbers: Vec<i32> = tries.iter().map(|(attempt, ..)| *attempt).collect();
            let first = i32::from(count(5) == 0);
            assert_eq!(
                numbers,
                (first..first + i32::try_from(tries.len()).unwrap()).collect::<Vec<_>>(),
                "gapless: {about}"
            );
            assert!(count(1) <= 1, "node {node} was accepted twice: {about}");
            let Ok(at) = usize::try_from(*node) else { continue };
            let failures = usize::from(started.behavior[at].failures);
            match ends[at] {
                End::Completed(v) => {
                    assert!(count(5) == 0 && count(2) <= failures, "{about}");
                    let given: Vec<_> =
                        tries.iter().filter(|(_, outcome, _)| *outcome == 1).map(|(.., v)| *v).collect();
                    assert!(given.iter().all(|given| *given == Some(i32::from(v))), "{about}");
                }
                End::GaveUp => assert!(count(1) == 0 && count(5) == 0 && count(2) <= failures + 1, "{about}"),
                End::Skipped => assert!(count(5) == 1 && tries.len() == 1, "{about}"),
            }
        }
        if state != 3 {
            return;
        }
        for (node, end) in ends.iter().enumerate() {
            let tries = of_node.get(&i32::try_from(node).unwrap()).cloned().unwrap_or_default();
            let count = |wanted: i16| tries.iter().filter(|(_, outcome, _)| *outcome == wanted).count();
            let failures = usize::from(started.behavior[node].failures);
            let expected = match end {
                End::Completed(_) => (1, failures, 0),
                End::GaveUp => (0, failures + 1, 0),
                End::Skipped => (0, 0, 1),
            };
            assert_eq!((count(1), count(2), count(5)), expected, "node {node}: {about}");
            assert_eq!(count(4), 0, "nothing of a completed run was canceled: {about}");
        }
        let sinks = started.dag.sinks();
        let given = |node: &usize| match ends[*node] {
            End::Completed(v) => Some(json!({"v": v, "n": node})),
            _ => None,
        };
        match sinks.as_slice() {
            [only] => {
                if let Some(given) = given(only) {
                    assert_eq!(output, Some(given), "{about}");
                }
            }
            several => {
                let all: serde_json::Map<String, Value> =
                    several.iter().filter_map(|node| Some((format!("n{node}"), given(node)?))).collect();
                assert_eq!(output, Some(Value::Object(all)), "{about}");
            }
        }
    }
}

async fn walk(fleet: &TestFleet, seed: u64) -> usize {
    let mut random = StdRng::seed_from_u64(seed);
    let mut runs = HashMap::new();
    for graph in 0..3 {
        let dag = Dag::random(format!("w{seed}-{graph}"), &mut random);
        let definition =
            longshore_core::definition::Definition::from_json(&dag.definition()).unwrap_or_else(|e| panic!("{e}"));
        let mut connection = fleet.database.pool.acquire().await.unwrap();
        longshore_core::workflow::publish(&mut connection, &definition).await.unwrap();
        for _ in 0..4 {
            let behavior = |_| Behavior {
                failures: [0, 0, 0, 1, 2][random.random_range(0..5)],
                value: random.random_bool(0.9).then(|| random.random_range(0..10)),
            };
            let behavior = (0..dag.need.len()).map(behavior).collect();
            let id = fleet.start(&dag.name, json!({})).await;
            runs.insert(id, Started { dag: dag.clone(), behavior, canceled_at: None });
        }
    }
    let pool = &fleet.database.pool;
    let lanes =
        vec![ManualLane::new(pool), ManualLane::new(pool), ManualLane::without_keeping(pool), ManualLane::alone(pool)];
    let count = runs.len();
    let mut walk = Walk { fleet, random, lanes, ghosts: Vec::new(), runs, settling: Settling::default() };
    for _ in 0..150 {
        walk.step().await;
    }
    walk.finish().await;
    walk.check().await;
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn every_run_ends_as_its_graph_says_whatever_the_lanes_do() {
    let fleet = TestFleet::publish([]).await;
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    if let Some(seed) = number("LONGSHORE_SEED") {
        walk(&fleet, seed).await;
    } else {
        let first: u64 = rand::random_range(0..1 << 40);
        let time = Duration::from_secs(number("LONGSHORE_WALK_SECONDS").unwrap_or(20));
        let (began, mut walks, mut runs) = (Instant::now(), 0, 0);
        while began.elapsed() < time {
            eprintln!("walk: LONGSHORE_SEED={}", first + walks);
            runs += walk(&fleet, first + walks).await;
            walks += 1;
        }
        eprintln!("{walks} walks, {runs} runs");
        assert!(runs >= 12);
    }
    fleet.database.drop().await;
}

#[test]
fn the_reference_reads_a_graph() {
    // n0 gives up, n1 catches it and joins n2 with n3 (which is not taken) at n4, any
    let edge = |from, to, on, at_least| Edge { from, to, on, at_least };
    let edges = vec![
        edge(0, 1, "failure", None),
        edge(1, 2, "success", Some(5)),
        edge(1, 3, "success", Some(6)),
        edge(2, 4, "always", None),
        edge(3, 4, "always", None),
    ];
    let dag = Dag { name: "w".to_owned(), need: vec![0, 0, 0, 0, 1], edges };
    let gives = |value| Behavior { failures: 0, value };
    let (ends, fails) = dag.play(&[gives(None), gives(Some(5)), gives(Some(1)), gives(Some(1)), gives(Some(9))]);
    assert_eq!(ends, [End::GaveUp, End::Completed(5), End::Completed(1), End::Skipped, End::Completed(9)]);
    assert!(!fails);
    let (ends, fails) = dag.play(&[gives(None), gives(Some(1)), gives(Some(1)), gives(Some(1)), gives(Some(9))]);
    assert_eq!(ends[2..], [End::Skipped; 3]);
    assert!(!fails);
    let (_, fails) = dag.play(&[gives(Some(1)), gives(Some(1)), gives(None), gives(Some(1)), gives(None)]);
    assert!(!fails, "what a skipped node would do does not matter");
    let (_, fails) = dag.play(&[gives(None), gives(None), gives(None), gives(None), gives(None)]);
    assert!(fails, "n1 gives up and nothing catches it");
}
