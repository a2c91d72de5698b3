//! An [`Explanation`] as lines for a person: first what is the case, then what each thing waits for, last what
//! is wrong.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{AwaitedRun, Delay, Delayed, Explanation, Held, Join, MAX_AHEAD, Ready, Waiting, Work};
use crate::duration;
use crate::inspect::place;
use crate::state::RunState;

impl Display for Explanation {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { run_id, workflow, version, now, .. } = self;
        write!(f, "run {run_id} ({workflow} version {version}): ")?;
        match self.finished_at {
            Some(at) => self.ended(f, at)?,
            None if self.stuck => {
                write!(f, "STUCK: it is live and nothing holds it, which breaks a promise")?;
                if !self.lost.is_empty() {
                    write!(f, "\n  it broke off before {}", self.lost.join(", "))?;
                }
            }
            None => {
                let age = span(self.created_at, *now);
                match self.state {
                    RunState::Paused => {
                        let since = span(self.paused_at.unwrap_or(*now), *now);
                        write!(f, "paused {since} ago, started {age} ago; its steps wait until it is resumed")?;
                        match self.paused_because.as_ref().map(|why| (why, why.get("reason").and_then(Value::as_str))) {
                            Some((_, Some(reason))) => write!(f, " ({reason})")?,
                            Some((error, None)) => write!(f, " ({})", Error(error))?,
                            None => {}
                        }
                    }
                    state => write!(f, "{state}, started {age} ago")?,
                }
                let (ready, delayed, held) = (self.ready_total, self.delayed_total, self.held_total);
                write!(f, "; {held} held, {ready} ready, {delayed} delayed, ")?;
                if self.waiting_total > 0 {
                    write!(f, "{} waiting, ", self.waiting_total)?;
                }
                write!(f, "{} nodes pending", self.pending)?;
            }
        }
        for step in &self.held {
            write!(f, "\n  {}", Line(step, *now))?;
        }
        more(f, self.held.len(), self.held_total, "held")?;
        if self.finished_at.is_none() || self.cleans_up {
            for step in &self.ready {
                write!(f, "\n  {}", Line(step, *now))?;
            }
            more(f, self.ready.len(), self.ready_total, "ready")?;
            for step in &self.delayed {
                write!(f, "\n  {}", Line(step, *now))?;
            }
            more(f, self.delayed.len(), self.delayed_total, "delayed")?;
            for step in &self.waiting {
                write!(f, "\n  {}", Line(step, *now))?;
            }
            more(f, self.waiting.len(), self.waiting_total, "waiting")?;
        } else if self.ready_total + self.delayed_total > 0 {
            let left = self.ready_total + self.delayed_total;
            write!(f, "\n  still queued and dropped when they come up: {left}")?;
        }
        for join in &self.joins {
            write!(f, "\n  {join}")?;
        }
        more(f, self.joins.len(), i64::try_from(self.joins_total).unwrap_or(i64::MAX), "joins")?;
        for problem in &self.problems {
            write!(f, "\n  problem: {problem}")?;
        }
        Ok(())
    }
}

impl Explanation {
    fn ended(&self, f: &mut Formatter<'_>, at: DateTime<Utc>) -> fmt::Result {
        let began = self.run_at.map_or(self.created_at, |run_at| run_at.max(self.created_at));
        write!(f, "{} {} ago, after {}", self.state, span(at, self.now), span(began, at))?;
        if let Some(error) = &self.error {
            write!(f, ": {}", Error(error))?;
        }
        if self.cleans_up {
            write!(f, "\n  the `finally` of what it was in goes on")?;
        } else if self.held_total > 0 {
            write!(f, "\n  steps that were out have been told to stop; what they give is dropped")?;
        }
        Ok(())
    }
}

/// A step job and the time it is looked at.
struct Line<'a, T>(&'a T, DateTime<Utc>);

impl Display for Line<'_, Held> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(step, now) = self;
        write!(f, "held: {}", what(&place(&step.node, step.frame, step.within.as_deref()), step.work, step.attempt))?;
        if let Some(claimed_at) = step.claimed_at {
            write!(f, " for {}", span(claimed_at, *now))?;
        }
        match (&step.worker, &step.host, step.pid) {
            (Some(worker), Some(host), Some(pid)) => write!(f, " by worker {worker} (host {host}, pid {pid})")?,
            _ => write!(f, " by a worker that is not registered any more")?,
        }
        write!(f, ", lane {}", step.lane_id)?;
        if step.overdue {
            let late = span(step.lease_until, *now);
            write!(f, "; its lease is overdue by {late}: any live worker will reclaim it")
        } else {
            write!(f, "; its lease stands until {}", when(step.lease_until, *now))?;
            match step.heartbeat_at {
                Some(at) if !step.worker_live => {
                    write!(f, ", but the worker was last heard of {} ago", span(at, *now))
                }
                _ => Ok(()),
            }
        }
    }
}

impl Display for Line<'_, Ready> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(step, now) = self;
        write!(
            f,
            "ready: {} in queue {}, priority {}, for {}",
            what(&place(&step.node, step.frame, step.within.as_deref()), step.work, step.attempt),
            step.queue,
            step.priority,
            span(step.since, *now),
        )?;
        match step.ahead {
            0 => write!(f, ", next in line")?,
            MAX_AHEAD => write!(f, ", {MAX_AHEAD} or more step jobs ahead of it")?,
            1 => write!(f, ", 1 step job ahead of it")?,
            ahead => write!(f, ", {ahead} step jobs ahead of it")?,
        }
        if step.alone {
            write!(f, "; it was lost before, so it must be alone in its lane")?;
        }
        match step.workers {
            0 => Ok(()),
            1 => write!(f, "; 1 live worker can take it"),
            workers => write!(f, "; {workers} live workers can take it"),
        }
    }
}

impl Display for Line<'_, Delayed> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(step, now) = self;
        let work = if step.work == Work::Wake { Work::Run } else { step.work };
        let what = what(&place(&step.node, step.frame, step.within.as_deref()), work, step.attempt);
        if step.delay == Delay::Paused {
            write!(f, "delayed: {what}")?;
        } else if step.due_at <= *now {
            let late = span(step.due_at, *now);
            write!(f, "delayed: {what} was due {late} ago: any live worker makes it ready")?;
        } else {
            write!(f, "delayed: {what} until {}", when(step.due_at, *now))?;
        }
        match &step.delay {
            Delay::RunAt => write!(f, ": the run was asked to start then"),
            Delay::Timeout => write!(f, ": the block fails if it has not ended by then"),
            Delay::DelayNode => write!(f, ": a delay node"),
            Delay::Paused => write!(f, ": the run is paused"),
            Delay::PutBack => {
                write!(f, ": put back by a worker that does not know")?;
                match &step.handler {
                    Some(handler) => write!(f, " handler {handler}"),
                    None => write!(f, " its handler"),
                }
            }
            Delay::Backoff { after_attempt, failed_at, error } => {
                write!(f, ": backoff after attempt {after_attempt} failed {} ago", span(*failed_at, *now))?;
                error.iter().try_for_each(|error| write!(f, " with {}", Error(error)))
            }
        }
    }
}

impl Display for Line<'_, Waiting> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self(step, now) = self;
        let what = what(&place(&step.node, step.frame, step.within.as_deref()), Work::Run, step.attempt);
        write!(f, "waiting: {what} for {} ", span(step.since, *now))?;
        match &step.child {
            Some(AwaitedRun { run_id, workflow: Some(workflow), state: Some(state) }) => {
                write!(f, "for run {run_id} of {workflow}, which is {state}")?;
            }
            Some(AwaitedRun { run_id, .. }) => write!(f, "for run {run_id}, which is gone")?,
            None if step.signals.is_empty() => f.write_str("for the run's context to be as it asks")?,
            None => write!(f, "for the signal {}", step.signals.join(" or "))?,
        }
        match step.until {
            Some(until) if until <= *now => write!(f, "; its time was over {} ago", span(until, *now))?,
            Some(until) => write!(f, "; its time is over at {}", when(until, *now))?,
            None => {}
        }
        match step.untaken {
            0 => Ok(()),
            1 => write!(f, "; 1 signal of that name was not for it"),
            untaken => write!(f, "; {untaken} signals of that name were not for it"),
        }
    }
}

impl Display for Join {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { in_edges, resolved, taken, need, .. } = self;
        let node = place(&self.node, self.frame, self.within.as_deref());
        let within = self.within.as_deref().unwrap_or("a block");
        match (self.node.as_str(), self.fired, need) {
            ("(failed iterations)", ..) => {
                return write!(f, "{resolved} of {in_edges} iterations of {within} failed, it fails with {need}");
            }
            ("(iterations)", ..) => write!(f, "{resolved} of {in_edges} iterations of {within} have ended")?,
            ("(end)", ..) if self.frame > 0 => {
                write!(f, "the end of {within} has {resolved} of {in_edges} sinks and early joins")?
            }
            ("(end)", ..) => write!(f, "the end of the run has {resolved} of {in_edges} sinks and early joins")?,
            (_, true, _) => {
                write!(f, "join {node} fired early and counts on: {resolved} of {in_edges} in-edges resolved")?
            }
            (_, false, 0) => write!(f, "join {node} has {resolved} of {in_edges} in-edges resolved, {taken} taken")?,
            (_, false, _) => write!(f, "join {node} has {taken} of the {need} taken in-edges it needs")?,
        }
        if self.waits_for.is_empty() && self.node == "(iterations)" {
            return write!(f, "; the next are about to begin");
        }
        if self.waits_for.is_empty() {
            return write!(f, "; its predecessors have ended and are about to be counted");
        }
        write!(f, "; waits for ")?;
        for (i, predecessor) in self.waits_for.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{} ({})", predecessor.node, predecessor.state)?;
        }
        match self.waits_for_total.saturating_sub(self.waits_for.len()) {
            0 => Ok(()),
            rest => write!(f, " and {rest} more"),
        }
    }
}

/// An error's place, name and message in one line.
struct Error<'a>(&'a Value);

impl Display for Error<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let text = |key: &str| self.0.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        if let Some(node) = text("node") {
            write!(f, "node {node}")?;
            if let Some(attempt) = self.0.get("attempt").and_then(Value::as_i64) {
                write!(f, ", attempt {attempt}")?;
            }
            write!(f, ": ")?;
        }
        match (text("name"), text("message")) {
            (Some(name), Some(message)) => write!(f, "{name}: {message}"),
            (Some(one), None) | (None, Some(one)) => write!(f, "{one}"),
            (None, None) => write!(f, "{}", self.0),
        }
    }
}

fn what(place: &str, work: Work, attempt: i32) -> String {
    match work {
        Work::Run => format!("{place}, attempt {attempt},"),
        Work::Skip => format!("{place}, to be skipped,"),
        Work::Whole => format!("{place}, whose in-edges are all counted now,"),
        Work::Wake => format!("{place}, attempt {attempt}, whose delay is over,"),
        Work::Advance if place.ends_with(')') => format!("{place},"),
        Work::Advance => format!("{place}, whose successors are next,"),
        Work::Unknown => format!("{place}, of a kind this program does not know,"),
    }
}

fn more(f: &mut Formatter<'_>, shown: usize, total: i64, what: &str) -> fmt::Result {
    match total.saturating_sub(i64::try_from(shown).unwrap_or(i64::MAX)) {
        rest if rest > 0 => write!(f, "\n  and {rest} more {what}"),
        _ => Ok(()),
    }
}

/// A time and how far off it is.
fn when(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    format!("{} (in {})", at.to_rfc3339_opts(SecondsFormat::Secs, true), span(now, at))
}

/// The time from one to the other: to the second from a second on, else to the millisecond; 0 if it is negative.
fn span(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    let exact = (to - from).to_std().unwrap_or(Duration::ZERO);
    let rounded = if exact.as_secs() > 0 {
        Duration::from_secs(exact.as_secs())
    } else {
        Duration::from_millis(exact.subsec_millis().into())
    };
    duration::format(rounded)
}
