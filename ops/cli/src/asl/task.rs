//! Task: a handler that is named by the resource; with `.waitForTaskToken` a handler and a wait for its answer.

use longshore_core::definition::block::MAX_ITERATIONS;
use serde_json::{Value, json};

use super::data::Stage;
use super::flow::{Around, Arrival, Exit};
use super::graph::{Graph, Way};
use super::machine::State;
use super::path::Scope;
use super::{Translation, child, output, template};

/// How long a state may take that does not say.
const USUAL_SECONDS: u64 = 99_999_999;
const TOKEN: &str = ".waitForTaskToken";

impl Translation {
    pub(super) fn task(
        &mut self,
        state: &State<'_>,
        id: &str,
        arrival: &Arrival,
        around: &Around,
        graph: &mut Graph,
    ) -> (String, Vec<Exit>) {
        let resource = state.get("Resource").and_then(Value::as_str).unwrap_or_default();
        if resource.is_empty() {
            self.refuse(state.name, "Resource is missing");
        }
        if let Some(text) = child::waits(resource) {
            return self.child(state, id, text, arrival, graph);
        }
        if resource.contains(":states:startExecution") {
            self.refuse(state.name, "startExecution is translated with .sync and .sync:2 only");
        }
        let timeout = format!("{}s", self.seconds(state, "TimeoutSeconds").unwrap_or(USUAL_SECONDS));
        let retry = self.retry(state);
        let Some(resource) = resource.strip_suffix(TOKEN) else {
            if state.get("HeartbeatSeconds").is_some() {
                self.refuse(
                    state.name,
                    "HeartbeatSeconds is translated with .waitForTaskToken only: a worker's sign of life is its lease",
                );
            }
            let mut node =
                json!({"id": id, "type": "task", "handler": handler(resource), "timeout": timeout, "retry": retry});
            let input = self.input(state, state.payload_field(), &arrival.scope);
            Self::give(&mut node, input, arrival);
            graph.nodes.push(node);
            return (id.to_owned(), self.exits(state, id, &arrival.scope, Stage::of(id), None, graph));
        };
        let token = Token::of(id, around);
        let scope = Scope { token: Some(token.expression()), ..arrival.scope.clone() };
        let input = self.input(state, state.payload_field(), &scope);
        let (answered, signal) = self.answered(state, id, &token, handler(resource), input);
        graph.nodes.push(json!({"id": id, "type": "if", "when": "true", "timeout": timeout, "retry": retry, "then": answered.value()}));
        (id.to_owned(), self.exits(state, id, &arrival.scope, Stage::of(id), signal.as_deref(), graph))
    }

    /// The body of a state that waits for an answer: the handler that hands the token out, the wait, and the failure
    /// that the answer may be. Also the node that waits for heartbeats.
    fn answered(
        &mut self,
        state: &State<'_>,
        id: &str,
        token: &Token,
        handler: String,
        input: Value,
    ) -> (Graph, Option<String>) {
        let (ask, wait, fail) = (self.id(id, "ask"), self.id(id, "answer"), self.id(id, "failure"));
        let mut graph = Graph::of(json!({
            "id": ask, "type": "task", "handler": handler, "timeout": format!("{USUAL_SECONDS}s"), "retry": {"max_attempts": 1}, "input": input
        }));
        let heartbeat = self.seconds(state, "HeartbeatSeconds");
        let mut signals = vec![token.text(""), token.text("/failure")];
        let signal = heartbeat.map(|seconds| {
            // a heartbeat ends a pass, and the time begins anew
            let signal = self.id(id, "signal");
            signals.push(token.text("/heartbeat"));
            let one = json!({"id": signal, "type": "wait", "signals": signals, "timeout": format!("{seconds}s")});
            graph.nodes.push(json!({
                "id": wait, "type": "while", "do_while": true, "when": "input.signal is endingwith \"/heartbeat\"", "max_iterations": MAX_ITERATIONS,
                "body": Graph::of(one).value()
            }));
            signal
        });
        if signal.is_none() {
            graph.nodes.push(json!({"id": wait, "type": "wait", "signals": signals}));
        }
        let answer = output(&wait);
        graph.nodes.push(json!({
            "id": fail, "type": "fail", "retryable": true,
            "name": format!("{{{{ {answer}.payload.error|default(\"States.TaskFailed\") }}}}"),
            "message": format!("{{{{ {answer}.payload.cause }}}}")
        }));
        graph.follow(&ask, &wait);
        graph.edge(&wait, &Way::when(format!("{answer}.signal is endingwith \"/failure\"")), &fail);
        graph.output = Some(template(&format!("{answer}.payload")));
        (graph, signal)
    }

    /// A whole number of seconds, at least 1; none when it is not given.
    pub(super) fn seconds(&mut self, state: &State<'_>, field: &str) -> Option<u64> {
        let given = state.get(field)?;
        let seconds = given.as_u64().filter(|seconds| *seconds > 0);
        if seconds.is_none() {
            self.refuse(state.name, format!("{field} is no whole number of at least 1"));
        }
        seconds
    }
}

/// The handler that does what a resource stands for: the name of a function or an activity, the action of a service,
/// anything else as it is.
fn handler(resource: &str) -> String {
    if let Some(action) = resource.strip_prefix("arn:aws:states:::") {
        return action.to_owned();
    }
    let parts: Vec<_> = resource.split(':').collect();
    match parts.as_slice() {
        ["arn", _, "lambda", _, _, "function", name, ..] | ["arn", _, "states", _, _, "activity", name] => {
            (*name).to_owned()
        }
        _ => resource.to_owned(),
    }
}

/// What an answer is addressed to: a signal of this name, sent to the run that its first part names.
struct Token {
    id: String,
    indexes: Vec<String>,
}

impl Token {
    fn of(id: &str, around: &Around) -> Self {
        Self { id: id.to_owned(), indexes: around.indexes.clone() }
    }

    fn expression(&self) -> String {
        let indexes: String = self.indexes.iter().map(|index| format!(" ~ \"/\" ~ {index}")).collect();
        format!("(run.id ~ \"/{}\"{indexes})", self.id)
    }

    /// The name of a signal that begins with it.
    fn text(&self, end: &str) -> String {
        let indexes: String = self.indexes.iter().map(|index| format!("/{{{{ {index} }}}}")).collect();
        format!("{{{{ run.id }}}}/{}{indexes}{end}", self.id)
    }
}
