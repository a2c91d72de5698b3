//! What the handlers of a program do: it follows from the id of their node, from what they are given, and from how often they and the blocks around have
//! failed. The worker reads the last of these from Postgres, since the numbers of attempts count those lost to a crash too.

use std::sync::Arc;
use std::time::Duration;

use longshore_worker::{Failure, Handlers, Step};
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::OnceCell;

/// A task that always fails does it so often.
pub const ALWAYS: usize = 9;

/// What a task does, as its id says: `t7` completes; `t7:3-1:2:flop:heals` fails twice where the digest of its input leaves 1 when divided by 3, and not
/// at all once a block around it has failed.
#[derive(Clone, Debug, PartialEq)]
pub struct Script {
    /// The divisor.
    pub of: u64,
    /// What is left.
    pub rest: u64,
    /// So often.
    pub times: usize,
    /// How.
    pub how: How,
    /// Not in the second attempt of a block.
    pub heals: bool,
}

/// How a task fails.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// It may be tried again.
    Retryable(String),
    /// It may not.
    Permanent(String),
    /// It panics.
    Panics,
    /// It goes on until its time is over.
    Hangs,
}

impl Script {
    /// What this task does; none for one that always completes.
    pub fn of(id: &str) -> Option<Self> {
        let mut parts = id.split(':').skip(1);
        let (of, rest) = parts.next()?.split_once('-')?;
        let times = parts.next()?.parse().ok()?;
        let how = match parts.next()? {
            "panics" => How::Panics,
            "hangs" => How::Hangs,
            name => match name.strip_prefix('-') {
                Some(name) => How::Permanent(name.to_owned()),
                None => How::Retryable(name.to_owned()),
            },
        };
        Some(Self { of: of.parse().ok()?, rest: rest.parse().ok()?, times, how, heals: parts.next() == Some("heals") })
    }

    /// The end of the id that says so.
    pub fn suffix(&self) -> String {
        let how = match &self.how {
            How::Retryable(name) => name.clone(),
            How::Permanent(name) => format!("-{name}"),
            How::Panics => "panics".to_owned(),
            How::Hangs => "hangs".to_owned(),
        };
        let heals = if self.heals { ":heals" } else { "" };
        format!(":{}-{}:{}:{how}{heals}", self.of, self.rest, self.times)
    }

    fn concerns(&self, input: &Value) -> bool {
        digest(input) % self.of == self.rest
    }

    /// The error of an attempt after `failed` others, where blocks around have failed `around` times.
    pub fn error(&self, input: &Value, failed: usize, around: usize) -> Option<Value> {
        if !self.concerns(input) || failed >= self.times && self.times < ALWAYS || self.heals && around > 0 {
            return None;
        }
        Some(match &self.how {
            How::Retryable(name) => error(name, "retryable"),
            How::Permanent(name) => error(name, "permanent"),
            How::Panics => error("panic", "panic"),
            How::Hangs => error("timeout", "timeout"),
        })
    }
}

/// An error as far as programs look at it.
pub fn error(name: &str, kind: &str) -> Value {
    json!({"name": name, "kind": kind})
}

/// A value without what nobody can say beforehand: of an error only name and kind are left, of a signal its time goes.
pub fn plain(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(plain).collect(),
        Value::Object(fields) if fields.contains_key("kind") && fields.contains_key("message") => {
            json!({"name": fields.get("name"), "kind": fields.get("kind")})
        }
        Value::Object(fields) => {
            let signal = fields.contains_key("payload") && fields.contains_key("sent_at");
            let kept = fields.iter().filter(|(name, _)| !signal || *name != "sent_at");
            kept.map(|(name, value)| (name.clone(), plain(value))).collect()
        }
        value => value.clone(),
    }
}

/// A number that follows from a value (objects are ordered by their names).
fn digest(value: &Value) -> u64 {
    let text = plain(value).to_string();
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)) >> 20
}

/// What a task gives that completes: `n` is one more than that of its input, of five.
pub fn output(input: &Value) -> Value {
    let n = match input.get("n").and_then(Value::as_u64) {
        Some(n) => (n + 1) % 5,
        None => digest(input) % 5,
    };
    json!({"n": n, "d": digest(input) % 100_000})
}

/// The handler `act`, which asks this database.
pub fn handlers(url: &str) -> Handlers {
    let (pool, url) = (Arc::new(OnceCell::new()), Arc::<str>::from(url));
    let mut handlers = Handlers::new();
    handlers.add("act", move |step: Step, input: Value| {
        let (pool, url) = (pool.clone(), url.clone());
        async move {
            let connect = || PgPoolOptions::new().max_connections(2).connect(&url);
            act(pool.get_or_try_init(connect).await?, &step, &input).await
        }
    });
    handlers
}

async fn act(pool: &PgPool, step: &Step, input: &Value) -> Result<Value, Failure> {
    if let Some(script) = Script::of(step.node()).filter(|script| script.concerns(input)) {
        let (failed, around) = if script.times < ALWAYS || script.heals { failures(pool, step).await? } else { (0, 0) };
        if script.error(input, failed, around).is_some() {
            return Err(match script.how {
                How::Retryable(name) => Failure::retryable("as the script says").named(&name),
                How::Permanent(name) => Failure::permanent("as the script says").named(&name),
                How::Panics => panic!("as the script says"),
                How::Hangs => {
                    step.cancellation().cancelled().await;
                    Failure::canceled("told to stop")
                }
            });
        }
    }
    if rand::random_bool(0.3) {
        tokio::time::sleep(Duration::from_millis(rand::random_range(0..30))).await;
    }
    Ok(output(input))
}

/// How often the step has failed, and the blocks around it.
async fn failures(pool: &PgPool, step: &Step) -> Result<(usize, usize), Failure> {
    let sql = "select
        (select count(*) from longshore.execution_step_attempts a
         join longshore.workflow_runs r on r.shard = 0 and r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.id = $3
         where a.shard = 0 and a.run_id = $1 and a.frame = $2 and a.outcome = 2),
        (select coalesce(sum(w.failed), 0) from longshore.frames f
         join longshore.frames w on w.shard = 0 and w.run_id = f.run_id and w.whole and w.frame = any (f.path || f.frame)
         where f.shard = 0 and f.run_id = $1 and f.frame = $2)";
    // a handler that cannot ask would fail where its script does not say so
    let (failed, around): (i64, i64) = loop {
        let query = sqlx::query_as(sql).bind(step.run_id()).bind(step.frame()).bind(step.node());
        match query.fetch_one(pool).await {
            Ok(found) => break found,
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    Ok((usize::try_from(failed)?, usize::try_from(around)?))
}
