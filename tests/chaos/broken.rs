//! Engines with a rule left out, each by an edit of a function's text as it is installed (one of them lives in `longshore_core::broken`). The checker must
//! find every one of them out.

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use longshore_core::migrate::FUNCTIONS;
use sqlx::PgConnection;

/// What is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Broken {
    /// A completion takes effect though the baton is gone.
    Unfenced,
    /// Joins are read, then written: two at once count as one.
    UnlockedJoin,
    /// Successors are written in a second transaction.
    SecondTransaction,
    /// Whoever saw a signal takes it, though another has.
    SignalTwice,
    /// Nobody is told of a signal.
    Deaf,
}

/// The edits: what is there, and what takes its place.
const UNFENCED: &[(&str, &str)] = &[
    ("        if not found then\n            return;\n        end if;\n", ""),
    // the late result overwrites what the reaper wrote
    (
        "t (run_id, frame, node, attempt, outcome, enqueued, claimed, duration, output, error);",
        "t (run_id, frame, node, attempt, outcome, enqueued, claimed, duration, output, error)
        on conflict (shard, run_id, frame, node, attempt) do update set outcome = excluded.outcome, output = excluded.output, error = excluded.error;",
    ),
];

const UNLOCKED_JOIN: &[(&str, &str)] = &[
    (
        "select p_shard, t.run_id, t.frame, t.node, t.resolved, t.taken\n",
        "select p_shard, t.run_id, t.frame, t.node,
                t.resolved + coalesce((select o.resolved from step_joins o where o.shard = p_shard and o.run_id = t.run_id and o.frame = t.frame and o.node = t.node), 0),
                t.taken + coalesce((select o.taken from step_joins o where o.shard = p_shard and o.run_id = t.run_id and o.frame = t.frame and o.node = t.node), 0)\n",
    ),
    (
        "do update set resolved = j.resolved + excluded.resolved, taken = j.taken + excluded.taken",
        "do update set resolved = excluded.resolved, taken = excluded.taken",
    ),
];

const SIGNAL_TWICE: &[(&str, &str)] =
    &[("and s.signal_id = q.signal and s.taken_at is null;", "and s.signal_id = q.signal;")];

const DEAF: &[(&str, &str)] =
    &[("    if found then\n        insert into step_ready", "    if false then\n        insert into step_ready")];

impl Broken {
    /// Install it.
    pub(crate) async fn install(self, session: &mut PgConnection) -> Result<()> {
        let (name, edits) = match self {
            Self::Unfenced => ("cycle_2", UNFENCED),
            Self::UnlockedJoin => ("cycle_2", UNLOCKED_JOIN),
            Self::SecondTransaction => return Ok(()),
            Self::SignalTwice => ("cycle_2", SIGNAL_TWICE),
            Self::Deaf => ("signal", DEAF),
        };
        let function = FUNCTIONS.iter().find(|function| function.name == name).context("there is no such function")?;
        let mut text = function.text.to_owned();
        for (there, instead) in edits {
            ensure!(text.contains(there), "the text of {name} has changed: {there}");
            text = text.replace(there, instead);
        }
        sqlx::raw_sql(&text).execute(session).await?;
        Ok(())
    }

    /// Its name on the command line.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
