//! Who sends signals: to each run that waits, at random moments before and while it does, some in transactions that roll back, some twice under one
//! key. In the end whatever still waits is sent once what it waits for: a run that goes on waiting then has lost a wake-up.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Result;
use longshore_enqueuer::{Enqueuer, Error};
use rand::Rng;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use uuid::Uuid;

use crate::ledger::Entry;
use crate::load::Load;
use crate::workload;

/// A run that waits for signals, or will.
#[derive(Debug)]
pub(crate) struct Asking {
    pub(crate) run: Uuid,
    pub(crate) kind: &'static str,
    pub(crate) x: i64,
}

/// Where the senders hear of them.
pub(crate) type Asked = Mutex<mpsc::UnboundedReceiver<Asking>>;

/// So many send at once.
pub(crate) const SENDERS: u64 = 3;

/// The runs that wait, or will, with what their input says of them.
const WAITING: &str = "
    select r.run_id, w.name, (r.input ->> 'x')::bigint from longshore.workflow_runs r join longshore.workflows w using (workflow_id)
    where r.shard = 0 and r.state in (1, 2) and w.name = any ($1)";

struct Sender {
    enqueuer: Enqueuer,
    load: Arc<Load>,
    random: StdRng,
    /// What is to be sent, by its moment; the number keeps those of one moment apart.
    due: BTreeMap<(Instant, u64), Due>,
    count: u64,
}

/// A signal that is to be sent.
struct Due {
    run: Uuid,
    name: &'static str,
    payload: Value,
    /// Without a key and in no transaction that rolls back.
    plain: bool,
}

/// Send signals until the load is over; then the `last` of the senders goes on until no run waits for any.
pub(crate) async fn send(load: Arc<Load>, asked: Arc<Asked>, random: StdRng, last: bool) -> Result<()> {
    let mut sender = Sender {
        enqueuer: Enqueuer::new(load.pool.clone()),
        load: load.clone(),
        random,
        due: BTreeMap::new(),
        count: 0,
    };
    while !load.over.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(10)).await;
        // a few at a time: there are other senders
        for _ in 0..10 {
            let Ok(asking) = asked.lock().await.try_recv() else { break };
            sender.plan(&asking);
        }
        let now = Instant::now();
        while let Some(entry) = sender.due.first_entry().filter(|entry| entry.key().0 <= now) {
            let due = entry.remove();
            sender.say(&due).await?;
        }
    }
    if last { sender.last_word().await } else { Ok(()) }
}

impl Sender {
    /// What a run is sent, in any order, some of it several times.
    fn plan(&mut self, asking: &Asking) {
        for (name, payload) in workload::signals(asking.kind, asking.x) {
            for _ in 0..self.random.random_range(0..3) {
                let at = if self.random.random_bool(0.3) { 0 } else { self.random.random_range(0..600) };
                self.put(at, asking.run, name, payload.clone(), false);
            }
            // what goes on waiting is no load
            let at = self.random.random_range(300..2000);
            self.put(at, asking.run, name, payload, true);
        }
    }

    fn put(&mut self, after_ms: u64, run: Uuid, name: &'static str, payload: Value, plain: bool) {
        self.count += 1;
        let at = Instant::now() + Duration::from_millis(after_ms);
        self.due.insert((at, self.count), Due { run, name, payload, plain });
    }

    async fn say(&mut self, due: &Due) -> Result<()> {
        let Due { run, name, payload, plain } = due;
        match self.random.random_range(0..10) {
            0..2 if !plain => {
                // the same key is the same signal, whatever else is given
                let key = format!("{name}-{}", self.random.random_range(0..3));
                for _ in 0..2 {
                    self.send(*run, name, payload, Some(&key)).await?;
                }
                Ok(())
            }
            2..5 if !plain => self.send_in_transaction(*run, name, payload).await,
            _ => self.send(*run, name, payload, None).await,
        }
    }

    async fn send(&self, run: Uuid, name: &str, payload: &Value, key: Option<&str>) -> Result<()> {
        let (token, payload) = marked(payload);
        let mut sending = self.enqueuer.signal(run, name, &payload);
        if let Some(key) = key {
            sending = sending.key(key);
        }
        match sending.await {
            Ok(id) => self.load.ledger.append(&Entry::Sent { run, token, id, key: key.map(str::to_owned) })?,
            Err(error) => self.refused(&error),
        }
        Ok(())
    }

    /// A signal in a transaction of the application's own, which rolls back every third time.
    async fn send_in_transaction(&mut self, run: Uuid, name: &str, payload: &Value) -> Result<()> {
        let (token, payload) = marked(payload);
        let keeps = self.random.random_range(0..3) > 0;
        let written = async {
            let mut tx = self.load.pool.begin().await?;
            let id = self.enqueuer.signal(run, name, &payload).in_transaction(&mut tx).await?;
            if keeps {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok::<_, Error>(id)
        };
        match written.await {
            Ok(id) if keeps => self.load.ledger.append(&Entry::Sent { run, token, id, key: None })?,
            Ok(_) => self.load.ledger.append(&Entry::Unsent { run, token })?,
            Err(error) => self.refused(&error),
        }
        Ok(())
    }

    /// Everything that each run waits for, once, until no run waits. Nobody is asked whether it does: a start that was not acknowledged is there, too.
    async fn last_word(self) -> Result<()> {
        let all = workload::kinds();
        let kinds: Vec<&str> =
            all.iter().map(|kind| kind.name).filter(|kind| !workload::signals(kind, 0).is_empty()).collect();
        let mut told = HashSet::new();
        while !self.load.pool.is_closed() {
            let waiting =
                sqlx::query_as::<_, (Uuid, String, i64)>(WAITING).bind(&kinds).fetch_all(&self.load.pool).await;
            for (run, kind, x) in waiting.unwrap_or_default() {
                for (at, (name, payload)) in workload::signals(&kind, x).into_iter().enumerate() {
                    let (token, payload) = marked(&payload);
                    if told.contains(&(run, at)) {
                        continue;
                    }
                    match self.enqueuer.signal(run, name, &payload).await {
                        Ok(id) => {
                            told.insert((run, at));
                            self.load.ledger.append(&Entry::Sent { run, token, id, key: None })?;
                        }
                        Err(error) => self.refused(&error),
                    }
                }
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }

    /// A run that has ended takes no signals; all else was refused, or nobody knows.
    fn refused(&self, error: &Error) {
        if !matches!(error, Error::RunEnded { .. }) {
            self.load.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A payload of its own, and the token by which it is known: what `approval` takes as the answer, and all else as a field.
fn marked(payload: &Value) -> (Uuid, Value) {
    let token = Uuid::new_v4();
    let mut payload = payload.clone();
    let field = if payload.get("by").is_some() { "answer" } else { "token" };
    payload[field] = json!(token);
    (token, payload)
}
