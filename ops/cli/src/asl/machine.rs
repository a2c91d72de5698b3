//! A state machine as it was written: its states, their fields, and where each leads. Fields that a state of its type
//! does not have are refused here, so that nothing in a machine goes unread.

use std::collections::BTreeMap;

use longshore_core::definition::block::MAX_DEPTH;
use serde_json::{Map, Value};

use super::Translation;

/// A machine, or the part of one that a Map or a Parallel holds.
pub(super) struct Machine<'m> {
    pub start: &'m str,
    pub states: BTreeMap<&'m str, State<'m>>,
    pub comment: Option<String>,
    /// How long the whole may take.
    pub timeout: Option<String>,
}

/// One state.
pub(super) struct State<'m> {
    pub name: &'m str,
    pub kind: Kind,
    /// Its texts are JSONata, not paths.
    pub jsonata: bool,
    fields: &'m Map<String, Value>,
    /// The machines that it holds.
    pub inner: Vec<Machine<'m>>,
}

/// What a state does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Task,
    Pass,
    Choice,
    Wait,
    Succeed,
    Fail,
    Parallel,
    Map,
}

impl Kind {
    fn read(word: &str) -> Option<Self> {
        Some(match word {
            "Task" => Self::Task,
            "Pass" => Self::Pass,
            "Choice" => Self::Choice,
            "Wait" => Self::Wait,
            "Succeed" => Self::Succeed,
            "Fail" => Self::Fail,
            "Parallel" => Self::Parallel,
            "Map" => Self::Map,
            _ => return None,
        })
    }

    /// The fields that are translated, besides those of all states: of both languages, of JSONPath, of JSONata.
    fn fields(self) -> [&'static [&'static str]; 3] {
        match self {
            Self::Task => [
                &["Resource", "Retry", "Catch", "TimeoutSeconds", "HeartbeatSeconds", "Next", "End"],
                &["InputPath", "Parameters", "ResultSelector", "ResultPath", "OutputPath"],
                &["Arguments", "Output"],
            ],
            Self::Pass => {
                [&["Next", "End"], &["InputPath", "Parameters", "Result", "ResultPath", "OutputPath"], &["Output"]]
            }
            Self::Choice => [&["Choices", "Default"], &["InputPath", "OutputPath"], &["Output"]],
            Self::Wait => [
                &["Seconds", "Timestamp", "Next", "End"],
                &["InputPath", "OutputPath", "SecondsPath", "TimestampPath"],
                &["Output"],
            ],
            Self::Succeed => [&[], &["InputPath", "OutputPath"], &["Output"]],
            Self::Fail => [&["Error", "Cause"], &["ErrorPath", "CausePath"], &[]],
            Self::Parallel => [
                &["Branches", "Retry", "Catch", "Next", "End"],
                &["InputPath", "Parameters", "ResultSelector", "ResultPath", "OutputPath"],
                &["Arguments", "Output"],
            ],
            Self::Map => [
                &[
                    "ItemProcessor",
                    "Iterator",
                    "ItemSelector",
                    "MaxConcurrency",
                    "ToleratedFailureCount",
                    "ToleratedFailurePercentage",
                    "Label",
                    "Retry",
                    "Catch",
                    "Next",
                    "End",
                ],
                &[
                    "InputPath",
                    "ItemsPath",
                    "Parameters",
                    "MaxConcurrencyPath",
                    "ToleratedFailureCountPath",
                    "ToleratedFailurePercentagePath",
                    "ResultSelector",
                    "ResultPath",
                    "OutputPath",
                ],
                &["Items", "Output"],
            ],
        }
    }
}

impl<'m> Machine<'m> {
    /// Reads a machine; `holder` is the state that holds it, if one does. None when there is nothing to go on with.
    pub(super) fn read(translation: &mut Translation, value: &'m Value, holder: &str, jsonata: bool) -> Option<Self> {
        let Some(map) = value.as_object() else {
            translation.refuse(holder, "a state machine is an object with StartAt and States");
            return None;
        };
        let own = if holder.is_empty() { "TimeoutSeconds" } else { "ProcessorConfig" };
        for field in map.keys().filter(|field| {
            !["StartAt", "States", "Comment", "QueryLanguage", "Version", own].contains(&field.as_str())
        }) {
            translation.refuse(holder, format!("{field} of a machine is not translated"));
        }
        let jsonata = is_jsonata(translation, map, holder, jsonata);
        let (Some(start), Some(written)) =
            (map.get("StartAt").and_then(Value::as_str), map.get("States").and_then(Value::as_object))
        else {
            translation.refuse(holder, "a state machine has a StartAt, a name, and States, an object");
            return None;
        };
        let mut states = BTreeMap::new();
        for (name, state) in written {
            states.extend(State::read(translation, name, state, jsonata).map(|state| (name.as_str(), state)));
        }
        if !written.contains_key(start) {
            translation.refuse(holder, format!("StartAt names \"{start}\", which is no state"));
            return None;
        }
        for state in states.values() {
            for to in state.targets().filter(|to| !written.contains_key(*to)) {
                translation.refuse(state.name, format!("it leads to \"{to}\", which is no state of this machine"));
            }
        }
        let seconds = map.get("TimeoutSeconds").filter(|_| holder.is_empty());
        let timeout = seconds.and_then(|seconds| {
            let text = seconds.as_u64().filter(|seconds| *seconds > 0).map(|seconds| format!("{seconds}s"));
            if text.is_none() {
                translation.refuse("", "TimeoutSeconds is no whole number of at least 1");
            }
            text
        });
        let comment = map.get("Comment").and_then(Value::as_str).map(str::to_owned);
        translation.refusals.is_empty().then_some(Self { start, states, comment, timeout })
    }

    /// The names of all states, those of machines within it included.
    pub(super) fn names(&self, names: &mut Vec<&'m str>) {
        for state in self.states.values() {
            names.push(state.name);
            state.inner.iter().for_each(|machine| machine.names(names));
        }
    }
}

impl<'m> State<'m> {
    fn read(translation: &mut Translation, name: &'m str, value: &'m Value, jsonata: bool) -> Option<Self> {
        let Some(fields) = value.as_object() else {
            translation.refuse(name, "a state is an object");
            return None;
        };
        let Some(kind) = fields.get("Type").and_then(Value::as_str).and_then(Kind::read) else {
            translation.refuse(name, "its Type is none of Task, Pass, Choice, Wait, Succeed, Fail, Parallel and Map");
            return None;
        };
        let jsonata = is_jsonata(translation, fields, name, jsonata);
        let [both, path, query] = kind.fields();
        let known = |field: &str| {
            ["Type", "Comment", "QueryLanguage"].contains(&field)
                || both.contains(&field)
                || if jsonata { query.contains(&field) } else { path.contains(&field) }
        };
        for field in fields.keys().filter(|field| !known(field)) {
            let why = match field.as_str() {
                "Assign" => "a run has one context, and each branch and item variables of its own",
                "ItemReader" | "ItemBatcher" | "ResultWriter" => {
                    "items come from the document and results go back to it"
                }
                "TimeoutSecondsPath" | "HeartbeatSecondsPath" => "a timeout here is the same for every run",
                "Credentials" => "a worker has its own",
                _ if path.contains(&field.as_str()) => "it belongs to JSONPath, and the state is in JSONata",
                _ if query.contains(&field.as_str()) => "it belongs to JSONata, and the state is in JSONPath",
                _ => "a state of its type has no such field",
            };
            translation.refuse(name, format!("{field} is not translated: {why}"));
        }
        let mut state = Self { name, kind, jsonata, fields, inner: Vec::new() };
        state.check_end(translation);
        translation.depth += 1;
        if translation.depth > MAX_DEPTH {
            translation.refuse(name, format!("it is nested more than {MAX_DEPTH} levels deep"));
        } else {
            state.read_inner(translation);
        }
        translation.depth -= 1;
        Some(state)
    }

    fn check_end(&self, translation: &mut Translation) {
        let (next, end) = (self.fields.get("Next"), self.fields.get("End"));
        let leads = match self.kind {
            Kind::Choice | Kind::Succeed | Kind::Fail => return,
            _ => usize::from(next.is_some()) + usize::from(end == Some(&Value::Bool(true))),
        };
        if leads != 1 || next.is_some_and(|next| !next.is_string()) {
            translation.refuse(self.name, "it needs either Next, a name, or \"End\": true");
        }
    }

    fn read_inner(&mut self, translation: &mut Translation) {
        match self.kind {
            Kind::Parallel => match self.fields.get("Branches").and_then(Value::as_array) {
                Some(branches) if !branches.is_empty() => {
                    let read = branches
                        .iter()
                        .filter_map(|branch| Machine::read(translation, branch, self.name, self.jsonata));
                    self.inner = read.collect();
                }
                _ => translation.refuse(self.name, "Branches is no list of machines"),
            },
            Kind::Map => match (self.fields.get("ItemProcessor"), self.fields.get("Iterator")) {
                (Some(processor), None) | (None, Some(processor)) => {
                    self.inner = Machine::read(translation, processor, self.name, self.jsonata).into_iter().collect();
                }
                _ => translation.refuse(self.name, "it needs an ItemProcessor (once called Iterator)"),
            },
            _ => {}
        }
    }

    /// A field; none when it is not given.
    pub(super) fn get(&self, field: &str) -> Option<&'m Value> {
        self.fields.get(field)
    }

    /// The field that makes what it works with.
    pub(super) fn payload_field(&self) -> &'static str {
        if self.jsonata { "Arguments" } else { "Parameters" }
    }

    /// The items of a list of objects.
    pub(super) fn list(&self, field: &str) -> impl Iterator<Item = &'m Value> {
        self.fields.get(field).and_then(Value::as_array).into_iter().flatten()
    }

    /// Where it leads when it is done; none at an end.
    pub(super) fn next(&self) -> Option<&'m str> {
        self.fields.get("Next").and_then(Value::as_str)
    }

    /// All states it may lead to.
    pub(super) fn targets(&self) -> impl Iterator<Item = &'m str> {
        let of_list = ["Choices", "Catch"].into_iter().flat_map(|field| self.list(field));
        let listed = of_list.filter_map(|item| item.get("Next").and_then(Value::as_str));
        let own = ["Next", "Default"].into_iter().filter_map(|field| self.fields.get(field).and_then(Value::as_str));
        own.chain(listed)
    }
}

fn is_jsonata(translation: &mut Translation, fields: &Map<String, Value>, state: &str, outer: bool) -> bool {
    match fields.get("QueryLanguage").map(Value::as_str) {
        None => outer,
        Some(Some("JSONata")) => true,
        Some(Some("JSONPath")) => false,
        Some(_) => {
            translation.refuse(state, "QueryLanguage is neither JSONPath nor JSONata");
            outer
        }
    }
}
