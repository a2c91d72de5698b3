//! What Postgres has of a run that ended, read with SQL of its own.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{PgPool, Row};
use uuid::Uuid;

use super::script::plain;

/// An attempt of a step.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// Its number; 0 is the record of a skip.
    pub number: i32,
    /// 1 completed, 2 failed, 3 lost, 4 canceled, 5 skipped, 6 released.
    pub outcome: i16,
    /// What it gave.
    pub output: Option<Value>,
    /// How it failed, or what its policy made good.
    pub error: Option<Value>,
    /// How long it took.
    pub took_ms: i64,
}

/// A frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Its number.
    pub frame: i32,
    /// The item, the pass, or which body; -1 for an instance that is no body.
    pub iteration: i32,
    /// It stands for the block's attempt.
    pub whole: bool,
    /// 1 live (cut off by the run's end), 3 completed, 4 failed, 5 canceled.
    pub state: i16,
    /// What a body was given.
    pub input: Option<Value>,
    /// What it gave.
    pub output: Option<Value>,
    /// How it failed.
    pub error: Option<Value>,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
}

/// A signal.
#[derive(Clone, Debug)]
pub struct Signal {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// What it carries.
    pub payload: Value,
    /// Who took it.
    pub taken: Option<(i32, String)>,
}

/// A run.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// 3 completed, 4 failed, 5 canceled.
    pub state: i16,
    /// Its output.
    pub output: Option<Value>,
    /// Its error.
    pub error: Option<Value>,
    /// The attempts of each step.
    pub attempts: BTreeMap<(i32, String), Vec<Attempt>>,
    /// The frames by what opened them: the frame of a block's node, the node and its attempt; of a body, the block's frame instead.
    pub frames: HashMap<(i32, String, i32), Vec<Frame>>,
    /// The numbers of all frames.
    pub known: Vec<i32>,
    /// What was sent, in that order.
    pub signals: Vec<Signal>,
}

impl Record {
    /// A step's attempts.
    pub fn attempts(&self, frame: i32, node: &str) -> &[Attempt] {
        self.attempts.get(&(frame, node.to_owned())).map_or(&[], Vec::as_slice)
    }

    /// A block's own instance.
    pub fn whole(&self, frame: i32, node: &str, attempt: i32) -> Option<&Frame> {
        self.frames.get(&(frame, node.to_owned(), attempt))?.iter().find(|frame| frame.whole)
    }

    /// The instances of its bodies, by iteration.
    pub fn bodies(&self, whole: &Frame, node: &str, attempt: i32) -> Vec<&Frame> {
        let bodies = self.frames.get(&(whole.frame, node.to_owned(), attempt));
        bodies.into_iter().flatten().filter(|frame| !frame.whole).collect()
    }

    /// All frames around this one are there. (What is below a pass that was not kept may stay where it was being settled.)
    pub fn leads_to_the_run(&self, frame: i32) -> bool {
        let above = |frame: i32| {
            let mut all = self.frames.iter();
            all.find(|(_, frames)| frames.iter().any(|other| other.frame == frame)).map(|((parent, ..), _)| *parent)
        };
        let mut at = frame;
        while at != 0 {
            match above(at) {
                Some(parent) => at = parent,
                None => return false,
            }
        }
        true
    }

    /// Lines that show it all.
    pub fn lines(&self) -> String {
        let mut lines = format!("state {} output {:?} error {:?}\n", self.state, self.output, self.error);
        let mut frames: Vec<_> = self
            .frames
            .iter()
            .flat_map(|(key, frames)| frames.iter().map(move |frame| (frame.frame, key, frame)))
            .collect();
        frames.sort_by_key(|(number, ..)| *number);
        for (number, (parent, node, attempt), frame) in frames {
            let Frame { iteration, whole, state, input, output, error, .. } = frame;
            lines += &format!(
                "frame {number} of {parent} {node} attempt {attempt} iteration {iteration} whole {whole}: state {state} input {input:?} output {output:?} error {error:?}\n"
            );
        }
        for ((frame, node), attempts) in &self.attempts {
            for Attempt { number, outcome, output, error, .. } in attempts {
                lines += &format!(
                    "frame {frame} {node} attempt {number}: outcome {outcome} output {output:?} error {error:?}\n"
                );
            }
        }
        for signal in &self.signals {
            lines += &format!("{signal:?}\n");
        }
        lines
    }
}

/// Read these runs.
pub async fn read(pool: &PgPool, ids: &[Uuid]) -> Result<HashMap<Uuid, Record>, sqlx::Error> {
    let mut records: HashMap<Uuid, Record> = HashMap::new();
    let json = |value: Option<Value>| value.map(|value| plain(&value));
    let sql = "select run_id, state, output, error from longshore.workflow_runs where shard = 0 and run_id = any ($1)";
    for row in sqlx::query(sql).bind(ids).fetch_all(pool).await? {
        let record = records.entry(row.try_get("run_id")?).or_default();
        record.state = row.try_get("state")?;
        record.output = json(row.try_get("output")?);
        record.error = json(row.try_get("error")?);
    }
    let sql = "select a.run_id, a.frame, n.id, a.attempt, a.outcome, a.output, a.error,
            coalesce(extract(epoch from a.finished_at - a.claimed_at) * 1000, 0)::bigint as took_ms
        from longshore.execution_step_attempts a
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = a.run_id
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        where a.shard = 0 and a.run_id = any ($1) and a.node >= 0 order by a.attempt";
    for row in sqlx::query(sql).bind(ids).fetch_all(pool).await? {
        let record = records.entry(row.try_get("run_id")?).or_default();
        record.attempts.entry((row.try_get("frame")?, row.try_get("id")?)).or_default().push(Attempt {
            number: row.try_get("attempt")?,
            outcome: row.try_get("outcome")?,
            output: json(row.try_get("output")?),
            error: json(row.try_get("error")?),
            took_ms: row.try_get("took_ms")?,
        });
    }
    let sql = "select f.run_id, f.frame, f.parent, n.id, f.attempt, f.iteration, f.whole, f.state, f.input, f.output, f.error, f.created_at, f.finished_at
        from longshore.frames f
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = f.run_id
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = f.node
        where f.shard = 0 and f.run_id = any ($1) order by f.iteration";
    for row in sqlx::query(sql).bind(ids).fetch_all(pool).await? {
        let record = records.entry(row.try_get("run_id")?).or_default();
        record.known.push(row.try_get("frame")?);
        let key = (row.try_get("parent")?, row.try_get("id")?, row.try_get("attempt")?);
        record.frames.entry(key).or_default().push(Frame {
            frame: row.try_get("frame")?,
            iteration: row.try_get("iteration")?,
            whole: row.try_get("whole")?,
            state: row.try_get("state")?,
            input: json(row.try_get("input")?),
            output: json(row.try_get("output")?),
            error: json(row.try_get("error")?),
            created_at: row.try_get("created_at")?,
            finished_at: row.try_get("finished_at")?,
        });
    }
    let sql = "select s.run_id, s.signal_id, s.name, s.payload, s.taken_frame, n.id as taken_node
        from longshore.signals s
        join longshore.workflow_runs r on r.shard = 0 and r.run_id = s.run_id
        left join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.taken_node
        where s.shard = 0 and s.run_id = any ($1) order by s.signal_id";
    for row in sqlx::query(sql).bind(ids).fetch_all(pool).await? {
        let record = records.entry(row.try_get("run_id")?).or_default();
        let taken = row.try_get::<Option<i32>, _>("taken_frame")?.zip(row.try_get::<Option<String>, _>("taken_node")?);
        record.signals.push(Signal {
            id: row.try_get("signal_id")?,
            name: row.try_get("name")?,
            payload: json(row.try_get("payload")?).unwrap_or_default(),
            taken,
        });
    }
    Ok(records)
}
