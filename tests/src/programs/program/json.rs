//! The definition that a program is published as.

use serde_json::{Map, Value, json};

use super::{Body, Condition, Edge, Giving, Kind, Node, On, OnError, Retry, SignalName, Termination, Tolerate};

impl Body {
    /// A body's part of the definition.
    pub fn json(&self) -> Value {
        let id = |place: usize| &self.nodes[place].id;
        let edge = |edge: &Edge| {
            let on = match edge.on {
                On::Success => "success",
                On::Failure => "failure",
                On::Always => "always",
                On::Timeout => "timeout",
            };
            let mut value = json!({"from": id(edge.from), "to": id(edge.to), "on": on});
            if let Some(when) = &edge.when {
                value["when"] = json!(when.text());
            }
            value
        };
        let mut value = json!({"nodes": self.nodes.iter().map(Node::json).collect::<Vec<_>>()});
        value["edges"] = self.edges.iter().map(edge).collect();
        if let Some(output) = &self.output {
            value["output"] = output.json();
        }
        value
    }

    /// The definition of a workflow of this name.
    pub fn definition(&self, name: &str) -> Value {
        let mut value = self.json();
        value["name"] = json!(name);
        value
    }
}

impl Node {
    fn json(&self) -> Value {
        let (word, mut fields) = self.kind.json();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                fields.insert(name.to_owned(), value);
            }
        };
        put("id", Some(json!(self.id)));
        put("type", Some(json!(word)));
        put("input", self.input.as_ref().map(Giving::json));
        put("join", (self.need > 0).then(|| if self.need == 1 { json!("any") } else { json!(self.need) }));
        put("timeout", self.timeout.map(|ms| json!(format!("{ms}ms"))));
        put(
            "retry",
            match self.retry.as_slice() {
                [] => None,
                [only] => Some(only.json()),
                several => Some(several.iter().map(Retry::json).collect()),
            },
        );
        put(
            "on_error",
            match &self.on_error {
                OnError::Fail => None,
                OnError::Route => Some(json!("route")),
                OnError::Continue => Some(json!("continue")),
                OnError::Fallback(output) => Some(json!({"fallback": output.json()})),
                OnError::Skip => Some(json!("skip")),
            },
        );
        Value::Object(fields)
    }
}

impl Retry {
    fn json(&self) -> Value {
        let mut value = json!({"max_attempts": self.max_attempts, "initial": "5ms", "jitter": 0});
        if !self.on.is_empty() {
            value["retry_on"] = json!(self.on);
        }
        value
    }
}

impl Kind {
    fn json(&self) -> (&'static str, Map<String, Value>) {
        let (word, value) = match self {
            Self::Task => ("task", json!({"handler": "act"})),
            Self::Set(output) => ("set", json!({"output": output.json()})),
            Self::Fail(name) => ("fail", json!({"name": name})),
            Self::Terminate(Termination::Completed(output)) => {
                ("terminate", json!({"state": "completed", "output": output.json()}))
            }
            Self::Terminate(Termination::Failed(name)) => {
                ("terminate", json!({"state": "failed", "error": {"name": name, "message": "told to"}}))
            }
            Self::Terminate(Termination::Canceled) => ("terminate", json!({"state": "canceled"})),
            Self::Wait(names, when) => {
                let mut value = match names.as_slice() {
                    [only] => json!({"signal": only.json()}),
                    many => json!({"signals": many.iter().map(SignalName::json).collect::<Vec<_>>()}),
                };
                if let Some(when) = when {
                    value["match"] = json!(when.text());
                }
                ("wait", value)
            }
            Self::Parallel { branches, ends, fail_fast, concurrency } => {
                let branch = |(id, body): &(String, Body)| {
                    let mut value = body.json();
                    value["id"] = json!(id);
                    value
                };
                let branches: Vec<Value> = branches.iter().map(branch).collect();
                let mut value = json!({"branches": branches, "fail_fast": fail_fast, "concurrency": concurrency});
                value["ends"] = match ends {
                    0 => json!("all"),
                    1 => json!("any"),
                    many => json!(many),
                };
                ("parallel", value)
            }
            Self::Foreach { items, body, concurrency, tolerate } => {
                let mut value = json!({"items": items.json(), "body": body.json(), "concurrency": concurrency});
                match tolerate {
                    Some(Tolerate::Count(count)) => value["tolerate"] = json!({"count": count}),
                    #[allow(clippy::cast_precision_loss)]
                    Some(Tolerate::Percent(percent)) => value["tolerate"] = json!({"share": *percent as f64 / 100.0}),
                    None => {}
                }
                ("foreach", value)
            }
            Self::While { when, do_while, most, stops, keep, body } => {
                let on_limit = if *stops { "stop" } else { "fail" };
                let mut value = json!({"when": when.text(), "do_while": do_while, "max_iterations": most, "on_limit": on_limit, "body": body.json()});
                if let Some(keep) = keep {
                    value["keep"] = json!(keep);
                }
                ("while", value)
            }
            Self::Choice { is_if: true, cases, otherwise } => {
                let (when, then) = &cases[0];
                let mut value = json!({"when": when.text(), "then": then.json()});
                if let Some(otherwise) = otherwise {
                    value["else"] = otherwise.json();
                }
                ("if", value)
            }
            Self::Choice { cases, otherwise, .. } => {
                let case = |(when, body): &(Condition, Body)| json!({"when": when.text(), "body": body.json()});
                let mut value = json!({"cases": cases.iter().map(case).collect::<Vec<_>>()});
                if let Some(otherwise) = otherwise {
                    value["default"] = otherwise.json();
                }
                ("switch", value)
            }
            Self::Try { body, catches, finally } => {
                let catch = |(on, body): &(Vec<String>, Body)| {
                    let mut value = json!({"body": body.json()});
                    if !on.is_empty() {
                        value["on"] = json!(on);
                    }
                    value
                };
                let mut value = json!({"body": body.json()});
                if !catches.is_empty() {
                    value["catch"] = catches.iter().map(catch).collect();
                }
                if let Some(finally) = finally {
                    value["finally"] = finally.json();
                }
                ("try", value)
            }
        };
        let Value::Object(fields) = value else { unreachable!("an object") };
        (word, fields)
    }
}
