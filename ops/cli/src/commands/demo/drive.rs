//! Runs the demo's workflows: publishes them, starts their runs, watches them, and kills a worker while it holds steps.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use longshore::{process::WorkerProcess, samples::Sample, stage::Stage};
use longshore_core::{
    database,
    definition::Definition,
    doctor, explain,
    inspect::{self, Counts, Filter, RunSummary},
    workflow,
};
use longshore_enqueuer::{Enqueuer, NewRun};
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::super::progress::{Progress, Tally};
use super::books::Books;

const CONNECTIONS: u32 = 4;
/// How often it is looked whether a worker holds steps, until one is killed.
const TICK: Duration = Duration::from_millis(50);
/// How often steps are counted; less often when counting takes long.
const COUNT_EVERY: Duration = Duration::from_millis(250);
/// Counting takes at most this part of the time.
const COUNT_SHARE: u32 = 10;
/// The worker is killed when a third of the steps are through, or after this time.
const KILL_AFTER: Duration = Duration::from_millis(1500);
/// A kill may hit a worker that had just given away what it held: then once more.
const MAX_ROUNDS: usize = 4;
/// The worker that holds about so many steps is killed.
const HELD_BY_VICTIM: i64 = 10;
/// Without any step that moves for so long, what has not ended is stuck.
const STALLED_AFTER: Duration = Duration::from_secs(60);
/// How long upkeep may take to tidy up behind the last run.
const SETTLED_WITHIN: Duration = Duration::from_secs(30);
/// Of so many stuck runs it is said why.
const EXPLAINED: usize = 3;

struct Drive<'d> {
    stage: &'d mut Stage,
    pool: PgPool,
    progress: Progress,
    tally: Tally,
    killed: usize,
    /// Runs that ask a person, and what the person says.
    answers: HashMap<Uuid, Value>,
    /// What runs must give.
    outputs: HashMap<Uuid, Value>,
}

/// Run all of it to its end, and count. An error says what kept the demo from showing anything.
pub(super) async fn drive(stage: &mut Stage, samples: &[Sample]) -> Result<Books> {
    let pool = database::pool(stage.url(), CONNECTIONS).await?;
    let enqueuer = Enqueuer::new(pool.clone());
    let progress = Progress::new();
    let mut drive = Drive {
        stage,
        pool,
        progress,
        tally: Tally::default(),
        killed: 0,
        answers: HashMap::new(),
        outputs: HashMap::new(),
    };
    drive.publish(samples).await?;
    let mut round: Vec<NewRun> = samples.iter().flat_map(runs).collect();
    let mut eager = false;
    let mut books;
    loop {
        let started = enqueuer.start_many(&round).await?;
        drive.tally.add(started.iter().map(|started| started.id));
        drive.expect(samples, started.iter().map(|started| started.id));
        drive.progress.say(&format!("started {} runs", started.len()));
        let listed = drive.watch(&enqueuer, eager).await?;
        books = Books::of(&mut *drive.pool.acquire().await?, &listed).await?;
        books.other_outputs = drive.other_outputs(&enqueuer).await?;
        let again = books.lost() == 0 && books.stuck() == 0 && drive.killed < MAX_ROUNDS;
        if !again {
            break;
        }
        drive.progress.say("the killed worker held nothing any more: once again");
        eager = true;
        round = samples.iter().flat_map(runs).collect();
    }
    drive.explain_stuck(&books).await?;
    books.examined(drive.settled().await?);
    books.workers_killed = drive.killed;
    Ok(books)
}

fn runs(sample: &Sample) -> impl Iterator<Item = NewRun> {
    sample.inputs.iter().map(|input| NewRun::new(sample.name(), input))
}

impl Drive<'_> {
    async fn publish(&self, samples: &[Sample]) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        for sample in samples {
            let definition = Definition::from_json(&sample.definition)
                .with_context(|| format!("the workflow {} is not valid", sample.name()))?;
            workflow::publish(&mut connection, &definition).await?;
        }
        Ok(())
    }

    /// Watch all runs to their end, killing one worker on the way; `eager`: as soon as one holds anything.
    async fn watch(&mut self, enqueuer: &Enqueuer, eager: bool) -> Result<Vec<RunSummary>> {
        let mut connection = self.pool.acquire().await?;
        let began = Instant::now();
        let (mut moved, mut before) = (began, Counts::default());
        let mut count_at = began;
        let mut killed = false;
        let mut midway = eager;
        loop {
            self.no_worker_ended()?;
            if !killed && (midway || began.elapsed() > KILL_AFTER) {
                killed = self.kill_one(&mut connection).await?;
            }
            if Instant::now() >= count_at {
                let asked = Instant::now();
                self.answer(enqueuer, &mut connection).await?;
                let listed = all_runs(&mut connection).await?;
                let ended: HashSet<Uuid> =
                    listed.iter().filter(|run| run.state.has_ended()).map(|run| run.run_id).collect();
                let counts = self.tally.count(&mut connection, |run| ended.contains(run)).await?;
                let of = format!("{}/{} runs, ", ended.len(), listed.len());
                self.progress.show(&of, &counts);
                if ended.len() == listed.len() {
                    return Ok(listed);
                }
                midway |= counts.ended() * 3 >= counts.nodes;
                if counts != before {
                    (moved, before) = (Instant::now(), counts);
                }
                if moved.elapsed() > STALLED_AFTER {
                    self.progress.say(&format!("nothing has moved for {} s", STALLED_AFTER.as_secs()));
                    return Ok(listed);
                }
                count_at = Instant::now() + (asked.elapsed() * COUNT_SHARE).max(COUNT_EVERY);
            }
            tokio::time::sleep(if killed { COUNT_EVERY.min(count_at - Instant::now()) } else { TICK }).await;
        }
    }

    /// What is expected of these runs, started in the order of the samples' inputs.
    fn expect(&mut self, samples: &[Sample], started: impl Iterator<Item = Uuid>) {
        let inputs = samples.iter().flat_map(|sample| sample.inputs.iter().map(move |input| (sample, input)));
        for (run, (sample, input)) in started.zip(inputs) {
            self.answers.extend(sample.answer.map(|answer| (run, answer(input))));
            self.outputs.extend(sample.output.map(|output| (run, output(input))));
        }
    }

    /// Answer whoever asks a person: first somebody whose answer does not count, then the one who was asked. Under one key each, so that nothing is said twice.
    async fn answer(&self, enqueuer: &Enqueuer, connection: &mut PgConnection) -> Result<()> {
        for (run, signal) in inspect::approvals(connection).await? {
            let Some(answer) = self.answers.get(&run) else { continue };
            for (by, says) in [("eve", &json!({"answer": true, "by": "eve"})), ("ann", answer)] {
                match enqueuer.signal(run, &signal, says).key(by).await {
                    Ok(_) | Err(longshore_enqueuer::Error::RunEnded { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// How many runs gave something else than they must.
    async fn other_outputs(&self, enqueuer: &Enqueuer) -> Result<usize> {
        let mut other = 0;
        for (run, expected) in &self.outputs {
            let given = enqueuer.get(*run).await?.and_then(|run| run.output);
            let given: Option<Value> = given.map(|output| output.parse()).transpose()?;
            if given.as_ref() != Some(expected) {
                other += 1;
                self.progress.say(&format!("run {run} gave {}, not {expected}", given.unwrap_or_default()));
            }
        }
        Ok(other)
    }

    /// Kill a worker that holds steps and start another; false when none holds any. Steps lost together run again one at a time in each worker,
    /// so of all that hold some the one that holds about ten is taken: enough to be hit, few enough not to be waited for.
    async fn kill_one(&mut self, connection: &mut PgConnection) -> Result<bool> {
        let workers = inspect::fleet(connection).await?;
        let pids: Vec<u32> = self.stage.fleet().workers().iter().map(WorkerProcess::pid).collect();
        let holders = workers.iter().filter(|worker| worker.held > 0 && pids.contains(&worker.pid.unsigned_abs()));
        let victim = holders.min_by_key(|worker| worker.held.abs_diff(HELD_BY_VICTIM));
        let Some(victim) = victim else {
            return Ok(false);
        };
        let Some(worker) = self.stage.fleet().kill(victim.pid.unsigned_abs()).await? else {
            return Ok(false);
        };
        let successor = self.stage.spawn()?.name().to_owned();
        self.killed += 1;
        self.progress.say(&format!(
            "killed {} (pid {}) while it held {} steps; {successor} takes its place",
            worker.name(),
            worker.pid(),
            victim.held
        ));
        Ok(true)
    }

    fn no_worker_ended(&mut self) -> Result<()> {
        match self.stage.fleet().take_ended()?.first() {
            Some((worker, status)) => bail!("{} ended with {status}:\n{}", worker.name(), worker.log_end()),
            None => Ok(()),
        }
    }

    async fn explain_stuck(&self, books: &Books) -> Result<()> {
        let mut connection = self.pool.acquire().await?;
        for run in books.stuck_runs().take(EXPLAINED) {
            if let Some(explanation) = explain::explain(&mut connection, run).await? {
                self.progress.say(&explanation.to_string());
            }
        }
        Ok(())
    }

    /// What the doctor says when upkeep has tidied up, or has had its time.
    async fn settled(&self) -> Result<doctor::Report> {
        let deadline = Instant::now() + SETTLED_WITHIN;
        let mut connection = self.pool.acquire().await?;
        loop {
            let report = doctor::examine(&mut connection).await?;
            let unsettled = report.check("unsettled").is_some_and(|check| check.found > 0);
            if (report.is_clean() && !unsettled) || Instant::now() > deadline {
                for check in report.broken() {
                    self.progress.say(&format!("BROKEN {}: {}", check.name, check.examples.join("; ")));
                }
                return Ok(report);
            }
            tokio::time::sleep(COUNT_EVERY).await;
        }
    }
}

async fn all_runs(connection: &mut PgConnection) -> Result<Vec<RunSummary>> {
    let filter = Filter { limit: inspect::MAX_LISTED, ..Filter::default() };
    Ok(inspect::list(connection, &filter).await?)
}
