//! Test files: cases written beside a definition, and whether what a run came to is what its case expects.

mod parse;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    time::Duration,
};

use longshore_core::{
    definition::{Definition, Problem},
    graph::{Graph, NodeKind},
    state::RunState,
};
use longshore_worker::testing::{Answer, Case, Compare, HANDLER, Tested, difference};
use serde_json::{Value, json};

/// The end of the name of a test file.
pub const SUFFIX: &str = ".test.json";

/// A file of cases.
#[derive(Clone, Debug, PartialEq)]
pub struct TestFile {
    /// The definition, beside the file; without it the one of the file's name without `.test`.
    pub definition: Option<PathBuf>,
    /// Definitions of child runs that run for real, beside the file.
    pub workflows: Vec<PathBuf>,
    /// What the file itself has mocks for; they are among those of the cases.
    pub usual: BTreeSet<String>,
    /// The cases.
    pub cases: Vec<TestCase>,
}

/// One case.
#[derive(Clone, Debug, PartialEq)]
pub struct TestCase {
    /// What it shows.
    pub name: String,
    /// The run's input.
    pub input: Value,
    /// Answers by what they stand for: those of the file, or the case's own.
    pub mocks: BTreeMap<String, Vec<Answer>>,
    /// Signals to the run.
    pub signals: Vec<ToSend>,
    /// How long it may really take.
    pub bound: Option<Duration>,
    /// What the run must come to.
    pub expect: Expect,
}

/// A signal.
#[derive(Clone, Debug, PartialEq)]
pub struct ToSend {
    /// Its name.
    pub name: String,
    /// Its payload.
    pub payload: Value,
    /// The node after whose end it is sent; at the beginning without it.
    pub after: Option<String>,
}

/// What a run must come to; what is not given may be anything.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expect {
    /// How it ends: `failed` if an error is expected and nothing is said, else `completed`.
    pub state: Option<RunState>,
    /// Its output: members of objects that are not named may be there.
    pub output: Option<Value>,
    /// Its error, in the same way.
    pub error: Option<Value>,
    /// Nodes that complete, in this order; others may come between them.
    pub path: Vec<String>,
    /// Nodes that are skipped and never run.
    pub skipped: Vec<String>,
    /// How often nodes are tried.
    pub attempts: BTreeMap<String, u32>,
    /// Its context at the end, in the way of the output.
    pub context: Option<Value>,
}

impl TestFile {
    /// Reads a file's JSON; all problems at once.
    ///
    /// # Errors
    /// What is wrong, each with its place.
    pub fn from_json(value: &Value) -> Result<Self, Vec<Problem>> {
        parse::file(value)
    }

    /// Where its definition is, for a file at this path.
    pub fn definition_at(&self, file: &Path) -> PathBuf {
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let usual = || PathBuf::from(format!("{}.json", name.strip_suffix(SUFFIX).unwrap_or(name)));
        beside(file, &self.definition.clone().unwrap_or_else(usual))
    }

    /// What its cases name that is not in the definitions; the first is the one that is tested.
    pub fn check(&self, definitions: &[Definition]) -> Vec<Problem> {
        let graphs: Vec<Graph> = definitions.iter().filter_map(|it| Graph::compile(it).ok()).collect();
        let Some(tested) = graphs.first() else { return Vec::new() };
        let by_name: HashMap<&str, &Graph> = graphs.iter().map(|graph| (&**graph.name(), graph)).collect();
        let mut problems = Vec::new();
        let mut wrong = |path: String, message: String, fix: &str| {
            let problem = Problem { path, message, fix: fix.to_owned() };
            if !problems.contains(&problem) {
                problems.push(problem);
            }
        };
        for (at, case) in self.cases.iter().enumerate() {
            for what in case.mocks.keys() {
                let found = match (what.strip_prefix(HANDLER), what.split_once('/')) {
                    (Some(handler), _) => {
                        let is_of = |graph: &&Graph| {
                            graph.nodes().iter().any(|node| node.handler().is_some_and(|it| &**it == handler))
                        };
                        graphs.iter().find(is_of).map(|_| ()).ok_or(format!("no task has the handler `{handler}`"))
                    }
                    (None, Some((workflow, node))) => match by_name.get(workflow) {
                        Some(graph) => answered(graph, node),
                        None => Err(format!("`{workflow}` is neither the definition nor one of `workflows`")),
                    },
                    (None, None) => answered(tested, what),
                };
                if let Err(message) = found {
                    let fix = "name a task or a subflow, `<workflow>/<node>`, or `handler:<name>`";
                    let place = if self.usual.contains(what) { String::new() } else { format!("cases[{at}].") };
                    wrong(format!("{place}mocks.{what}"), message, fix);
                }
            }
            for graph in &graphs {
                let calls = graph.nodes().iter().filter_map(|node| Some((&node.id, &node.subflow()?.workflow)));
                for (node, child) in calls.filter(|(_, child)| !by_name.contains_key(&***child)) {
                    let plain = graph.name() == tested.name() && case.mocks.contains_key(&**node);
                    if !plain && !case.mocks.contains_key(&format!("{}/{node}", graph.name())) {
                        let message = format!("`{node}` starts `{child}`, which is not known here");
                        wrong(
                            format!("cases[{at}].mocks"),
                            message,
                            "give it a mock, or its definition in `workflows`",
                        );
                    }
                }
            }
            let signals = case.signals.iter().enumerate();
            let after = signals.filter_map(|(n, signal)| Some((format!("signals[{n}].after"), signal.after.as_ref()?)));
            let expect = &case.expect;
            let path = expect.path.iter().map(|node| ("expect.path".to_owned(), node));
            let skipped = expect.skipped.iter().map(|node| ("expect.skipped".to_owned(), node));
            let attempts = expect.attempts.keys().map(|node| ("expect.attempts".to_owned(), node));
            for (place, node) in after.chain(path).chain(skipped).chain(attempts) {
                if tested.number(node).is_none() {
                    let message = format!("workflow `{}` has no node `{node}`", tested.name());
                    wrong(format!("cases[{at}].{place}"), message, "correct the id");
                }
            }
        }
        problems
    }
}

/// Whether a node is one that a mock can answer.
fn answered(graph: &Graph, node: &str) -> Result<(), String> {
    match graph.number(node).and_then(|number| graph.node(number)).map(|node| &node.kind) {
        Some(NodeKind::Task { .. } | NodeKind::Subflow(_)) => Ok(()),
        Some(kind) => Err(format!("`{node}` is a {}, which the engine does itself", kind.word())),
        None => Err(format!("workflow `{}` has no node `{node}`", graph.name())),
    }
}

/// A path that a file names, from the file's own folder.
pub fn beside(file: &Path, path: &Path) -> PathBuf {
    file.parent().unwrap_or(Path::new("")).join(path)
}

impl TestCase {
    /// The run that is to be made.
    pub fn case(&self, workflow: &str) -> Case {
        let mut case = Case::new(workflow, &self.input);
        for (what, answers) in &self.mocks {
            case = case.mock(what, answers.clone());
        }
        for signal in &self.signals {
            case = match &signal.after {
                Some(node) => case.signal_after(node, &signal.name, &signal.payload),
                None => case.signal(&signal.name, &signal.payload),
            };
        }
        match self.bound {
            Some(bound) => case.bound(bound),
            None => case,
        }
    }

    /// What is not as expected; nothing if the case passes.
    pub fn failures(&self, tested: &Tested) -> Vec<String> {
        let expect = &self.expect;
        let mut failures = tested.complaints.clone();
        let usual = if expect.error.is_some() { RunState::Failed } else { RunState::Completed };
        let state = expect.state.unwrap_or(usual);
        if tested.state != state {
            let why = tested.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
            failures.push(format!("state: expected {state}, came {}{why}", tested.state));
        }
        let error = tested.error.as_ref().map(|error| error.to_payload().value());
        let named = [
            ("output", &expect.output, &tested.output),
            ("error", &expect.error, &error),
            ("context", &expect.context, &tested.context),
        ];
        for (what, expected, came) in named {
            if let Some(expected) = expected {
                let came = came.as_ref().unwrap_or(&Value::Null);
                failures.extend(difference(what, expected, came, Compare::Named).map(|it| it.to_string()));
            }
        }
        let mut came = tested.path.iter();
        if let Some(missing) = expect.path.iter().find(|node| !came.any(|other| other == *node)) {
            let (expected, came) = (json!(expect.path), json!(tested.path));
            failures.push(format!("path: expected {expected}, came {came}: `{missing}` is not in it, or not there"));
        }
        let skipped = tested.skipped();
        for node in expect.skipped.iter().filter(|node| !skipped.contains(&node.as_str())) {
            failures.push(format!("skipped: expected `{node}`, came {}", json!(skipped)));
        }
        for (node, expected) in &expect.attempts {
            let came = tested.attempts(node);
            if usize::try_from(*expected).ok() != Some(came) {
                failures.push(format!("attempts.{node}: expected {expected}, came {came}"));
            }
        }
        failures
    }
}

#[cfg(test)]
mod tests;
