//! What is measured: the workflows, their inputs, and the handler that does nothing but parse and answer.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The queue of all that a bench enqueues.
pub(super) const QUEUE: &str = "bench";
/// The handler that counts its calls.
pub(super) const COUNTED: &str = "bench-count";
/// The handler that says when it began.
pub(super) const TIMED: &str = "bench-time";

/// What to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Runs of `steps` steps one after another, all enqueued before.
    Chain {
        /// How many runs.
        runs: u64,
        /// Steps of each.
        steps: u32,
    },
    /// Runs of one step, `width` beside each other, and one that joins them, all enqueued before.
    Fan {
        /// How many runs.
        runs: u64,
        /// Steps beside each other.
        width: u32,
    },
    /// Runs of a single step. Measured until the first `runs` have ended.
    Single {
        /// How many runs.
        runs: u64,
        /// How many are enqueued before; at least `runs`.
        backlog: u64,
    },
    /// One run of `steps` steps at a time.
    Hop {
        /// How many runs, one after another.
        runs: u64,
        /// Steps of each.
        steps: u32,
    },
    /// Runs of one `foreach` whose body is one step, all enqueued before.
    Foreach {
        /// How many runs.
        runs: u64,
        /// Items of each.
        items: u32,
    },
    /// One run of one `while` whose body is one step at a time.
    While {
        /// How many runs, one after another.
        runs: u64,
        /// Passes of each.
        passes: u32,
    },
    /// Runs of a single step, started one at a time through the library while the fleet is idle.
    Start {
        /// How many runs.
        runs: u64,
    },
}

impl Scenario {
    /// Its name on the command line and in results.
    pub fn name(self) -> &'static str {
        match self {
            Self::Chain { .. } => "chain",
            Self::Fan { .. } => "fan",
            Self::Single { .. } => "single",
            Self::Hop { .. } => "hop",
            Self::Foreach { .. } => "foreach",
            Self::While { .. } => "while",
            Self::Start { .. } => "start",
        }
    }

    /// The runs that are measured.
    pub fn runs(self) -> u64 {
        match self {
            Self::Chain { runs, .. }
            | Self::Fan { runs, .. }
            | Self::Single { runs, .. }
            | Self::Hop { runs, .. }
            | Self::Foreach { runs, .. }
            | Self::While { runs, .. }
            | Self::Start { runs } => runs,
        }
    }

    /// The runs that are started.
    pub fn started(self) -> u64 {
        match self {
            Self::Single { runs, backlog } => backlog.max(runs),
            scenario => scenario.runs(),
        }
    }

    /// Calls of the handler in each run.
    pub fn steps_per_run(self) -> u64 {
        match self {
            Self::Chain { steps, .. } | Self::Hop { steps, .. } => steps.into(),
            Self::Fan { width, .. } => u64::from(width) + 2,
            Self::Foreach { items, .. } => items.into(),
            Self::While { passes, .. } => passes.into(),
            Self::Single { .. } | Self::Start { .. } => 1,
        }
    }

    /// Attempts of each run on record: a block has one of its own, and one that counts its iterations.
    pub fn attempts_per_run(self) -> u64 {
        self.steps_per_run()
            + match self {
                Self::Foreach { .. } => 2,
                Self::While { .. } => 1,
                _ => 0,
            }
    }

    /// Whether its runs are started one after another.
    pub fn one_by_one(self) -> bool {
        matches!(self, Self::Hop { .. } | Self::While { .. } | Self::Start { .. })
    }

    /// The workflow's name.
    pub(super) fn workflow(self) -> String {
        format!("bench-{}", self.name())
    }

    /// The workflow, as a definition that can be published.
    pub(super) fn definition(self) -> Value {
        if let Some(block) = self.block() {
            return json!({"name": self.workflow(), "queue": QUEUE, "nodes": [block]});
        }
        let steps = self.steps_per_run();
        let handler = if matches!(self, Self::Start { .. }) { TIMED } else { COUNTED };
        let node = |number: u64| json!({"id": format!("n{number}"), "type": "task", "handler": handler});
        let edge = |from: u64, to: u64| json!([format!("n{from}"), format!("n{to}")]);
        let last = steps - 1;
        let edges: Vec<Value> = match self {
            Self::Fan { .. } => (1..last).flat_map(|beside| [edge(0, beside), edge(beside, last)]).collect(),
            _ => (0..last).map(|from| edge(from, from + 1)).collect(),
        };
        json!({
            "name": self.workflow(),
            "queue": QUEUE,
            "nodes": (0..steps).map(node).collect::<Vec<_>>(),
            "edges": edges,
        })
    }
}

impl Scenario {
    /// The block that is all there is of its workflow.
    fn block(self) -> Option<Value> {
        let input = |n: &str| json!({"ok": true, "n": n});
        let body = |n: &str| json!({"nodes": [{"id": "n0", "type": "task", "handler": COUNTED, "input": input(n)}]});
        match self {
            Self::Foreach { items, .. } => Some(json!({
                "id": "each", "type": "foreach", "items": (0..items).collect::<Vec<_>>(), "body": body("{{ item }}"),
            })),
            Self::While { passes, .. } => Some(json!({
                "id": "again", "type": "while", "when": format!("input.n is none or input.n < {passes}"), "max_iterations": passes,
                "body": body("{{ frame.index + 1 }}"),
            })),
            _ => None,
        }
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The input of a run: about 200 bytes of JSON.
#[derive(Debug, Serialize)]
pub(super) struct RunInput {
    id: u64,
    kind: &'static str,
    pad: &'static str,
}

impl RunInput {
    pub(super) fn new(id: u64) -> Self {
        const PAD: &str = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
        Self { id, kind: "noop", pad: PAD }
    }
}

/// The input of a step: its run's, or what its predecessors gave. Every field is read, none has to be there.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct StepInput {
    id: Option<u64>,
    kind: Option<String>,
    pad: Option<String>,
    ok: Option<bool>,
    n: Option<u64>,
}

/// What every step gives: `{"ok": true, "n": 12345}`.
#[derive(Debug, Serialize)]
pub(super) struct StepOutput {
    ok: bool,
    n: u64,
}

impl StepOutput {
    /// The output for this input. It depends on it only so far that the input cannot be left unread.
    pub(super) fn of(input: &StepInput) -> Self {
        let read = input.id.is_some() || input.kind.is_some() || input.pad.is_some() || input.ok.is_some();
        Self { ok: true, n: if read { input.n.unwrap_or(12345) } else { 12345 } }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use longshore_core::definition::Definition;
    use longshore_core::graph::Graph;

    use super::*;

    #[test]
    fn every_scenario_has_a_workflow_of_as_many_nodes_as_it_says() {
        for scenario in [
            Scenario::Chain { runs: 1, steps: 10 },
            Scenario::Fan { runs: 1, width: 5 },
            Scenario::Single { runs: 1, backlog: 3 },
            Scenario::Hop { runs: 1, steps: 3 },
            Scenario::Start { runs: 1 },
            Scenario::Foreach { runs: 1, items: 7 },
            Scenario::While { runs: 1, passes: 7 },
        ] {
            let definition = Definition::from_json(&scenario.definition()).unwrap();
            let graph = Graph::compile(&definition).unwrap();
            let nodes = if scenario.block().is_some() { 2 } else { scenario.steps_per_run() };
            assert_eq!(graph.nodes().len() as u64, nodes, "{scenario}");
        }
    }

    #[test]
    fn the_input_has_200_bytes_and_the_output_is_the_same_for_any_step() {
        let input = serde_json::to_string(&RunInput::new(12345)).unwrap();
        assert!((190..=210).contains(&input.len()), "{}", input.len());
        for input in [input.as_str(), r#"{"ok":true,"n":12345}"#, r#"{"n1":{"ok":true,"n":1},"n2":{"ok":true,"n":2}}"#]
        {
            let output = StepOutput::of(&serde_json::from_str(input).unwrap());
            assert_eq!(serde_json::to_string(&output).unwrap(), r#"{"ok":true,"n":12345}"#);
        }
    }
}
