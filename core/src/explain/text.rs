//! An [`Explanation`] as lines for a person: first what is the case, then what each thing waits for, last what
//! is wrong.

use std::fmt::{self, Display, Formatter};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::Value;

use super::{Delay, Delayed, Explanation, Held, Join, MAX_AHEAD, Ready, Work};
use crate::duration;
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
                    RunState::Paused => write!(f, "paused, started {age} ago; its steps wait until it is resumed")?,
                    state => write!(f, "{state}, started {age} ago")?,
                }
                let (ready, delayed, held) = (self.ready_total, self.delayed_total, self.held_total);
                write!(f, "; {held} held, {ready} ready, {delayed} delayed, {} nodes pending", self.pending)?;
            }
        }
        for step in &self.held {
            write!(f, "\n  {}", Line(step, *now))?;
        }
        more(f, self.held.len(), self.held_total, "held")?;
        if self.finished_at.is_none() {
            for step in &self.ready {
                write!(f, "\n  {}", Line(step, *now))?;
            }
            more(f, self.ready.len(), self.ready_total, "ready")?;
            for step in &self.delayed {
                write!(f, "\n  {}", Line(step, *now))?;
            }
            more(f, self.delayed.len(), self.delayed_total, "delayed")?;
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
        if self.held_total > 0 {
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
        write!(f, "held: {}", what(&step.node, step.frame, step.work, step.attempt))?;
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
            what(&step.node, step.frame, step.work, step.attempt),
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
        let what = what(&step.node, step.frame, work, step.attempt);
        if step.due_at <= *now {
            let late = span(step.due_at, *now);
            write!(f, "delayed: {what} was due {late} ago: any live worker makes it ready")?;
        } else {
            write!(f, "delayed: {what} until {}", when(step.due_at, *now))?;
        }
        match &step.delay {
            Delay::RunAt => write!(f, ": the run was asked to start then"),
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

impl Display for Join {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self { node, in_edges, resolved, taken, need, .. } = self;
        match (node.as_str(), self.fired, need) {
            ("(end)", ..) => write!(f, "the end of the run has {resolved} of {in_edges} sinks and early joins")?,
            (_, true, _) => {
                write!(f, "join {node} fired early and counts on: {resolved} of {in_edges} in-edges resolved")?
            }
            (_, false, 0) => write!(f, "join {node} has {resolved} of {in_edges} in-edges resolved, {taken} taken")?,
            (_, false, _) => write!(f, "join {node} has {taken} of the {need} taken in-edges it needs")?,
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

fn what(node: &str, frame: i32, work: Work, attempt: i32) -> String {
    let place = if frame == 0 { String::new() } else { format!(" of frame {frame}") };
    match work {
        Work::Run => format!("{node}{place}, attempt {attempt},"),
        Work::Skip => format!("{node}{place}, to be skipped,"),
        Work::Whole => format!("{node}{place}, whose in-edges are all counted now,"),
        Work::Wake => format!("{node}{place}, attempt {attempt}, whose delay is over,"),
        Work::Advance => format!("{node}{place}, whose successors are next,"),
        Work::Unknown => format!("{node}{place}, of a kind this program does not know,"),
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
