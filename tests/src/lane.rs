//! A lane driven by hand: it claims, ends and crashes exactly when a test says so, through the same `Plan`, `Batch` and `pass` as a worker's lane.
//! What it holds is open to the test; nothing happens by itself, and nothing is retried but what `pass` retries.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use longshore_core::attempt::{Ended, Ending, Plan, Room, places, poisoned};
use longshore_core::cycle::{self, Batch, Baton, Closing, HeldRow, Line, Pass, Passed, Sender};
use longshore_core::graph::{END, NodeResult, RunFacts, START, Values};
use longshore_core::payload::Payload;
use longshore_core::queue::{Claim, Claimed, HeldStep, MAX_LOST_ALONE, PRIORITIES, SOLO, Source, StepKey, StepKind};
use longshore_core::results::{self, StepRef};
use longshore_core::session::{Access, Route, Session};
use longshore_core::upkeep::{self, Reaped, Settling};
use longshore_core::workflow::{self, LoadedVersion};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::TestDatabase;

/// A step in a lane's hand.
#[derive(Debug)]
pub struct Held {
    /// The step.
    pub step: HeldStep,
    /// Its run's version.
    pub version: Arc<LoadedVersion>,
    /// What its end is decided from.
    pub values: Values,
    /// Its run had not ended when it came.
    pub live: bool,
}

impl Held {
    /// The node's id; `start` and `end` for the engine's own.
    pub fn node(&self) -> &str {
        self.version.graph.id(self.step.node)
    }
}

/// What a cycle came to.
#[derive(Debug)]
pub enum Answer {
    /// Committed. What came with it is in the lane's hand, no longer in `new`.
    Passed(Passed),
    /// Committed, though the answer got lost.
    Recovered,
    /// Nothing happened: these closings were not known. The lane knows them now.
    Refused(Vec<Closing>),
    /// The lane's steps are another's. It holds nothing any more.
    Fenced,
    /// Nothing happened: Postgres refuses the content.
    Data(sqlx::Error),
    /// No clear answer: the lane dropped everything.
    Unclear,
}

impl Answer {
    /// The cycle was committed and answered.
    pub fn passed(self) -> Passed {
        match self {
            Self::Passed(passed) => passed,
            other => panic!("the cycle should have passed: {other:?}"),
        }
    }
}

/// See the module.
pub struct ManualLane {
    /// Where and for whom it sends.
    pub sender: Sender,
    /// Its place; `None` only while a cycle is under way.
    pub baton: Option<Baton>,
    /// What it holds.
    pub held: Vec<Held>,
    /// It keeps successors as a busy lane does; else they all go to the queue.
    pub keep: bool,
    /// A lane for one step that must be alone.
    pub solo: bool,
    /// It holds at most this many.
    pub most: usize,
    /// Closings it has heeded.
    pub closed: HashMap<Uuid, Vec<i64>>,
    versions: HashMap<i32, Arc<LoadedVersion>>,
}

impl ManualLane {
    /// A lane that sends over this pool and holds nothing. Its worker has no row, which no lane needs.
    pub fn new(pool: &PgPool) -> Self {
        let sender = Sender {
            access: Access::new(pool.clone(), Route::Direct),
            worker_id: Uuid::new_v4(),
            lease: Duration::from_secs(3600),
        };
        Self {
            sender,
            baton: Some(Baton::new(new_lane_id())),
            held: Vec::new(),
            keep: true,
            solo: false,
            most: 200,
            closed: HashMap::new(),
            versions: HashMap::new(),
        }
    }

    /// The same, putting every successor to the queue.
    pub fn without_keeping(pool: &PgPool) -> Self {
        Self { keep: false, ..Self::new(pool) }
    }

    /// A lane for one step that was lost before and must be alone.
    pub fn alone(pool: &PgPool) -> Self {
        Self { solo: true, ..Self::new(pool) }
    }

    /// Its name.
    pub fn id(&self) -> i64 {
        self.baton.as_ref().expect("no cycle is under way").lane_id
    }

    /// The keys of all it holds.
    pub fn keys(&self) -> Vec<StepKey> {
        self.held.iter().map(|held| held.step.key()).collect()
    }

    /// The keys of what it holds of a node.
    pub fn of_node(&self, id: &str) -> Vec<StepKey> {
        self.held.iter().filter(|held| held.node() == id).map(|held| held.step.key()).collect()
    }

    /// The ids of the nodes it holds, sorted.
    pub fn nodes(&self) -> Vec<String> {
        let mut nodes: Vec<String> = self.held.iter().map(|held| held.node().to_owned()).collect();
        nodes.sort();
        nodes
    }

    /// Claim up to `limit` of any queue and priority. Returns the keys of what it holds anew.
    pub async fn claim(&mut self, limit: usize) -> Vec<StepKey> {
        let before = self.keys();
        self.cycle(Vec::new(), limit).await.passed();
        self.keys().into_iter().filter(|key| !before.contains(key)).collect()
    }

    /// Claim one step and check that it is of this node.
    pub async fn claim_node(&mut self, id: &str) -> StepKey {
        let new = self.claim(1).await;
        assert_eq!(new.len(), 1, "a step of {id} should have been ready");
        let held = self.held.iter().find(|held| held.step.key() == new[0]).expect("it was claimed");
        assert_eq!(held.node(), id);
        new[0]
    }

    /// End these steps with this output; a refusal is heeded and sent again, as a lane does. Panics unless it was committed and answered.
    pub async fn complete(&mut self, keys: &[StepKey], output: Value) -> Passed {
        let output = Payload::of(&output).expect("an output");
        let mut endings: Vec<_> = keys.iter().map(|key| (*key, Ending::Completed(output.clone()))).collect();
        loop {
            match self.cycle(endings, 0).await {
                Answer::Refused(_) => endings = keys.iter().map(|key| (*key, self.natural(*key, &output))).collect(),
                answer => return answer.passed(),
            }
        }
    }

    /// What a worker would make of a held step whose handler returned this.
    pub fn natural(&self, key: StepKey, output: &Payload) -> Ending {
        let held = self.held.iter().find(|held| held.step.key() == key).expect("held");
        if !held.live || self.closed.contains_key(&key.run_id) {
            return Ending::Canceled;
        }
        let graph = &held.version.graph;
        match (key.kind, key.node) {
            (StepKind::Skip | StepKind::Rest, _) => Ending::Told,
            (StepKind::Advance, node) => match held.values.results.get(&node) {
                Some(NodeResult::Completed(output)) => Ending::Advanced(output.clone()),
                other => panic!("the recorded output of {key:?} is {other:?}"),
            },
            (_, START) => Ending::Started,
            (_, END) => Ending::BodyCompleted(graph.body_output(0, &held.values).expect("an output of the run")),
            _ if held.step.lost >= MAX_LOST_ALONE => {
                Ending::Failed { error: poisoned(held.step.lost), retry_after: None }
            }
            _ => Ending::Completed(output.clone()),
        }
    }

    /// End all that it holds and all that comes of it, until it holds nothing; tasks return `output`. For runs nobody disturbs.
    pub async fn finish_all(&mut self, output: Value) {
        let output = Payload::of(&output).expect("an output");
        while !self.held.is_empty() {
            let endings = self.keys().into_iter().map(|key| (key, self.natural(key, &output))).collect();
            match self.cycle(endings, 0).await {
                Answer::Passed(_) | Answer::Refused(_) => {}
                other => panic!("the cycle should have passed: {other:?}"),
            }
        }
    }

    /// Claim and end whatever there is until nothing is ready.
    pub async fn drain(&mut self, output: Value) {
        loop {
            let new = self.claim(self.most - self.held.len().min(self.most)).await;
            if new.is_empty() && self.held.is_empty() {
                return;
            }
            self.finish_all(output.clone()).await;
        }
    }

    /// The batch for these endings and a claim of `limit`, as a lane would send it.
    pub fn plan(&mut self, endings: &[(StepKey, Ending)], limit: usize) -> Plan {
        let queues: Vec<i32> = (1..=8).collect();
        let room = Room {
            slots: queues.iter().map(|queue| (*queue, 1000)).collect(),
            total: places(self.held.len()).min(i32::try_from(self.most.saturating_sub(self.held.len())).unwrap_or(0)),
            keep: self.keep && !self.solo,
        };
        let ends = |held: &Held| endings.iter().find(|(key, _)| *key == held.step.key());
        let mut plan = Plan::new(room);
        let ended: Vec<Ended<'_>> = endings
            .iter()
            .map(|(key, ending)| {
                let held = self.held.iter().find(|held| held.step.key() == *key).expect("only what is held ends");
                Ended {
                    step: &held.step,
                    version: &held.version,
                    values: &held.values,
                    ending,
                    duration: Some(Duration::from_millis(1)),
                    since_first: None,
                    failures: &[],
                    changes: &[],
                    random: 0.5,
                    run_ended: false,
                    slot: true,
                    may_keep: !held.step.solo,
                }
            })
            .collect();
        plan.end_all(&ended);
        plan.batch.held = self.held.iter().filter(|held| ends(held).is_none()).map(|held| row(&held.step)).collect();
        plan.batch.known_closings =
            plan.batch.ended_runs.iter().filter_map(|run| self.closed.get(run)).flatten().copied().collect();
        let solo = if self.solo { SOLO } else { 0 };
        let most = i32::try_from(limit).unwrap_or(0);
        let sources = PRIORITIES
            .flat_map(|priority| queues.iter().map(move |queue| (*queue, priority + solo)))
            .map(|(queue_id, priority)| Source { queue_id, priority, low: 0, limit: most })
            .collect();
        plan.batch.claim = if limit > 0 { Claim { sources, limit: most } } else { Claim::default() };
        plan
    }

    /// One cycle: end these, claim up to `limit`. Whatever the answer, the lane is as a worker's lane would be then.
    pub async fn cycle(&mut self, endings: Vec<(StepKey, Ending)>, limit: usize) -> Answer {
        let plan = self.plan(&endings, limit);
        let (mut answer, plan) = self.send(plan).await;
        if let (Some(plan), Answer::Passed(passed)) = (plan, &mut answer) {
            let keys: Vec<StepKey> = endings.iter().map(|(key, _)| *key).collect();
            self.take_on(plan, &keys, passed).await;
        }
        answer
    }

    async fn send(&mut self, plan: Plan) -> (Answer, Option<Plan>) {
        let baton = self.baton.take().expect("no cycle is under way");
        match cycle::pass(&self.sender, &mut Line::shared(), baton, &plan.batch, std::future::pending()).await {
            Pass::Passed(baton, passed) => {
                self.baton = Some(baton);
                (Answer::Passed(passed), Some(plan))
            }
            Pass::Recovered(baton, listed) => {
                self.baton = Some(baton);
                self.recovered(listed).await;
                (Answer::Recovered, None)
            }
            Pass::Refused(baton, closings) => {
                self.baton = Some(baton);
                self.heed(&closings);
                (Answer::Refused(closings), None)
            }
            Pass::Fenced => {
                self.forget();
                (Answer::Fenced, None)
            }
            Pass::Data(baton, error) => {
                self.baton = Some(baton);
                (Answer::Data(error), None)
            }
            Pass::Unclear(_) => {
                self.forget();
                (Answer::Unclear, None)
            }
        }
    }

    async fn take_on(&mut self, plan: Plan, ended: &[StepKey], passed: &mut Passed) {
        self.held.retain(|held| !ended.contains(&held.step.key()));
        let closed: Vec<Uuid> = passed.closings.iter().map(|closing| closing.run_id).collect();
        for mut step in plan.batch.kept {
            (step.enqueued_at, step.claimed_at) = (Some(passed.at), Some(passed.at));
            // a run that was closed while the cycle was under way: what the lane kept of it does not start
            let live = !closed.contains(&step.run_id);
            self.admit(step, live, None).await;
        }
        for closing in &passed.closings {
            if self.held.iter().any(|held| held.step.run_id == closing.run_id) {
                self.heed(&[*closing]);
            }
        }
        for (claimed, _) in std::mem::take(&mut passed.new) {
            let live = claimed.run_state.is_some_and(|state| !state.has_ended());
            self.admit(claimed.step, live, claimed.input).await;
        }
    }

    /// What the baton lists after a lost answer is all there is.
    async fn recovered(&mut self, listed: Vec<Claimed>) {
        self.held.clear();
        for claimed in listed {
            let live = claimed.run_state.is_some_and(|state| !state.has_ended());
            self.admit(claimed.step, live, claimed.input).await;
        }
    }

    async fn admit(&mut self, step: HeldStep, live: bool, input: Option<Payload>) {
        let mut connection = self.sender.access.pool().acquire().await.expect("a connection");
        let version = match self.versions.get(&step.version_id) {
            Some(version) => version.clone(),
            None => {
                let version = workflow::load(&mut *connection, step.version_id).await.expect("a version");
                let version = Arc::new(version.expect("the version is there"));
                self.versions.insert(step.version_id, version.clone());
                version
            }
        };
        let facts = RunFacts {
            run_id: step.run_id,
            workflow: version.workflow.clone(),
            version: version.version,
            key: None,
            parent: None,
            input: input.unwrap_or_else(Payload::null),
            mocks: None,
        };
        let mut values = Values::new(Arc::new(facts));
        let graph = &version.graph;
        let mut nodes = match graph.node(step.node) {
            Some(node) => node.needs().nodes.clone(),
            None if step.node == END => graph.bodies()[0].end_needs().nodes.clone(),
            None => Vec::new(),
        };
        if step.kind == StepKind::Advance {
            nodes.push(step.node);
        }
        let wanted: Vec<StepRef> =
            nodes.into_iter().map(|node| StepRef { run_id: step.run_id, frame: step.frame, node }).collect();
        for (of, result) in results::of_steps(&mut *connection, &wanted).await.expect("results") {
            values.results.insert(of.node, result);
        }
        self.held.push(Held { step, version, values, live });
    }

    /// Note closings: what ends of these runs is canceled.
    pub fn heed(&mut self, closings: &[Closing]) {
        for closing in closings {
            let known = self.closed.entry(closing.run_id).or_default();
            if !known.contains(&closing.close_id) {
                known.push(closing.close_id);
            }
        }
    }

    /// Drop everything and begin again under a new name. The database still believes that the old lane holds what it held.
    pub fn forget(&mut self) {
        self.held.clear();
        self.closed.clear();
        self.baton = Some(Baton::new(new_lane_id()));
    }

    /// Let the lease run out at once, by moving the baton's time.
    pub async fn expire(&self) {
        expire(self.sender.access.pool(), self.id()).await;
    }
}

/// A second right to end the same attempt, which only a test may make: for what the engine must refuse.
pub fn copy(step: &HeldStep) -> HeldStep {
    HeldStep { enqueued_at: step.enqueued_at, claimed_at: step.claimed_at, ..longshore_core::attempt::again(step) }
}

/// A copy of a baton: for a cycle that is sent again though it happened, or by a lane that lost it.
pub fn copy_baton(baton: &Baton) -> Baton {
    Baton { lane_id: baton.lane_id, cycle: baton.cycle, stands: baton.stands, registered: baton.registered }
}

/// Send a batch on a copy of a baton, as a stale or repeated message.
pub async fn send_again(sender: &Sender, baton: &Baton, batch: &Batch) -> Pass {
    cycle::pass(sender, &mut Line::shared(), copy_baton(baton), batch, std::future::pending()).await
}

/// What the baton says of a step.
pub fn row(step: &HeldStep) -> HeldRow {
    HeldRow {
        run_id: step.run_id,
        frame: step.frame,
        node: step.node,
        kind: step.kind,
        attempt: step.attempt,
        claimed_at: step.claimed_at.expect("a held step was claimed"),
    }
}

/// Let the lease of a lane run out at once.
pub async fn expire(pool: &PgPool, lane_id: i64) {
    sqlx::query("update longshore.lanes set expires_at = now() - interval '1 s' where lane_id = $1")
        .bind(lane_id)
        .execute(pool)
        .await
        .expect("lanes");
}

/// Take back one dead lane's steps, as any worker does.
pub async fn reap(pool: &PgPool) -> Option<Reaped> {
    upkeep::reap(pool, false).await.expect("reap")
}

/// Await that so many sessions of this database wait for a lock: then each stands in the middle of its statement.
pub async fn until_blocked(pool: &PgPool, sessions: i64) {
    let sql = "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
    let until = std::time::Instant::now() + Duration::from_secs(30);
    while sqlx::query_scalar::<_, i64>(sql).fetch_one(pool).await.expect("pg_stat_activity") < sessions {
        assert!(std::time::Instant::now() < until, "{sessions} sessions never waited for a lock");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A workflow of tasks in two words: nodes as `a b j:any k:2` (an id and, for a join that is not `all`, its rule), edges as `a>j b>j`; `a!j` is an
/// edge on failure, `a*j` one on either ending. Nothing is retried.
pub fn dag(name: &str, nodes: &str, edges: &str) -> Value {
    let node = |word: &str| {
        let (id, join) = word.split_once(':').unwrap_or((word, "all"));
        let join = join.parse::<u32>().map_or_else(|_| json!(join), |n| json!(n));
        json!({"id": id, "type": "task", "handler": "echo", "join": join, "retry": {"max_attempts": 1}})
    };
    let edge = |word: &str| {
        let at = word.find(['>', '!', '*']).expect("an edge has >, ! or * between its nodes");
        let on = match word.as_bytes()[at] {
            b'>' => "success",
            b'!' => "failure",
            _ => "always",
        };
        json!({"from": &word[..at], "to": &word[at + 1..], "on": on})
    };
    let nodes: Vec<Value> = nodes.split_whitespace().map(node).collect();
    let edges: Vec<Value> = edges.split_whitespace().map(edge).collect();
    json!({"name": name, "nodes": nodes, "edges": edges})
}

/// Check that nothing is left of any run in the tables that a run passes through.
pub async fn assert_nothing_left(database: &TestDatabase) {
    for table in ["step_ready", "step_delayed", "step_waiting", "step_joins", "lanes", "closed"] {
        let sql = format!("select count(*) from longshore.{table}");
        assert_eq!(database.number(&sql).await, 0, "rows left in {table}");
    }
}

/// Settle every closed run, as upkeep does once the lanes have moved on. Returns how many closings were removed.
pub async fn settle_all(database: &TestDatabase) -> u32 {
    let mut connection = database.pool.acquire().await.expect("a connection");
    let (mut settling, mut settled) = (Settling::default(), 0);
    loop {
        match settling.step(&mut Session::direct(&mut connection)).await.expect("settle") {
            0 => return settled,
            more => settled += more,
        }
    }
}

/// A lane's name.
pub fn new_lane_id() -> i64 {
    rand::random_range(1..i64::MAX)
}
