//! `longshore run context`: what a run remembers, and how it came to be.

use anyhow::Result;
use longshore::exit::Exit;
use longshore_core::context::{self, Snapshot};
use longshore_core::inspect;
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::super::table::time;
use super::missing;
use crate::Global;

#[derive(Serialize)]
struct Shown {
    run_id: Uuid,
    snapshot: Option<Snapshot>,
    /// Lines that begin with `-` were there before the change, those with `+` are there after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    diff: Option<Vec<String>>,
}

pub(super) async fn show(global: &Global, run_id: Uuid, at: Option<i32>, diff: bool) -> Result<()> {
    let mut connection = global.connect().await?;
    if inspect::show(&mut connection, run_id).await?.is_none() {
        return Err(missing(run_id));
    }
    let mut found = context::snapshots(&mut connection, run_id, at, u32::from(diff)).await?.into_iter();
    let (snapshot, before) = (found.next(), found.next());
    if let Some(at) = at.filter(|at| snapshot.as_ref().is_none_or(|snapshot| snapshot.n != *at)) {
        return Err(Exit::NotFound.error(format!("the context of run {run_id} has no snapshot {at}")));
    }
    let lines = |snapshot: Option<&Snapshot>| -> Result<Vec<String>> {
        let Some(snapshot) = snapshot else { return Ok(Vec::new()) };
        let value: Value = serde_json::from_str(snapshot.context.get())?;
        Ok(serde_json::to_string_pretty(&value)?.lines().map(str::to_owned).collect())
    };
    let after = lines(snapshot.as_ref())?;
    let changed = diff.then(|| -> Result<_> { Ok(changes(&lines(before.as_ref())?, &after)) }).transpose()?;
    global.output.print(&Shown { run_id, snapshot, diff: changed }, |shown| {
        let Some(snapshot) = &shown.snapshot else {
            return "nothing has changed the context of this run".to_owned();
        };
        let by = match (&snapshot.node, snapshot.attempt) {
            (Some(node), Some(attempt)) => format!(" by {node}, attempt {attempt}"),
            _ => String::new(),
        };
        let head = format!("{} {} at {}{by}", snapshot.n, snapshot.reason, time(snapshot.at));
        format!("{head}\n{}", shown.diff.as_ref().unwrap_or(&after).join("\n"))
    })
}

/// What differs between the common beginning and the common end.
fn changes(before: &[String], after: &[String]) -> Vec<String> {
    let same = before.iter().zip(after).take_while(|(before, after)| before == after).count();
    let (before, after) = (before.get(same..).unwrap_or_default(), after.get(same..).unwrap_or_default());
    let end = before.iter().rev().zip(after.iter().rev()).take_while(|(before, after)| before == after).count();
    let shown = |lines: &[String], mark: char| -> Vec<String> {
        lines.iter().take(lines.len() - end).map(|line| format!("{mark}{line}")).collect()
    };
    [shown(before, '-'), shown(after, '+')].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_listed() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        let (before, after) = (lines("{\n  a\n  b\n}"), lines("{\n  a\n  c\n  d\n}"));
        assert_eq!(changes(&before, &after), ["-  b", "+  c", "+  d"]);
        assert_eq!(changes(&after, &after), Vec::<String>::new());
        assert_eq!(changes(&[], &before).len(), 4);
    }
}
