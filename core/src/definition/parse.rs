//! Reads the JSON of a definition into its types, noting every mistake of shape on the way.
//!
//! It reads as much as it can, so that one missing field does not hide the other problems; what the parts mean
//! together is left to `check`.

use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

use super::problem::Problem;
use super::{Definition, DelayTime, EdgeDefinition, JoinRule, MAX_EDGES, MAX_NODES, NodeDefinition, NodeType, On};
use crate::duration;
use crate::payload::{self, Payload};
use crate::retry::RetryPolicy;
use crate::state::RunState;

/// The definition as far as it can be read; `None` when it is no object, too large or not storable.
pub(super) fn definition(value: &Value, problems: &mut Vec<Problem>) -> Option<Definition> {
    if let Err(error) = Payload::of(value) {
        let fix = match error {
            payload::Error::NulCharacter { .. } => "remove the character",
            _ => "change that value",
        };
        problems.push(Problem::new("", format!("it cannot be stored: {error}"), fix));
        return None;
    }
    let known = ["name", "queue", "description", "input_schema", "nodes", "edges", "output"];
    let mut fields = Fields::open(value, String::new(), &known, problems)?;
    let nodes = fields.list("nodes", MAX_NODES)?;
    let edges = fields.list("edges", MAX_EDGES)?;
    let name = fields.needed_text("name");
    let (queue, description) = (fields.text("queue"), fields.text("description"));
    let (input_schema, output) = (fields.given("input_schema"), fields.any("output"));
    if nodes.is_empty() {
        fields.wrong("nodes", "there is no node", "give at least one");
    }
    Some(Definition {
        name,
        queue,
        description,
        input_schema,
        output,
        nodes: (0..).zip(&nodes).map(|(place, value)| node(value, place, problems)).collect(),
        edges: (0..).zip(&edges).filter_map(|(place, value)| edge(value, place, problems)).collect(),
    })
}

fn node(value: &Value, place: usize, problems: &mut Vec<Problem>) -> NodeDefinition {
    let path = format!("nodes[{place}]");
    let word = value.get("type").and_then(Value::as_str).unwrap_or_default();
    let own: &[&str] = match word {
        "task" => &["handler", "timeout", "retry"],
        "set" => &["output"],
        "delay" => &["duration", "until"],
        "fail" => &["name", "message"],
        "terminate" => &["state", "output", "error"],
        _ => &["handler", "timeout", "retry", "output", "duration", "until", "name", "message", "state", "error"],
    };
    let known = [&["id", "type", "input", "queue", "join"], own].concat();
    let Some(mut fields) = Fields::open(value, path, &known, problems) else {
        return NodeDefinition::task("", "");
    };
    let id = fields.needed_text("id");
    let kind = match word {
        "task" => NodeType::Task {
            handler: fields.needed_text("handler"),
            timeout: fields.duration("timeout"),
            retry: fields.given("retry").and_then(|value| retry(&value, fields.at("retry"), fields.problems)),
        },
        "set" => {
            if fields.any("output").is_none() {
                fields.wrong("output", "it is missing", "give the value to set, with `{{ }}` where it varies");
            }
            NodeType::Set { output: fields.any("output").unwrap_or_default() }
        }
        "delay" => NodeType::Delay(delay(&mut fields)),
        "fail" => {
            NodeType::Fail { name: fields.needed_text("name"), message: fields.text("message").unwrap_or_default() }
        }
        "terminate" => terminate(&mut fields),
        _ => {
            let fix = "use \"task\", \"set\", \"delay\", \"fail\" or \"terminate\"";
            let missing = fields.get("type").is_none();
            fields.wrong("type", if missing { "it is missing" } else { "there is no such node type" }, fix);
            NodeDefinition::task("", "none").kind
        }
    };
    NodeDefinition { id, kind, input: fields.any("input"), queue: fields.text("queue"), join: join(&mut fields) }
}

fn delay(fields: &mut Fields<'_, '_>) -> DelayTime {
    match (fields.text("duration"), fields.text("until")) {
        (Some(time), None) => DelayTime::For(time),
        (None, Some(time)) => DelayTime::Until(time),
        (Some(time), Some(_)) => {
            fields.wrong("until", "`duration` is given as well", "keep one of them");
            DelayTime::For(time)
        }
        (None, None) => {
            if fields.get("duration").is_none() && fields.get("until").is_none() {
                fields.wrong("duration", "it is missing", "give `duration`, such as \"5s\", or `until`, a time");
            }
            DelayTime::For("0s".to_owned())
        }
    }
}

fn terminate(fields: &mut Fields<'_, '_>) -> NodeType {
    const FIX: &str = "use \"completed\", \"failed\" or \"canceled\"";
    let state = match fields.needed_text("state").as_str() {
        "completed" => RunState::Completed,
        "failed" => RunState::Failed,
        "canceled" => RunState::Canceled,
        "" => RunState::Canceled,
        _ => {
            fields.wrong("state", "a run cannot end so", FIX);
            RunState::Canceled
        }
    };
    let (output, value) = (fields.any("output"), fields.given("error"));
    let mut error = None;
    if let Some(mut inner) =
        value.as_ref().and_then(|value| Fields::open(value, fields.at("error"), &["name", "message"], fields.problems))
    {
        error = Some((inner.needed_text("name"), inner.text("message").unwrap_or_default()));
    }
    if output.is_some() && state != RunState::Completed {
        fields.wrong("output", "only a completed run has an output", "remove it or use \"state\": \"completed\"");
    }
    if value.is_some() && state != RunState::Failed {
        fields.wrong("error", "only a failed run has an error", "remove it or use \"state\": \"failed\"");
    }
    if value.is_none() && state == RunState::Failed {
        fields.wrong("error", "it is missing", "say why: {\"name\": …, \"message\": …}");
    }
    NodeType::Terminate { state, output, error }
}

fn join(fields: &mut Fields<'_, '_>) -> JoinRule {
    let Some(value) = fields.given("join") else {
        return JoinRule::All;
    };
    let count = value.as_u64().or_else(|| {
        let map = value.as_object().filter(|map| map.len() == 1)?;
        map.get("n")?.as_u64()
    });
    match (value.as_str(), count.and_then(|count| u32::try_from(count).ok())) {
        (Some("all"), _) => JoinRule::All,
        (Some("any"), _) => JoinRule::Any,
        (_, Some(count @ 1..)) => JoinRule::Count(count),
        _ => {
            fields.wrong("join", "there is no such join", "use \"all\", \"any\" or a number of edges, at least 1");
            JoinRule::All
        }
    }
}

fn retry(value: &Value, path: String, problems: &mut Vec<Problem>) -> Option<RetryPolicy> {
    let known = ["max_attempts", "initial", "factor", "max", "jitter", "total", "retry_on"];
    let mut fields = Fields::open(value, path, &known, problems)?;
    let found = fields.problems.len();
    let usual = RetryPolicy::default();
    let max = fields.duration("max");
    let initial = fields.duration("initial").unwrap_or(usual.initial);
    let policy = RetryPolicy {
        max_attempts: fields.count("max_attempts").unwrap_or(usual.max_attempts),
        initial,
        factor: fields.number("factor").unwrap_or(usual.factor),
        // A long first pause without `max` means that pause, not a policy that contradicts itself.
        max: max.unwrap_or(usual.max.max(initial)),
        jitter: fields.number("jitter").unwrap_or(usual.jitter),
        total: fields.duration("total"),
        retry_on: fields.texts("retry_on"),
    };
    if fields.problems.len() == found {
        for (field, message, fix) in policy.validate() {
            fields.wrong(field, message, fix);
        }
    }
    Some(policy)
}

fn edge(value: &Value, place: usize, problems: &mut Vec<Problem>) -> Option<EdgeDefinition> {
    let path = format!("edges[{place}]");
    if let Value::Array(pair) = value {
        return match pair.as_slice() {
            [Value::String(from), Value::String(to)] => Some(EdgeDefinition::success(from, to)),
            _ => {
                problems.push(Problem::new(path, "it is no pair of node ids", "write [\"from\", \"to\"] or an object"));
                None
            }
        };
    }
    let mut fields = Fields::open(value, path, &["from", "to", "on", "when"], problems)?;
    let (from, to) = (fields.needed_text("from"), fields.needed_text("to"));
    let on = match fields.text("on").as_deref() {
        None | Some("success") => On::Success,
        Some("failure") => On::Failure,
        Some("always") => On::Always,
        Some(_) => {
            fields.wrong("on", "there is no such ending", "use \"success\", \"failure\" or \"always\"");
            On::Success
        }
    };
    let when = fields.text("when");
    (!from.is_empty() && !to.is_empty()).then_some(EdgeDefinition { from, to, on, when })
}

/// The fields of one object; each getter notes a problem when the field has the wrong shape. `null` counts as
/// not given, except for templates, where it is a value.
struct Fields<'v, 'p> {
    map: &'v Map<String, Value>,
    path: String,
    problems: &'p mut Vec<Problem>,
}

impl<'v, 'p> Fields<'v, 'p> {
    /// Opens an object and notes its unknown fields.
    fn open(value: &'v Value, path: String, known: &[&str], problems: &'p mut Vec<Problem>) -> Option<Self> {
        let Value::Object(map) = value else {
            problems.push(Problem::new(path, "it is no object", format!("write an object with {}", list(known))));
            return None;
        };
        let fields = Self { map, path, problems };
        for name in map.keys().filter(|name| !known.contains(&name.as_str())) {
            let short: String = name.chars().take(60).collect();
            let fix = format!("remove it; the fields here are {}", list(known));
            fields.problems.push(Problem::new(fields.at(&short), "there is no such field", fix));
        }
        Some(fields)
    }

    fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    fn wrong(&mut self, name: &str, message: impl Into<String>, fix: impl Into<String>) {
        let path = self.at(name);
        self.problems.push(Problem::new(path, message, fix));
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// The value of a template's field, which may be `null`.
    fn any(&self, name: &str) -> Option<Value> {
        self.map.get(name).cloned()
    }

    fn given(&self, name: &str) -> Option<Value> {
        self.get(name).cloned()
    }

    fn text(&mut self, name: &str) -> Option<String> {
        match self.get(name)? {
            Value::String(text) => Some(text.clone()),
            other => {
                self.wrong(name, format!("{} is no text", Short(other)), "write it in quotes");
                None
            }
        }
    }

    fn needed_text(&mut self, name: &str) -> String {
        if self.get(name).is_none() {
            self.wrong(name, "it is missing", "give it");
        } else if self.get(name).and_then(Value::as_str) == Some("") {
            self.wrong(name, "it is empty", "give it");
        }
        self.text(name).unwrap_or_default()
    }

    fn texts(&mut self, name: &str) -> Option<Vec<String>> {
        let texts = self
            .get(name)?
            .as_array()
            .and_then(|items| items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>());
        if texts.is_none() {
            self.wrong(name, "it is no list of texts", "write a list such as [\"timeout\", \"busy\"]");
        }
        texts
    }

    fn duration(&mut self, name: &str) -> Option<Duration> {
        let text = self.text(name)?;
        match duration::parse(&text) {
            Ok(duration) if !duration.is_zero() || name == "initial" => Some(duration),
            Ok(_) => {
                self.wrong(name, "it is zero", "give a time longer than zero, or leave it out");
                None
            }
            Err(error) => {
                self.wrong(name, error.to_string(), "such as \"30s\" or \"1h30m\"");
                None
            }
        }
    }

    fn number(&mut self, name: &str) -> Option<f64> {
        let value = self.get(name)?;
        let number = value.as_f64();
        if number.is_none() {
            self.wrong(name, format!("{} is no number", Short(value)), "write a number without quotes");
        }
        number
    }

    fn count(&mut self, name: &str) -> Option<u32> {
        let value = self.get(name)?;
        let count = value.as_u64().and_then(|count| u32::try_from(count).ok());
        if count.is_none() {
            self.wrong(name, format!("{} is no whole number", Short(value)), "write a whole number, at least 1");
        }
        count
    }

    /// The items of a list; `None` when there are so many that nothing else is looked at.
    fn list(&mut self, name: &str, most: usize) -> Option<Vec<Value>> {
        match self.get(name) {
            Some(Value::Array(items)) if items.len() > most => {
                self.wrong(
                    name,
                    format!("there are {} of them", items.len()),
                    format!("use at most {most}; split the workflow"),
                );
                None
            }
            Some(Value::Array(items)) => Some(items.clone()),
            Some(_) => {
                self.wrong(name, "it is no list", "write a list");
                Some(Vec::new())
            }
            None => Some(Vec::new()),
        }
    }
}

/// A value in a message, cut to a few words.
struct Short<'a>(&'a Value);

impl fmt::Display for Short<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.0.to_string();
        let cut: String = text.chars().take(40).collect();
        write!(f, "`{cut}{}`", if cut.len() < text.len() { "…" } else { "" })
    }
}

fn list(words: &[&str]) -> String {
    words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
}
