//! Reads the JSON of a definition into its types, noting every mistake of shape on the way.
//!
//! It reads as much as it can, so that one missing field does not hide the other problems; what the parts mean
//! together is left to `check`.

mod block;
mod fields;
mod subflow;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::problem::Problem;
use super::{
    ApprovalDefinition, ContextDefinition, Definition, DelayTime, EdgeDefinition, JoinRule, MAX_EDGES, MAX_NODES,
    MilestoneDefinition, NodeDefinition, NodeType, On, OnError, RemindedApproval, ReminderDefinition, WaitDefinition,
};
use crate::payload::{self, Payload};
use crate::retry::{GiveUp, RetryPolicies, RetryPolicy};
use crate::state::RunState;
use fields::{Fields, Reading};

/// The definition as far as it can be read, and what is wrong with it; no definition when it is no object, too large
/// or not storable.
pub(super) fn definition(value: &Value) -> (Option<Definition>, Vec<Problem>) {
    let mut reading = Reading { problems: Vec::new(), nodes: MAX_NODES, edges: MAX_EDGES, depth: 0, full: false };
    let read = whole(value, &mut reading);
    (read.filter(|_| !reading.full), reading.problems)
}

fn whole(value: &Value, reading: &mut Reading) -> Option<Definition> {
    if let Err(error) = Payload::of(value) {
        let fix = match error {
            payload::Error::NulCharacter { .. } => "remove the character",
            _ => "change that value",
        };
        reading.wrong("", format!("it cannot be stored: {error}"), fix);
        return None;
    }
    let known = ["name", "queue", "description", "input_schema", "nodes", "edges", "output", "context", "queries"];
    let mut fields = Fields::open(value, String::new(), &known, reading)?;
    let name = fields.needed_text("name");
    let (queue, description) = (fields.text("queue"), fields.text("description"));
    let (input_schema, output) = (fields.given("input_schema"), fields.any("output"));
    let context = fields.given("context");
    let queries = fields.map("queries", "write an object of expressions by name");
    let mut texts = BTreeMap::new();
    for (name, query) in queries {
        match query.as_str() {
            Some(text) => drop(texts.insert(name, text.to_owned())),
            None => fields.wrong("queries", format!("`{name}` is no text"), "write a bare expression in quotes"),
        }
    }
    let (nodes, edges) = graph(&mut fields);
    Some(Definition { name, queue, description, input_schema, nodes, edges, output, context, queries: texts })
}

/// The nodes and edges of the whole or of a body.
fn graph(fields: &mut Fields<'_, '_>) -> (Vec<NodeDefinition>, Vec<EdgeDefinition>) {
    let (nodes, edges) = (fields.list("nodes", usize::MAX), fields.list("edges", usize::MAX));
    // A body without nodes counts as one: it is refused, but not a million times.
    if !has_room("nodes", nodes.len().max(1), fields) || !has_room("edges", edges.len(), fields) {
        return (Vec::new(), Vec::new());
    }
    if nodes.is_empty() {
        fields.wrong("nodes", "there is no node", "give at least one");
    }
    let (node_path, edge_path) = (fields.at("nodes"), fields.at("edges"));
    let reading = &mut *fields.reading;
    let mut read = (Vec::with_capacity(nodes.len()), Vec::with_capacity(edges.len()));
    for (place, value) in nodes.iter().enumerate() {
        if reading.full {
            break;
        }
        read.0.push(node(value, format!("{node_path}[{place}]"), reading));
    }
    for (place, value) in edges.iter().enumerate() {
        read.1.extend(edge(value, format!("{edge_path}[{place}]"), reading));
    }
    read
}

/// False when there are too many nodes or edges: then the rest of the definition is not read.
fn has_room(name: &str, count: usize, fields: &mut Fields<'_, '_>) -> bool {
    let reading = &mut *fields.reading;
    let (room, most) = if name == "nodes" { (&mut reading.nodes, MAX_NODES) } else { (&mut reading.edges, MAX_EDGES) };
    match room.checked_sub(count) {
        Some(left) => *room = left,
        None if reading.full => {}
        None => {
            let others = if *room < most { format!(", and {} before them", most - *room) } else { String::new() };
            reading.full = true;
            let fix = format!("use at most {most}; split the workflow");
            fields.wrong(name, format!("there are {count} of them{others}"), fix);
        }
    }
    !fields.reading.full
}

fn node(value: &Value, path: String, reading: &mut Reading) -> NodeDefinition {
    let word = value.get("type").and_then(Value::as_str).unwrap_or_default();
    // Where the type is not known every field is, so that a wrong type is the only mistake told.
    let words = if own_fields(word).is_some() { &[word] } else { TYPES.as_slice() };
    let own = words.iter().copied().filter_map(own_fields).flatten().copied();
    let known: Vec<_> = ["id", "type", "input", "queue", "join", "on_error"].into_iter().chain(own).collect();
    let Some(mut fields) = Fields::open(value, path, &known, reading) else {
        return NodeDefinition::task("", "");
    };
    let id = fields.needed_text("id");
    let kind = match word {
        "task" => NodeType::Task {
            handler: fields.needed_text("handler"),
            timeout: fields.duration("timeout"),
            retry: retry(&mut fields),
        },
        "set" => {
            if fields.any("output").is_none() {
                fields.wrong("output", "it is missing", "give the value to set, with `{{ }}` where it varies");
            }
            NodeType::Set { output: fields.any("output").unwrap_or_default() }
        }
        "delay" => NodeType::Delay(delay(&mut fields)),
        "wait" => NodeType::Wait(Box::new(wait(&mut fields))),
        "approval" => approval(&id, &mut fields),
        "subflow" => NodeType::Subflow(Box::new(subflow::subflow(&mut fields))),
        "milestone" => NodeType::Milestone(Box::new(MilestoneDefinition {
            when: fields.needed_text("when"),
            timeout: fields.text("timeout"),
        })),
        "context" => NodeType::Context(Box::new(context(&mut fields))),
        "fail" => NodeType::Fail {
            name: fields.needed_text("name"),
            message: fields.text("message").unwrap_or_default(),
            retryable: fields.flag("retryable").unwrap_or(false),
        },
        "terminate" => terminate(&mut fields),
        word => block::block(word, &mut fields).map_or_else(
            || {
                let fix = format!("use {}", TYPES.map(|word| format!("\"{word}\"")).join(", "));
                let missing = fields.get("type").is_none();
                fields.wrong("type", if missing { "it is missing" } else { "there is no such node type" }, fix);
                NodeDefinition::task("", "none").kind
            },
            |block| NodeType::Block(Box::new(block)),
        ),
    };
    let join = rule("join", &fields).unwrap_or_else(|| {
        fields.wrong("join", "there is no such join", "use \"all\", \"any\" or a number of edges, at least 1");
        JoinRule::All
    });
    let on_error = on_error(&mut fields);
    NodeDefinition { id, kind, input: fields.any("input"), queue: fields.text("queue"), join, on_error }
}

fn on_error(fields: &mut Fields<'_, '_>) -> OnError {
    let Some(value) = fields.get("on_error") else {
        return OnError::Fail;
    };
    if let Some(fallback) = value.as_object().filter(|map| map.len() == 1).and_then(|map| map.get("fallback")) {
        return OnError::Fallback(fallback.clone());
    }
    match value.as_str() {
        Some("fail") => OnError::Fail,
        Some("route") => OnError::Route,
        Some("continue") => OnError::Continue,
        Some("skip") => OnError::Skip,
        _ => {
            let fix = "use \"fail\", \"route\", \"continue\", \"skip\" or {\"fallback\": …}";
            fields.wrong("on_error", "there is no such policy", fix);
            OnError::Fail
        }
    }
}

const TYPES: [&str; 16] = [
    "task",
    "set",
    "delay",
    "wait",
    "approval",
    "milestone",
    "context",
    "subflow",
    "fail",
    "terminate",
    "parallel",
    "foreach",
    "while",
    "if",
    "switch",
    "try",
];

/// The fields that only nodes of this type have; none when there is no such type.
fn own_fields(word: &str) -> Option<&'static [&'static str]> {
    Some(match word {
        "task" => &["handler", "timeout", "retry"],
        "set" => &["output"],
        "delay" => &["duration", "until"],
        "approval" => &["approvers", "timeout", "schema", "reminder"],
        "wait" => &["signal", "signals", "match", "timeout", "schema"],
        "subflow" => &subflow::FIELDS,
        "milestone" => &["when", "timeout"],
        "context" => &["set", "append", "increment", "merge"],
        "fail" => &["name", "message", "retryable"],
        "terminate" => &["state", "output", "error"],
        word => return block::fields(word),
    })
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

fn wait(fields: &mut Fields<'_, '_>) -> WaitDefinition {
    let signals = match (fields.text("signal"), fields.texts("signals")) {
        (Some(one), None) => vec![one],
        (None, Some(several)) => several,
        (Some(one), Some(_)) => {
            fields.wrong("signals", "`signal` is given as well", "keep one of them");
            vec![one]
        }
        (None, None) => {
            if fields.get("signal").is_none() && fields.get("signals").is_none() {
                fields.wrong("signal", "it is missing", "give `signal`, a name, or `signals`, a list of names");
            }
            // stands for a name that cannot be read, so that nothing else is wrong with it
            vec!["none".to_owned()]
        }
    };
    WaitDefinition {
        signals,
        matches: fields.text("match"),
        timeout: fields.text("timeout"),
        schema: fields.given("schema"),
    }
}

fn approval(id: &str, fields: &mut Fields<'_, '_>) -> NodeType {
    let approval = ApprovalDefinition {
        approvers: fields.texts("approvers"),
        timeout: fields.text("timeout"),
        schema: fields.given("schema"),
    };
    let queue = fields.text("queue");
    let Some(mut reminder) = fields.inner("reminder", &["handler", "after", "every", "times"]) else {
        return NodeType::Approval(Box::new(approval));
    };
    if reminder.get("after").is_none() {
        reminder.wrong("after", "it is missing", "say after what time it reminds, such as \"1d\"");
    }
    let reminder = ReminderDefinition {
        handler: reminder.needed_text("handler"),
        after: reminder.duration("after").unwrap_or(Duration::from_secs(1)),
        every: reminder.duration("every"),
        times: reminder.count("times"),
    };
    NodeType::Block(Box::new(RemindedApproval::block(id, queue.as_deref(), approval, reminder)))
}

fn context(fields: &mut Fields<'_, '_>) -> ContextDefinition {
    let mut at_paths = |word| fields.map(word, "write an object of values by path, such as {\"totals.paid\": 1}");
    let (set, append, increment) = (at_paths("set"), at_paths("append"), at_paths("increment"));
    let merge = fields.any("merge");
    if set.is_empty() && append.is_empty() && increment.is_empty() && merge.is_none() {
        fields.wrong("set", "it changes nothing", "give `set`, `append`, `increment` or `merge`");
    }
    ContextDefinition { set, append, increment, merge }
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
    let (output, value) = (fields.any("output"), fields.get("error"));
    let error = fields
        .inner("error", &["name", "message"])
        .map(|mut error| (error.needed_text("name"), error.text("message").unwrap_or_default()));
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

/// How many edges or branches something waits for; none when it is no such rule.
fn rule(name: &str, fields: &Fields<'_, '_>) -> Option<JoinRule> {
    let Some(value) = fields.get(name) else {
        return Some(JoinRule::All);
    };
    let count = value.as_u64().or_else(|| {
        let map = value.as_object().filter(|map| map.len() == 1)?;
        map.get("n")?.as_u64()
    });
    match (value.as_str(), count.and_then(|count| u32::try_from(count).ok())) {
        (Some("all"), _) => Some(JoinRule::All),
        (Some("any"), _) => Some(JoinRule::Any),
        (_, Some(count @ 1..)) => Some(JoinRule::Count(count)),
        _ => None,
    }
}

/// One policy, or a list of them.
fn retry(fields: &mut Fields<'_, '_>) -> Option<RetryPolicies> {
    let value = fields.get("retry")?;
    let Value::Array(_) = value else {
        return policy(value, fields.at("retry"), fields.reading).map(RetryPolicies::from);
    };
    let (listed, path) = (fields.list("retry", RetryPolicies::MOST), fields.at("retry"));
    if listed.is_empty() {
        fields.wrong("retry", "it is empty", "give at least one policy, or leave it out");
    }
    let read = |(place, value)| policy(value, format!("{path}[{place}]"), fields.reading);
    RetryPolicies::of(listed.iter().enumerate().filter_map(read).collect())
}

fn policy(value: &Value, path: String, reading: &mut Reading) -> Option<RetryPolicy> {
    let known = ["max_attempts", "initial", "factor", "max", "jitter", "total", "retry_on", "give_up"];
    let mut fields = Fields::open(value, path, &known, reading)?;
    let found = fields.reading.problems.len();
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
        give_up: match fields.text("give_up").as_deref() {
            None | Some("fail") => GiveUp::Fail,
            Some("pause") => GiveUp::Pause,
            Some(_) => {
                fields.wrong("give_up", "there is no such end", "use \"fail\" or \"pause\"");
                GiveUp::Fail
            }
        },
    };
    if fields.reading.problems.len() == found {
        for (field, message, fix) in policy.validate() {
            fields.wrong(field, message, fix);
        }
    }
    Some(policy)
}

fn edge(value: &Value, path: String, reading: &mut Reading) -> Option<EdgeDefinition> {
    if let Value::Array(pair) = value {
        return match pair.as_slice() {
            [Value::String(from), Value::String(to)] => Some(EdgeDefinition::success(from, to)),
            _ => {
                reading.wrong(path, "it is no pair of node ids", "write [\"from\", \"to\"] or an object");
                None
            }
        };
    }
    let mut fields = Fields::open(value, path, &["from", "to", "on", "when"], reading)?;
    let (from, to) = (fields.needed_text("from"), fields.needed_text("to"));
    let on = match fields.text("on").as_deref() {
        None | Some("success") => On::Success,
        Some("failure") => On::Failure,
        Some("always") => On::Always,
        Some("timeout") => On::Timeout,
        Some(_) => {
            let fix = "use \"success\", \"failure\", \"always\" or, after what waits, \"timeout\"";
            fields.wrong("on", "there is no such ending", fix);
            On::Success
        }
    };
    let when = fields.text("when");
    (!from.is_empty() && !to.is_empty()).then_some(EdgeDefinition { from, to, on, when })
}
