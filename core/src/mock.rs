//! Mocks: what stands for handlers, child runs and people in runs that only test. A run in test mode carries them ([`Mocks`]): its nodes are answered from
//! there and nothing of it reaches a handler. `longshore_worker::testing` answers from the same [`Answer`]s, call by call.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::definition::{Problem, Problems};
use crate::error::{ErrorKind, StepError, TIMEOUT};
use crate::payload::Payload;

/// The error of a node that no mock stands for.
pub const MOCK_MISSING: &str = "mock_missing";

/// The error of a call whose input is not what its mock expects.
pub const MOCK_INPUT: &str = "mock_input";

/// Before the name of a handler, where a mock stands for all its nodes.
pub const HANDLER: &str = "handler:";

/// The mocks of a run in test mode have at most so many bytes: each claim of one of its steps reads them.
pub const MAX_MOCKS: usize = 64 << 10;

/// The fields of an answer, which tell it from a plain output.
const ANSWER: [&str; 3] = ["output", "error", "input"];

/// What stands for a handler in one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    result: Result<Value, MockError>,
    input: Option<Value>,
}

/// How a call fails.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MockError {
    /// Its name.
    pub name: String,
    /// Its message.
    pub message: String,
    /// Retryable, permanent or timeout.
    pub kind: ErrorKind,
}

impl Answer {
    /// The call gives this output.
    pub fn output(output: impl Into<Value>) -> Self {
        Self { result: Ok(output.into()), input: None }
    }

    /// The call fails, and trying again may help.
    pub fn retryable(name: &str, message: &str) -> Self {
        Self::error(name, message, ErrorKind::Retryable)
    }

    /// The call fails for good.
    pub fn permanent(name: &str, message: &str) -> Self {
        Self::error(name, message, ErrorKind::Permanent)
    }

    /// The call takes longer than the node's `timeout`.
    pub fn timeout() -> Self {
        Self::error(TIMEOUT, "the mock takes longer than there is time", ErrorKind::Timeout)
    }

    /// The call must be given this input, else it fails for good with `mock_input`.
    #[must_use]
    pub fn given(self, input: impl Into<Value>) -> Self {
        Self { input: Some(input.into()), ..self }
    }

    /// What the call gives.
    pub fn result(&self) -> Result<&Value, &MockError> {
        self.result.as_ref()
    }

    /// What the call must be given, if that is told.
    pub fn expected(&self) -> Option<&Value> {
        self.input.as_ref()
    }

    fn error(name: &str, message: &str, kind: ErrorKind) -> Self {
        Self { result: Err(MockError { name: name.to_owned(), message: message.to_owned(), kind }), input: None }
    }

    fn give(&self, input: &Payload) -> Result<Payload, StepError> {
        if self.input.as_ref().is_some_and(|expected| *expected != input.value()) {
            return Err(StepError::permanent(MOCK_INPUT, "the input is not what the mock of this node expects"));
        }
        match &self.result {
            Ok(output) => Payload::of(output).map_err(|error| StepError::permanent(MOCK_INPUT, &error.to_string())),
            Err(MockError { name, message, kind }) => Err(StepError::new(name, *kind, message)),
        }
    }
}

/// What [`qualified`] mocks of a node may be called, the closest first: its id with its workflow before it; its handler.
pub fn keys(workflow: &str, node: &str, handler: Option<&str>) -> impl Iterator<Item = String> {
    let handler = handler.map(|handler| format!("{HANDLER}{handler}"));
    [format!("{workflow}/{node}")].into_iter().chain(handler)
}

/// Mocks by what they stand for in any workflow. A plain id is that of a node of `workflow`, the one that is tested; it counts before the same with its workflow.
pub fn qualified<T>(workflow: &str, mocks: impl IntoIterator<Item = (String, T)>) -> BTreeMap<String, T> {
    let is_plain = |(what, _): &(String, T)| !what.starts_with(HANDLER) && !what.contains('/');
    let (plain, others): (Vec<_>, Vec<_>) = mocks.into_iter().partition(is_plain);
    let plain = plain.into_iter().map(|(node, answers)| (format!("{workflow}/{node}"), answers));
    others.into_iter().chain(plain).collect()
}

/// Lists of answers by what they stand for; a list has at least one.
pub type Answers = BTreeMap<String, Vec<Answer>>;

/// The mocks of a run in test mode, [`qualified`], so that its child runs, and runs made of these anew, have the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mocks(Answers);

impl Mocks {
    /// Reads them: an object of answers, or lists of them, by what they stand for. All problems at once.
    pub fn from_json(value: &Value) -> Result<Self, Problems> {
        let mut problems = Vec::new();
        let answers = read(value, "mocks", &mut problems);
        if problems.is_empty() { Ok(Self(answers)) } else { Err(Problems(problems)) }
    }

    /// What stands for this node, if anything does.
    pub fn of(&self, workflow: &str, node: &str, handler: Option<&str>) -> Option<&[Answer]> {
        keys(workflow, node, handler).find_map(|key| self.0.get(&key)).map(Vec::as_slice)
    }
}

/// What the `number`th attempt (from 1) is given by these answers; the last one repeats.
pub fn answer(answers: &[Answer], number: i32, input: &Payload) -> Result<Payload, StepError> {
    let place = usize::try_from(number.saturating_sub(1)).unwrap_or(0);
    match answers.get(place).or(answers.last()) {
        Some(answer) => answer.give(input),
        None => Err(StepError::permanent(MOCK_MISSING, "the mock of this node has no answer")),
    }
}

/// Reads mocks that stand at this path; what is wrong with them is added to the problems.
pub fn read(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Answers {
    let mut answers = Answers::new();
    let Some(members) = value.as_object() else {
        problems.push(problem(path, "it is no object", "write an object"));
        return answers;
    };
    for (what, value) in members {
        let path = format!("{path}.{what}");
        let list: Vec<Answer> = match value {
            Value::Array(list) if list.is_empty() => {
                let fix = "write an answer for each call, or {\"output\": []} for an output that is an empty list";
                problems.push(problem(&path, "it has no answer", fix));
                continue;
            }
            Value::Array(list) => {
                let list = list.iter().enumerate();
                list.filter_map(|(at, one)| read_answer(one, &format!("{path}[{at}]"), problems)).collect()
            }
            one => read_answer(one, &path, problems).into_iter().collect(),
        };
        answers.insert(what.clone(), list);
    }
    answers
}

fn read_answer(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<Answer> {
    let Some(map) = value.as_object().filter(|map| ANSWER.iter().any(|field| map.contains_key(*field))) else {
        return Some(Answer::output(value.clone()));
    };
    if let Some(other) = map.keys().find(|name| !ANSWER.contains(&name.as_str())) {
        let message = format!("it has `{other}` beside the fields of an answer");
        problems.push(problem(
            path,
            &message,
            "write {\"output\": …} around it if all of it is the output, else remove it",
        ));
        return None;
    }
    let answer = match (map.get("output"), map.get("error")) {
        (Some(_), Some(_)) => {
            problems.push(problem(path, "it has an output and an error", "remove one of them"));
            return None;
        }
        (_, Some(error)) => read_error(error, &format!("{path}.error"), problems)?,
        (output, None) => Answer::output(output.cloned().unwrap_or_default()),
    };
    Some(match map.get("input") {
        Some(input) => answer.given(input.clone()),
        None => answer,
    })
}

fn read_error(value: &Value, path: &str, problems: &mut Vec<Problem>) -> Option<Answer> {
    let known = ["name", "message", "kind"];
    let empty = Map::new();
    let map = value.as_object().unwrap_or_else(|| {
        problems.push(problem(path, "it is no object", "write an object with `name`, `message`, `kind`"));
        &empty
    });
    for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
        let short: String = name.chars().take(60).collect();
        let fix = "remove it; the fields here are `name`, `message`, `kind`";
        problems.push(problem(&format!("{path}.{short}"), "there is no such field", fix));
    }
    let text = |name: &str, problems: &mut Vec<Problem>| match map.get(name) {
        Some(Value::String(text)) => Some(text.clone()),
        Some(_) => {
            problems.push(problem(&format!("{path}.{name}"), "it is no text", "write it in quotes"));
            None
        }
        None => None,
    };
    let kind = match text("kind", problems).as_deref() {
        Some("timeout") => return Some(Answer::timeout()),
        None | Some("retryable") => Some(ErrorKind::Retryable),
        Some("permanent") => Some(ErrorKind::Permanent),
        Some(other) => {
            let fix = "write `retryable`, which is usual, `permanent` or `timeout`";
            let message = format!("`{other}` is no kind that a mock fails with");
            problems.push(problem(&format!("{path}.kind"), &message, fix));
            None
        }
    };
    let name = text("name", problems).filter(|name| !name.is_empty());
    let message = text("message", problems).unwrap_or_default();
    if name.is_none() && value.is_object() && map.get("name").is_none_or(Value::is_string) {
        problems.push(problem(&format!("{path}.name"), "it is missing", "give it"));
    }
    Some(Answer::error(&name?, &message, kind?))
}

fn problem(path: &str, message: &str, fix: &str) -> Problem {
    Problem { path: path.to_owned(), message: message.to_owned(), fix: fix.to_owned() }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn the_closest_mock_answers_attempt_by_attempt_and_the_last_answer_repeats() {
        let mocks =
            Mocks::from_json(&json!({"w/charge": [{"error": {"name": "busy"}}, {"output": 7, "input": {"n": 1}}],
            "child/charge": 8, "handler:mail": {"id": 3}}))
            .unwrap();
        let charge = mocks.of("w", "charge", Some("bank")).unwrap();
        let input = Payload::of(&json!({"n": 1})).unwrap();
        assert_eq!(answer(charge, 1, &input).unwrap_err().name, "busy");
        assert_eq!(answer(charge, 2, &input).unwrap().value(), json!(7));
        assert_eq!(answer(charge, 9, &input).unwrap().value(), json!(7));
        assert_eq!(answer(charge, 2, &Payload::null()).unwrap_err().name, MOCK_INPUT);
        assert!(mocks.of("other", "charge", Some("bank")).is_none());
        assert!(mocks.of("child", "charge", None).is_some());
        assert_eq!(answer(mocks.of("w", "x", Some("mail")).unwrap(), 1, &input).unwrap().value(), json!({"id": 3}));
    }

    #[test]
    fn a_plain_id_is_of_the_workflow_that_is_tested_and_counts_before_the_same_with_it() {
        let mocks =
            [("charge", 1), ("w/charge", 2), ("w/ship", 3), ("child/charge", 4), ("handler:a/b", 5), ("handler:c", 6)];
        let mocks = qualified("w", mocks.map(|(what, answer)| (what.to_owned(), answer)));
        let expected = [("child/charge", 4), ("handler:a/b", 5), ("handler:c", 6), ("w/charge", 1), ("w/ship", 3)];
        assert_eq!(mocks, expected.map(|(what, answer)| (what.to_owned(), answer)).into());
    }

    #[test]
    fn all_that_is_wrong_is_named() {
        let wrong = json!({"a": [], "b": {"output": 1, "error": {"name": "x"}}, "c": {"error": {"message": 1}}, "d": [{"error": {"name": "x", "kind": "odd"}}],
            "e": {"output": 1, "also": 2}, "f": {"error": 3}, "g": {"error": {"name": "x", "extra": 1}}});
        let problems = Mocks::from_json(&wrong).unwrap_err();
        let paths: Vec<&str> = problems.iter().map(|problem| problem.path.as_str()).collect();
        assert_eq!(
            paths,
            [
                "mocks.a",
                "mocks.b",
                "mocks.c.error.message",
                "mocks.c.error.name",
                "mocks.d[0].error.kind",
                "mocks.e",
                "mocks.f.error",
                "mocks.g.error.extra"
            ]
        );
        assert!(Mocks::from_json(&json!([])).is_err());
    }
}
