//! The enqueuers: they keep the fleet busy with runs of every kind, some under keys that two of them use at once, some in transactions that roll back,
//! some canceled. What was acknowledged goes to the ledger before anything else happens.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use longshore_enqueuer::{Enqueuer, NewRun};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;
use tokio::sync::mpsc;
use uuid::Uuid;

use crate::ledger::{Entry, Ledger};
use crate::operator;
use crate::signals::{self, Asked, Asking, SENDERS};
use crate::workload::{self, Kind, X};

/// So many enqueuers write at once.
const ENQUEUERS: u64 = 3;

/// What the enqueuers share.
#[derive(Debug)]
pub(crate) struct Load {
    pub(crate) pool: PgPool,
    pub(crate) kinds: Vec<Kind>,
    pub(crate) ledger: Arc<Ledger>,
    /// So many runs wait or run at any moment.
    pub(crate) runs: i64,
    pub(crate) over: AtomicBool,
    /// Runs that must not outnumber `runs`; counted in Postgres twice a second.
    pub(crate) live: AtomicU64,
    pub(crate) refused: AtomicU64,
    /// Runs that were paused by the operator.
    pub(crate) pauses: AtomicU64,
    /// Runs that are to be sent signals.
    pub(crate) asking: mpsc::UnboundedSender<Asking>,
}

/// Enqueue until the load is over.
pub(crate) async fn enqueue(load: Arc<Load>, seed: u64, asked: Asked) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    let asked = Arc::new(asked);
    for number in 0..SENDERS {
        tasks.spawn(signals::send(load.clone(), asked.clone(), StdRng::seed_from_u64(!seed ^ number), number == 0));
    }
    tasks.spawn(operator::operate(load.clone(), StdRng::seed_from_u64(seed.rotate_left(32))));
    tasks.spawn(operator::start_over(load.clone()));
    for number in 0..ENQUEUERS {
        let (load, random) = (load.clone(), StdRng::seed_from_u64(seed ^ number));
        tasks.spawn(async move {
            Writer { enqueuer: Enqueuer::new(load.pool.clone()), load, random, started: Vec::new(), count: 0 }
                .run()
                .await
        });
    }
    let counted = load.clone();
    tasks.spawn(async move {
        while !counted.over.load(Ordering::Relaxed) {
            // a run that waits for a signal or another run is no load
            let live = sqlx::query_scalar::<_, i64>(
                "select count(*) from longshore.workflow_runs r where r.state in (1, 2)
                    and not exists (select from longshore.step_waiting w where w.shard = 0 and w.run_id = r.run_id and w.woken_at is null)");
            if let Ok(live) = live.fetch_one(&counted.pool).await {
                counted.live.store(u64::try_from(live).unwrap_or(0), Ordering::Relaxed);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    });
    while let Some(ended) = tasks.join_next().await {
        ended.context("an enqueuer panicked")??;
    }
    Ok(())
}

/// Enqueue so many runs of the first kind, a thousand at a time.
pub(crate) async fn fill(load: &Load, runs: usize) -> Result<()> {
    let Some(kind) = load.kinds.first() else { return Ok(()) };
    let enqueuer = Enqueuer::new(load.pool.clone());
    let new: Vec<NewRun> = (0..runs.min(1000)).map(|_| NewRun::new(kind.name, &workload::input(0))).collect();
    let mut left = runs;
    while left > 0 {
        let now = left.min(new.len());
        let started = enqueuer.start_many(&new[..now]).await?;
        let entries = started.iter().map(|started| Entry::Started {
            run: started.id,
            kind: kind.name.to_owned(),
            x: 0,
            key: None,
        });
        load.ledger.append_all(&entries.collect::<Vec<_>>())?;
        left -= now;
    }
    Ok(())
}

struct Writer {
    enqueuer: Enqueuer,
    load: Arc<Load>,
    random: StdRng,
    /// Runs of late, to be canceled perhaps.
    started: Vec<Uuid>,
    count: u64,
}

impl Writer {
    async fn run(mut self) -> Result<()> {
        while !self.load.over.load(Ordering::Relaxed) {
            if self.load.live.load(Ordering::Relaxed) >= self.load.runs.unsigned_abs() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
            for _ in 0..20 {
                self.count += 1;
                match self.random.random_range(0..100) {
                    0..10 => self.start_in_transaction().await?,
                    10..25 => self.start_under_a_shared_key().await?,
                    25..29 => self.cancel().await?,
                    _ => self.start().await?,
                }
            }
        }
        Ok(())
    }

    fn kind(&mut self) -> Kind {
        let all: u32 = self.load.kinds.iter().map(|kind| kind.weight).sum();
        let mut at = self.random.random_range(0..all);
        let mut kinds = self.load.kinds.iter();
        loop {
            match kinds.next() {
                Some(kind) if at < kind.weight => return kind.clone(),
                Some(kind) => at -= kind.weight,
                None => kinds = self.load.kinds.iter(),
            }
        }
    }

    /// A start on its own: acknowledged, or nobody knows.
    async fn start(&mut self) -> Result<()> {
        let kind = self.kind();
        let x = self.random.random_range(0..X);
        let priority = self.random.random_range(0..4);
        match self.enqueuer.start(kind.name, &workload::input(x)).priority(priority).await {
            Ok(started) => self.acknowledged(started.id, &kind, x, None)?,
            Err(_) => self.refused(),
        }
        Ok(())
    }

    /// The same key from several enqueuers: one run, whoever asks and however often.
    async fn start_under_a_shared_key(&mut self) -> Result<()> {
        let number = self.count / 3;
        // what belongs to a key follows from its number, for all enqueuers alike
        let mut same = StdRng::seed_from_u64(number);
        let x = same.random_range(0..X);
        let kind = self.load.kinds[same.random_range(0..self.load.kinds.len())].clone();
        let key = format!("key-{number}");
        match self.enqueuer.start(kind.name, &workload::input(x)).key(&key).await {
            Ok(started) => self.acknowledged(started.id, &kind, x, Some(key))?,
            Err(_) => self.refused(),
        }
        Ok(())
    }

    /// Two starts in a transaction of the application's own, which rolls back every third time.
    async fn start_in_transaction(&mut self) -> Result<()> {
        let kind = self.kind();
        let x = self.random.random_range(0..X);
        let keeps = self.random.random_range(0..3) > 0;
        let written = async {
            let mut tx = self.load.pool.begin().await?;
            let mut runs = Vec::new();
            for _ in 0..2 {
                runs.push(self.enqueuer.start(kind.name, &workload::input(x)).in_transaction(&mut tx).await?.id);
            }
            if keeps {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok::<_, longshore_enqueuer::Error>(runs)
        };
        let Ok(runs) = written.await else {
            self.refused();
            return Ok(());
        };
        for run in runs {
            if keeps {
                self.acknowledged(run, &kind, x, None)?;
            } else {
                self.load.ledger.append(&Entry::RolledBack { run })?;
            }
        }
        Ok(())
    }

    async fn cancel(&mut self) -> Result<()> {
        if self.started.is_empty() {
            return Ok(());
        }
        let run = self.started.swap_remove(self.random.random_range(0..self.started.len()));
        self.load.ledger.append(&Entry::Canceling { run })?;
        if self.enqueuer.cancel(run).await.is_ok() {
            self.load.ledger.append(&Entry::Canceled { run, at: Utc::now() })?;
        }
        Ok(())
    }

    fn acknowledged(&mut self, run: Uuid, kind: &Kind, x: i64, key: Option<String>) -> Result<()> {
        self.load.ledger.append(&Entry::Started { run, kind: kind.name.to_owned(), x, key })?;
        self.started.push(run);
        if self.started.len() > 50 {
            self.started.remove(0);
        }
        self.load.live.fetch_add(1, Ordering::Relaxed);
        if !workload::signals(kind.name, x).is_empty() {
            self.load.asking.send(Asking { run, kind: kind.name, x }).ok();
        }
        Ok(())
    }

    fn refused(&self) {
        self.load.refused.fetch_add(1, Ordering::Relaxed);
    }
}
