//! The JSON of a test file; everything that is wrong with it is named at once, with its place.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use longshore_core::{definition::Problem, duration, state::RunState};
use longshore_worker::testing::Answer;
use serde_json::{Map, Value};

use super::{Expect, TestCase, TestFile, ToSend};

type Object = Map<String, Value>;
type Mocks = BTreeMap<String, Vec<Answer>>;

/// The fields of an answer, which tell it from a plain output.
const ANSWER: [&str; 3] = ["output", "error", "input"];

pub(super) fn file(value: &Value) -> Result<TestFile, Vec<Problem>> {
    let mut reading = Reading::default();
    let file = reading.file(value);
    match (file, reading.problems) {
        (Some(file), problems) if problems.is_empty() => Ok(file),
        (_, problems) => Err(problems),
    }
}

#[derive(Default)]
struct Reading {
    problems: Vec<Problem>,
}

impl Reading {
    fn wrong(&mut self, path: impl Into<String>, message: impl Into<String>, fix: impl Into<String>) {
        self.problems.push(Problem { path: path.into(), message: message.into(), fix: fix.into() });
    }

    fn file(&mut self, value: &Value) -> Option<TestFile> {
        let map = self.object(value, "", &["definition", "workflows", "mocks", "cases"])?;
        let mocks = self.mocks(map, "mocks");
        let list: &[Value] = match map.get("cases") {
            Some(Value::Array(cases)) if !cases.is_empty() => cases,
            _ => {
                self.wrong("cases", "it is no list, or has nothing in it", "write a list of cases");
                &[]
            }
        };
        let cases: Vec<TestCase> =
            list.iter().enumerate().filter_map(|(at, case)| self.case(case, &format!("cases[{at}]"), &mocks)).collect();
        let mut names = HashSet::new();
        for case in &cases {
            if !names.insert(&case.name) {
                self.wrong("cases", format!("several are named `{}`", case.name), "give each a name of its own");
            }
        }
        Some(TestFile {
            definition: self.text(map, "definition", "").map(PathBuf::from),
            workflows: self.texts(map, "workflows", "").into_iter().map(PathBuf::from).collect(),
            usual: mocks.into_keys().collect(),
            cases,
        })
    }

    fn case(&mut self, value: &Value, path: &str, usual: &Mocks) -> Option<TestCase> {
        let map = self.object(value, path, &["name", "input", "mocks", "signals", "bound", "expect"])?;
        let mut mocks = usual.clone();
        mocks.extend(self.mocks(map, &format!("{path}.mocks")));
        let name = self.needed_text(map, "name", path);
        let input = map.get("input").cloned().unwrap_or_else(|| Value::Object(Map::new()));
        let signals = self.list(map, "signals", path);
        let signals = signals.iter().enumerate();
        let signals =
            signals.filter_map(|(at, signal)| self.signal(signal, &format!("{path}.signals[{at}]"))).collect();
        let bound = self.bound(map, path);
        let expect = match map.get("expect") {
            Some(expect) => self.expect(expect, &format!("{path}.expect"))?,
            None => Expect::default(),
        };
        Some(TestCase { name, input, mocks, signals, bound, expect })
    }

    fn signal(&mut self, value: &Value, path: &str) -> Option<ToSend> {
        let map = self.object(value, path, &["name", "payload", "after"])?;
        Some(ToSend {
            name: self.needed_text(map, "name", path),
            payload: map.get("payload").cloned().unwrap_or_default(),
            after: self.text(map, "after", path),
        })
    }

    fn bound(&mut self, map: &Object, path: &str) -> Option<Duration> {
        let text = self.text(map, "bound", path)?;
        let bound = duration::parse(&text);
        if let Err(error) = &bound {
            self.wrong(format!("{path}.bound"), error.to_string(), "such as \"30s\" or \"2m\"");
        }
        bound.ok()
    }

    fn expect(&mut self, value: &Value, path: &str) -> Option<Expect> {
        let known = ["state", "output", "error", "path", "skipped", "attempts", "context"];
        let map = self.object(value, path, &known)?;
        let state = self.text(map, "state", path).and_then(|word| match word.parse() {
            Ok(state @ (RunState::Completed | RunState::Failed | RunState::Canceled)) => Some(state),
            _ => {
                let fix = "write `completed`, `failed` or `canceled`";
                self.wrong(format!("{path}.state"), format!("`{word}` is no way in which a run ends"), fix);
                None
            }
        });
        let mut attempts = BTreeMap::new();
        for (node, count) in self.members(map, "attempts", path) {
            match count.as_u64().and_then(|count| u32::try_from(count).ok()) {
                Some(count) => drop(attempts.insert(node.clone(), count)),
                None => self.wrong(format!("{path}.attempts.{node}"), "it is no whole number", "write such as 2"),
            }
        }
        Some(Expect {
            state,
            output: map.get("output").cloned(),
            error: map.get("error").cloned(),
            path: self.texts(map, "path", path),
            skipped: self.texts(map, "skipped", path),
            attempts,
            context: map.get("context").cloned(),
        })
    }

    fn mocks(&mut self, map: &Object, path: &str) -> Mocks {
        let around = path.strip_suffix("mocks").unwrap_or_default().trim_end_matches('.');
        let mut mocks = Mocks::new();
        for (what, value) in self.members(map, "mocks", around) {
            let path = format!("{path}.{what}");
            let answers = match value {
                Value::Array(list) if list.is_empty() => {
                    let fix = "write an answer for each call, or {\"output\": []} for an output that is an empty list";
                    self.wrong(path, "it has no answer", fix);
                    continue;
                }
                Value::Array(list) => {
                    let list = list.iter().enumerate();
                    list.filter_map(|(at, answer)| self.answer(answer, &format!("{path}[{at}]"))).collect()
                }
                one => self.answer(one, &path).into_iter().collect(),
            };
            mocks.insert(what.clone(), answers);
        }
        mocks
    }

    fn answer(&mut self, value: &Value, path: &str) -> Option<Answer> {
        let Some(map) = value.as_object().filter(|map| ANSWER.iter().any(|field| map.contains_key(*field))) else {
            return Some(Answer::output(value.clone()));
        };
        if let Some(other) = map.keys().find(|name| !ANSWER.contains(&name.as_str())) {
            let message = format!("it has `{other}` beside the fields of an answer");
            self.wrong(path, message, "write {\"output\": …} around it if all of it is the output, else remove it");
            return None;
        }
        let answer = match (map.get("output"), map.get("error")) {
            (Some(_), Some(_)) => {
                self.wrong(path, "it has an output and an error", "remove one of them");
                return None;
            }
            (_, Some(error)) => self.error(error, &format!("{path}.error"))?,
            (output, None) => Answer::output(output.cloned().unwrap_or_default()),
        };
        Some(match map.get("input") {
            Some(input) => answer.given(input.clone()),
            None => answer,
        })
    }

    fn error(&mut self, value: &Value, path: &str) -> Option<Answer> {
        let map = self.object(value, path, &["name", "message", "kind"])?;
        let kind = self.text(map, "kind", path);
        if kind.as_deref() == Some("timeout") {
            return Some(Answer::timeout());
        }
        let name = self.needed_text(map, "name", path);
        let message = self.text(map, "message", path).unwrap_or_default();
        match kind.as_deref() {
            None | Some("retryable") => Some(Answer::retryable(&name, &message)),
            Some("permanent") => Some(Answer::permanent(&name, &message)),
            Some(other) => {
                let fix = "write `retryable`, which is usual, `permanent` or `timeout`";
                self.wrong(format!("{path}.kind"), format!("`{other}` is no kind that a mock fails with"), fix);
                None
            }
        }
    }

    fn object<'v>(&mut self, value: &'v Value, path: &str, known: &[&str]) -> Option<&'v Object> {
        let list = known.iter().map(|field| format!("`{field}`")).collect::<Vec<_>>().join(", ");
        let Some(map) = value.as_object() else {
            self.wrong(path, "it is no object", format!("write an object with {list}"));
            return None;
        };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let short: String = name.chars().take(60).collect();
            let fix = format!("remove it; the fields here are {list}");
            self.wrong(at(path, &short), "there is no such field", fix);
        }
        Some(map)
    }

    fn members<'v>(&mut self, map: &'v Object, name: &str, path: &str) -> Vec<(&'v String, &'v Value)> {
        match map.get(name) {
            None => Vec::new(),
            Some(Value::Object(members)) => members.iter().collect(),
            Some(_) => {
                self.wrong(at(path, name), "it is no object", "write an object");
                Vec::new()
            }
        }
    }

    fn list<'v>(&mut self, map: &'v Object, name: &str, path: &str) -> &'v [Value] {
        match map.get(name) {
            None => &[],
            Some(Value::Array(items)) => items,
            Some(_) => {
                self.wrong(at(path, name), "it is no list", "write a list");
                &[]
            }
        }
    }

    fn texts(&mut self, map: &Object, name: &str, path: &str) -> Vec<String> {
        let items = self.list(map, name, path);
        let texts: Vec<String> = items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect();
        if texts.len() < items.len() {
            self.wrong(at(path, name), "it is no list of texts", "write each in quotes");
        }
        texts
    }

    fn text(&mut self, map: &Object, name: &str, path: &str) -> Option<String> {
        let value = map.get(name)?;
        if !value.is_string() {
            self.wrong(at(path, name), "it is no text", "write it in quotes");
        }
        value.as_str().map(str::to_owned)
    }

    fn needed_text(&mut self, map: &Object, name: &str, path: &str) -> String {
        if map.get(name).is_none_or(|value| value.as_str() == Some("")) {
            self.wrong(at(path, name), "it is missing", "give it");
        }
        self.text(map, name, path).unwrap_or_default()
    }
}

fn at(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}
