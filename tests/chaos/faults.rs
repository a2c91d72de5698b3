//! The faults, each a loop of its own on a seeded schedule that ends with the window. What each really hit is counted, for a fault that hits nothing
//! proves nothing.

use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use chrono::Utc;
use clap::ValueEnum;
use longshore::postgres::{Cluster, Listen};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde_json::json;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection, PgConnection};
use tokio::sync::Mutex;

use crate::disk::Disk;
use crate::fleet::{Fleet, between};
use crate::ledger::{Entry, Ledger};
use crate::link::Trouble;
use crate::partition::Partition;

/// A fault, as it is named on the command line and in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Fault {
    /// Kill a worker every 1 to 3 s.
    Kill,
    /// Kill a worker every second.
    KillEachSecond,
    /// Freeze a worker for twice its lease, then let it wake.
    Freeze,
    /// Ask a worker to leave every 2 s, under load.
    Restart,
    /// Stop Postgres at once and start it again, every 20 to 30 s.
    Postgres,
    /// End random sessions.
    Terminate,
    /// Cut connections between a commit and its answer.
    Cut,
    /// Slow all connections down, swallow what they send, reset them.
    Link,
    /// Drop every packet of a worker in a network namespace, silently, for 1 to 60 s.
    Partition,
    /// Workers with one connection, or two.
    Pool,
    /// Take all connections that Postgres has.
    Connections,
    /// Keep an old snapshot for the whole time.
    Snapshot,
    /// A worker whose clock is an hour ahead.
    Clock,
    /// Handlers that panic, abort, hang, hoard memory, give 8 MiB, give what cannot be stored.
    Poison,
    /// End the sessions that listen.
    Listen,
    /// Fill the disk of Postgres, then give the space back.
    Disk,
    /// Serialization failures and deadlocks out of nothing.
    Errors,
    /// Workers behind PgBouncer in transaction mode, two sessions for all of them.
    Pgbouncer,
    /// A worker built from an older commit.
    Old,
}

impl Fault {
    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// All that faults may touch.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) cluster: Arc<Cluster>,
    /// Straight to Postgres, past every trouble.
    pub(crate) direct: PgConnectOptions,
    /// The way of each worker, and that of the enqueuers.
    pub(crate) ways: Vec<Arc<Trouble>>,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) lease: Duration,
    pub(crate) disk: Option<Arc<Disk>>,
    pub(crate) partition: Option<Partition>,
    /// The window is over.
    pub(crate) over: AtomicBool,
    /// Held by whoever stops or starts Postgres.
    pub(crate) postgres: Mutex<()>,
}

/// Seconds.
const fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

impl World {
    /// A session of the harness's own, which no fault ends.
    pub(crate) async fn session(&self) -> sqlx::Result<PgConnection> {
        self.direct.connect().await
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// False when the window ended before the time was over.
    async fn pause(&self, time: Duration) -> bool {
        let until = tokio::time::Instant::now() + time;
        while !self.is_over() {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            if left.is_zero() {
                return true;
            }
            tokio::time::sleep(left.min(Duration::from_millis(50))).await;
        }
        false
    }

    /// Start Postgres if it does not run, and wait until it does.
    pub(crate) async fn start_postgres(&self) -> Result<()> {
        let mut tries = 0;
        loop {
            match self.cluster.start(Listen::Socket).await {
                Ok(started) => {
                    if !started.was_running {
                        self.ledger.append(&Entry::Restarted { at: Utc::now() })?;
                    }
                    return Ok(());
                }
                Err(error) if tries >= 10 => return Err(error.context("postgres does not start again")),
                Err(_) => tokio::time::sleep(s(1)).await,
            }
            tries += 1;
        }
    }
}

/// Do this fault until the window is over. Returns how often it hit.
pub(crate) async fn run(fault: Fault, world: &Arc<World>, seed: u64) -> Result<u32> {
    let mut random = StdRng::seed_from_u64(seed ^ (fault as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let done = match fault {
        Fault::Kill => kill(world, &mut random, s(1)..s(3)).await,
        Fault::KillEachSecond => kill(world, &mut random, s(1)..s(1)).await,
        Fault::Freeze => freeze(world, &mut random).await,
        Fault::Restart => restart(world, &mut random).await,
        Fault::Postgres => postgres(world, &mut random).await,
        Fault::Terminate => {
            terminate(world, &mut random, "true", Duration::from_millis(100)..Duration::from_millis(600)).await
        }
        Fault::Listen => terminate(world, &mut random, "query ilike 'listen%'", s(1)..s(3)).await,
        Fault::Cut => cut(world, &mut random).await,
        Fault::Link => link(world, &mut random).await,
        Fault::Partition => partition(world, &mut random).await,
        Fault::Connections => connections(world, &mut random).await,
        Fault::Snapshot => snapshot(world).await,
        Fault::Disk => disk(world, &mut random).await,
        Fault::Errors => errors(world).await,
        Fault::Poison => poison(world, &mut random).await,
        // these are how the fleet was started
        Fault::Pool | Fault::Clock | Fault::Pgbouncer | Fault::Old => Ok(0),
    };
    done.with_context(|| format!("the fault {}", fault.name()))
}

async fn kill(world: &World, random: &mut StdRng, every: std::ops::Range<Duration>) -> Result<u32> {
    let mut hits = 0;
    while world.pause(between(random, every.start, every.end)).await {
        hits += u32::from(world.fleet.kill_one(random).await?);
    }
    Ok(hits)
}

async fn freeze(world: &World, random: &mut StdRng) -> Result<u32> {
    let mut hits = 0;
    while world.pause(between(random, Duration::from_millis(500), s(3))).await {
        hits += u32::from(world.fleet.freeze_one(random, world.lease * 2).await?);
    }
    Ok(hits)
}

async fn restart(world: &World, random: &mut StdRng) -> Result<u32> {
    let mut hits = 0;
    while world.pause(between(random, s(1), s(3))).await {
        hits += u32::from(world.fleet.restart_one(random).await?);
    }
    Ok(hits)
}

async fn postgres(world: &World, random: &mut StdRng) -> Result<u32> {
    let mut hits = 0;
    // the first comes soon, so that a short window has one
    let mut wait = between(random, s(5), s(10));
    while world.pause(wait).await {
        let _held = world.postgres.lock().await;
        world.cluster.crash()?;
        tokio::time::sleep(between(random, Duration::from_millis(100), s(2))).await;
        world.start_postgres().await?;
        hits += 1;
        wait = between(random, s(20), s(30));
    }
    Ok(hits)
}

async fn terminate(world: &World, random: &mut StdRng, which: &str, every: std::ops::Range<Duration>) -> Result<u32> {
    let mut hits = 0;
    let sql = format!(
        "select count(*) from (select pg_terminate_backend(pid) as ended from pg_stat_activity where datname = current_database()
             and backend_type = 'client backend' and application_name <> 'longshore-chaos' and {which} order by random() limit 1) t where ended"
    );
    while world.pause(between(random, every.start, every.end)).await {
        // Postgres may be down just now
        let Ok(mut session) = world.session().await else { continue };
        let ended: Result<i64, _> = sqlx::query_scalar(&sql).fetch_one(&mut session).await;
        hits += ended.map_or(0, |ended| u32::from(ended > 0));
    }
    Ok(hits)
}

async fn cut(world: &World, random: &mut StdRng) -> Result<u32> {
    while world.pause(between(random, Duration::from_millis(20), Duration::from_millis(200))).await {
        let Some(way) = world.ways.choose(random) else { continue };
        way.cut.fetch_add(1, Ordering::SeqCst);
    }
    for way in &world.ways {
        way.cut.store(0, Ordering::SeqCst);
    }
    Ok(hits(world, |way| &way.cuts))
}

/// One way at a time is troubled, as mostly happens; each trouble comes to each way.
async fn link(world: &World, random: &mut StdRng) -> Result<u32> {
    while world.pause(between(random, Duration::from_millis(200), s(2))).await {
        let Some(way) = world.ways.choose(random) else { continue };
        match random.random_range(0..3) {
            0 => way.reset(),
            1 => {
                way.delay_ms.store(random.random_range(5..300), Ordering::Relaxed);
                world.pause(between(random, s(1), s(5))).await;
                way.delay_ms.store(0, Ordering::Relaxed);
            }
            _ => {
                way.swallow.store(true, Ordering::Relaxed);
                world.pause(between(random, Duration::from_millis(200), world.lease.mul_f64(1.5))).await;
                way.swallow.store(false, Ordering::Relaxed);
            }
        }
    }
    Ok(hits(world, |way| &way.troubled))
}

fn hits(world: &World, which: impl Fn(&Trouble) -> &AtomicU32) -> u32 {
    world.ways.iter().map(|way| which(way).load(Ordering::Relaxed)).sum()
}

/// How long a partition may last.
pub(crate) const LONGEST_PARTITION: Duration = Duration::from_secs(60);

async fn partition(world: &World, random: &mut StdRng) -> Result<u32> {
    let partition = world.partition.as_ref().context("no network namespace")?;
    let mut hits = 0;
    while world.pause(between(random, s(1), s(4))).await {
        partition.part()?;
        // mostly short ones, as most are; the longest outlast every lease
        let time = if random.random_range(0..4) == 0 {
            between(random, s(10), LONGEST_PARTITION)
        } else {
            between(random, s(1), s(10))
        };
        world.pause(time).await;
        partition.heal()?;
        hits += 1;
    }
    Ok(hits)
}

async fn connections(world: &World, random: &mut StdRng) -> Result<u32> {
    let mut hits = 0;
    while world.pause(between(random, s(2), s(5))).await {
        let mut taken = Vec::new();
        let refused = loop {
            match world.session().await {
                Ok(session) => taken.push(session),
                Err(error) => {
                    break error.as_database_error().is_some_and(|error| error.code().as_deref() == Some("53300"));
                }
            }
        };
        hits += u32::from(refused);
        // whoever reconnects now finds no place
        world.ways.iter().for_each(|way| way.reset());
        world.pause(between(random, s(2), s(6))).await;
        for session in taken {
            session.close().await.ok();
        }
    }
    Ok(hits)
}

async fn snapshot(world: &World) -> Result<u32> {
    let mut hits = 0;
    while world.pause(Duration::from_millis(200)).await {
        let Ok(mut session) = world.session().await else { continue };
        let old = "begin isolation level repeatable read; select count(*) from longshore.lanes";
        if sqlx::raw_sql(old).execute(&mut session).await.is_ok() {
            hits += 1;
            // as long as Postgres and the window last
            while world.pause(s(1)).await && sqlx::raw_sql("select 1").execute(&mut session).await.is_ok() {}
        }
    }
    Ok(hits)
}

/// Postgres has no room: it says so, or has gone down for want of it.
async fn refuses_for_space(world: &World) -> bool {
    let Ok(mut session) = world.session().await else { return true };
    let large = "create temporary table large as select repeat(md5(i::text), 1000) from generate_series(1, 3000) i";
    let refused = sqlx::query(large).execute(&mut session).await.err();
    refused.is_some_and(|error| error.as_database_error().is_none_or(|error| error.code().as_deref() == Some("53100")))
}

async fn disk(world: &World, random: &mut StdRng) -> Result<u32> {
    let disk = world.disk.as_ref().context("no disk of its own")?;
    let mut hits = 0;
    while world.pause(between(random, s(5), s(15))).await {
        let _held = world.postgres.lock().await;
        disk.fill()?;
        hits += u32::from(refuses_for_space(world).await);
        world.pause(between(random, s(2), s(6))).await;
        disk.empty()?;
        // it may have ended for want of space, or still be going down
        tokio::time::sleep(s(1)).await;
        world.start_postgres().await?;
    }
    Ok(hits)
}

/// Statements of the hot tables fail, one in a hundred.
const MAKE_ERRORS: &str = "
    create schema if not exists chaos;
    create sequence if not exists chaos.errors;
    create or replace function chaos.fail() returns trigger language plpgsql as $$
    begin
        if random() < 0.01 then
            perform nextval('chaos.errors');
            raise exception 'made up by the harness' using errcode = case when random() < 0.5 then '40001' else '40P01' end;
        end if;
        return null;
    end $$;
    create or replace trigger chaos after insert on longshore.execution_step_attempts for each statement execute function chaos.fail();
    create or replace trigger chaos after insert on longshore.step_ready for each statement execute function chaos.fail();
    create or replace trigger chaos after delete on longshore.step_delayed for each statement execute function chaos.fail();
    create or replace trigger chaos after insert or update on longshore.step_joins for each statement execute function chaos.fail();
    create or replace trigger chaos after insert on longshore.lanes for each statement execute function chaos.fail();
    create or replace trigger chaos after update on longshore.workflow_runs for each statement execute function chaos.fail();";

const UNMAKE_ERRORS: &str = "
    drop trigger chaos on longshore.execution_step_attempts;
    drop trigger chaos on longshore.step_ready;
    drop trigger chaos on longshore.step_delayed;
    drop trigger chaos on longshore.step_joins;
    drop trigger chaos on longshore.lanes;
    drop trigger chaos on longshore.workflow_runs;";

async fn errors(world: &World) -> Result<u32> {
    until_done(world, MAKE_ERRORS).await;
    while world.pause(s(1)).await {}
    until_done(world, UNMAKE_ERRORS).await;
    let hits: i64 = sqlx::query_scalar("select case when is_called then last_value else 0 end from chaos.errors")
        .fetch_one(&mut world.session().await?)
        .await?;
    Ok(u32::try_from(hits).unwrap_or(u32::MAX))
}

/// A deadlock with the fleet, or Postgres is down: again.
async fn until_done(world: &World, sql: &'static str) {
    loop {
        if let Ok(mut session) = world.session().await
            && sqlx::raw_sql(sql).execute(&mut session).await.is_ok()
        {
            return;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// The handlers that do harm; what hangs or ends its process takes its worker with it, so there are few of those.
pub(crate) const POISON: [&str; 6] = ["panic", "huge", "nul", "abort", "hang", "hog"];

async fn poison(world: &Arc<World>, random: &mut StdRng) -> Result<u32> {
    let probing = {
        let world = world.clone();
        tokio::spawn(async move {
            while world.pause(s(2)).await {
                world.fleet.kill_the_dead().await?;
            }
            Ok::<_, anyhow::Error>(())
        })
    };
    let mut hits = 0;
    let mut next = 0;
    while world.pause(between(random, s(1), s(2))).await {
        let handler = POISON[next % POISON.len()];
        // one run of each deadly kind per minute or so
        next += 1;
        if next > POISON.len() && matches!(handler, "abort" | "hang" | "hog") && random.random_range(0..6) > 0 {
            continue;
        }
        let Ok(mut session) = world.session().await else { continue };
        let started =
            sqlx::query("select longshore.start_run($1, $2)").bind(format!("poison-{handler}")).bind(json!({ "x": 0 }));
        hits += u32::from(started.execute(&mut session).await.is_ok());
    }
    probing.await.context("the probes of liveness panicked")??;
    Ok(hits)
}

/// Straight to the database of a URL, under a name that no fault touches.
pub(crate) fn direct(url: &str) -> Result<PgConnectOptions> {
    Ok(PgConnectOptions::from_str(url)?.application_name("longshore-chaos"))
}
