//! Retry and Catch: names of errors in the one language and in the other.

use longshore_core::duration;
use serde_json::{Value, json};

use super::flow::Exit;
use super::graph::{Graph, Way};
use super::machine::State;
use super::path::Scope;
use super::{Translation, literal, output, template};

/// Errors of a definition that are mistakes in its own data flow: no retrier and no catcher takes them.
const RUNTIME: [&str; 5] = ["expression_failed", "delay_invalid", "wait_invalid", "items_invalid", "max_iterations"];
/// Those that say that a value is too large.
const DATA: [&str; 2] = ["output_too_large", "output_invalid"];

/// The most catchers of a state: the condition of each denies all before it.
const MAX_CATCHERS: usize = 20;

/// The name that an error of ours has in the language; any other keeps its own.
pub(super) fn name(ours: &str) -> &str {
    match ours {
        "timeout" => "States.Timeout",
        "tolerance_exceeded" => "States.ExceedToleratedFailureThreshold",
        "handler_failed" | "panic" | "lost" => "States.TaskFailed",
        ours if DATA.contains(&ours) => "States.DataLimitExceeded",
        ours if RUNTIME.contains(&ours) => "States.Runtime",
        ours => ours,
    }
}

/// The error output as an expression, in a node whose only predecessor failed.
pub(super) fn error_output() -> String {
    // the errors of `RUNTIME` are never caught
    let ours = ["timeout", "tolerance_exceeded", "handler_failed", "panic", "lost"].into_iter().chain(DATA);
    let names: Vec<_> = ours.map(|ours| format!("{}: {}", literal(ours), literal(name(ours)))).collect();
    format!("{{\"Error\": {{{}}}[error.name]|default(error.name), \"Cause\": error.message}}", names.join(", "))
}

/// The names that a retrier or a catcher lists.
fn names(item: &Value) -> Result<Vec<&str>, String> {
    let names = item.get("ErrorEquals").and_then(Value::as_array).filter(|names| !names.is_empty());
    let names = names.and_then(|names| names.iter().map(Value::as_str).collect::<Option<Vec<_>>>());
    let names = names.ok_or("ErrorEquals is no list of names")?;
    for name in &names {
        if ["Runtime", "ParameterPathFailure", "ResultPathMatchFailure", "IntrinsicFailure", "QueryEvaluationError"]
            .iter()
            .any(|own| name.strip_prefix("States.") == Some(own))
        {
            return Err(format!("{name} is a mistake in the machine's own paths, which always fails a run here"));
        }
    }
    Ok(names)
}

/// The condition under which a catcher takes `error`. `signal` is the node that waits for heartbeats, if one does.
pub(super) fn caught(catcher: &Value, signal: Option<&str>) -> Result<String, String> {
    let list = |names: &[&str]| format!("[{}]", names.iter().map(|name| literal(name)).collect::<Vec<_>>().join(", "));
    let never = list(&[RUNTIME.as_slice(), &DATA].concat());
    let mut named = Vec::new();
    let mut conditions = Vec::new();
    for name in names(catcher)? {
        match name {
            "States.ALL" => conditions.push(format!("error.name not in {never}")),
            "States.TaskFailed" => conditions.push(format!("error.kind != \"timeout\" and error.name not in {never}")),
            "States.Timeout" => conditions.push("error.kind == \"timeout\"".to_owned()),
            "States.HeartbeatTimeout" => {
                let node = signal.ok_or("States.HeartbeatTimeout: the state waits for no heartbeat")?;
                conditions.push(format!("error.kind == \"timeout\" and error.node == {}", literal(node)));
            }
            "States.ExceedToleratedFailureThreshold" => named.push("tolerance_exceeded"),
            "States.DataLimitExceeded" => named.extend(DATA),
            name => named.push(name),
        }
    }
    if !named.is_empty() {
        conditions.push(format!("error.name in {}", list(&named)));
    }
    Ok(match conditions.as_slice() {
        [only] => only.clone(),
        several => several.iter().map(|condition| format!("({condition})")).collect::<Vec<_>>().join(" or "),
    })
}

impl Translation {
    /// The catchers of a state, whose node is `node`: the first that takes an error leads on, behind a node that makes
    /// the document of it.
    pub(super) fn catches(
        &mut self,
        state: &State<'_>,
        node: &str,
        raw: &Scope,
        signal: Option<&str>,
        graph: &mut Graph,
    ) -> Vec<Exit> {
        let mut earlier = String::new();
        let mut exits = Vec::new();
        if state.list("Catch").count() > MAX_CATCHERS {
            self.refuse(state.name, format!("Catch: there are more than {MAX_CATCHERS}"));
            return exits;
        }
        for catcher in state.list("Catch") {
            let condition = caught(catcher, signal);
            let condition = self.or_refuse(state.name, "Catch", condition, "true".to_owned());
            let when = match earlier.is_empty() {
                true => condition.clone(),
                false => format!("({condition}) and not ({earlier})"),
            };
            earlier = if earlier.is_empty() { condition } else { format!("({earlier}) or ({condition})") };
            let id = self.id(node, "catch");
            let made = self.caught_document(state, catcher, raw);
            graph.set(&id, made);
            graph.edge(node, &Way { failure: true, when: Some(when) }, &id);
            let to = catcher.get("Next").and_then(Value::as_str).map(str::to_owned);
            if to.is_none() {
                self.refuse(state.name, "Catch: Next is missing");
            }
            exits.push(Exit { document: output(&id), from: id, way: Way::default(), to });
        }
        exits
    }

    fn caught_document(&mut self, state: &State<'_>, catcher: &Value, raw: &Scope) -> Value {
        let error = error_output();
        let known: &[&str] = if state.jsonata { &["Output"] } else { &["ResultPath"] };
        for field in catcher.as_object().into_iter().flat_map(|map| map.keys()) {
            if !["ErrorEquals", "Next", "Comment"].contains(&field.as_str()) && !known.contains(&field.as_str()) {
                self.refuse(state.name, format!("Catch: {field} is not translated"));
            }
        }
        if let (true, Some(made)) = (state.jsonata, catcher.get("Output")) {
            let scope = Scope { error: Some(format!("({error})")), ..raw.clone() };
            return self.payload(state, "Catch.Output", made, &scope);
        }
        match catcher.get("ResultPath") {
            Some(Value::Null) => template(&raw.document),
            Some(Value::String(path)) => {
                let put = self.put(state.name, path, &raw.document, &error);
                template(&put.unwrap_or(error))
            }
            Some(_) => {
                self.refuse(state.name, "Catch: ResultPath is no path");
                Value::Null
            }
            None => template(&error),
        }
    }

    /// The retry policies of a state, one for each retrier. Without one it is tried once.
    pub(super) fn retry(&mut self, state: &State<'_>) -> Value {
        let once = || json!({"max_attempts": 1});
        let retriers: Vec<_> = state.list("Retry").collect();
        let read = |retrier: &&Value| {
            let policy = policy(retrier);
            self.or_refuse(state.name, "Retry", policy, once())
        };
        let mut policies: Vec<Value> = retriers.iter().map(read).collect();
        let all = |retrier: &Value| names(retrier).is_ok_and(|names| names.contains(&"States.ALL"));
        if retriers.iter().rev().skip(1).any(|retrier| all(retrier)) {
            self.refuse(state.name, "Retry: only the last retrier may name States.ALL, which takes every failure");
        }
        if policies.len() > 1 { Value::from(policies) } else { policies.pop().unwrap_or_else(once) }
    }

    /// The retry policies of a node that is tried once where it does not say otherwise.
    pub(super) fn patience(&mut self, state: &State<'_>, node: &mut Value) {
        if state.get("Retry").is_some() {
            node["retry"] = self.retry(state);
        }
    }
}

fn policy(retrier: &Value) -> Result<Value, String> {
    let map = retrier.as_object().ok_or("a retrier is an object")?;
    let known = [
        "Comment",
        "ErrorEquals",
        "IntervalSeconds",
        "MaxAttempts",
        "BackoffRate",
        "MaxDelaySeconds",
        "JitterStrategy",
    ];
    if let Some(field) = map.keys().find(|field| !known.contains(&field.as_str())) {
        return Err(format!("{field} is not translated"));
    }
    let whole = |field: &str, usual: u64| match map.get(field) {
        None => Ok(usual),
        Some(value) => value.as_u64().ok_or_else(|| format!("{field} is no whole number")),
    };
    let rate = map.get("BackoffRate").map_or(Some(2.0), Value::as_f64).ok_or("BackoffRate is no number")?;
    // the whole range, from nothing to the pause: half of it, spread by all of itself
    let half = match map.get("JitterStrategy").and_then(Value::as_str).unwrap_or("NONE") {
        "NONE" => false,
        "FULL" => true,
        other => return Err(format!("there is no JitterStrategy {other}")),
    };
    let pause = |seconds: u64| {
        let seconds = seconds.saturating_mul(1000) / if half { 2 } else { 1 };
        duration::format(std::time::Duration::from_millis(seconds).min(duration::MAX))
    };
    let longest = duration::MAX.as_secs();
    let mut policy = json!({
        "max_attempts": whole("MaxAttempts", 3)?.saturating_add(1),
        "initial": pause(whole("IntervalSeconds", 1)?),
        "factor": rate,
        "max": pause(whole("MaxDelaySeconds", longest)?),
        "jitter": if half { 1 } else { 0 },
    });
    let mut on = Vec::new();
    for name in names(retrier)? {
        match name {
            "States.ALL" => return Ok(policy),
            "States.Timeout" => on.push("timeout"),
            "States.TaskFailed" => on.extend(["retryable", "panic", "lost"]),
            "States.HeartbeatTimeout" => {
                return Err(format!("{name}: retries make no difference between it and States.Timeout"));
            }
            "States.ExceedToleratedFailureThreshold" | "States.DataLimitExceeded" => {
                return Err(format!("{name}: such a failure is final here"));
            }
            name => on.push(name),
        }
    }
    policy["retry_on"] = json!(on);
    Ok(policy)
}
