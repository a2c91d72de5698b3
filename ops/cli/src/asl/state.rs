//! One state as nodes: Pass, Wait, Succeed and Fail here, the others in modules of their own.

use chrono::DateTime;
use longshore_core::expression::{plain, plain_text};
use serde_json::{Value, json};

use super::data::Stage;
use super::flow::{Around, Arrival, Exit};
use super::graph::Graph;
use super::machine::{Kind, State};
use super::path::{self, Scope};
use super::{Translation, template};

impl Translation {
    /// Adds the nodes of a state; the first of them, and the ways that leave it.
    pub(super) fn state(
        &mut self,
        state: &State<'_>,
        arrival: &Arrival,
        around: &Around,
        graph: &mut Graph,
    ) -> (String, Vec<Exit>) {
        let id = self.node(state.name);
        let exits = match state.kind {
            Kind::Choice => return self.choice(state, &id, arrival, graph),
            Kind::Task => return self.task(state, &id, arrival, around, graph),
            Kind::Parallel => self.parallel(state, &id, arrival, around, graph),
            Kind::Map => self.map(state, &id, arrival, around, graph),
            Kind::Pass => self.pass(state, &id, arrival, graph),
            Kind::Wait => self.wait(state, &id, arrival, graph),
            Kind::Succeed => {
                let made = self.input(state, "", &arrival.scope);
                graph.set(&id, made);
                vec![self.leave(state, &arrival.scope, Stage::of(&id), graph)]
            }
            Kind::Fail => {
                let text = |this: &mut Self, field: &str| this.text(state, field, &arrival.scope);
                let (name, message) = (text(self, "Error"), text(self, "Cause"));
                let name = name.unwrap_or_else(|| "failed".to_owned());
                // a Map or a Parallel around it may have a Retry
                graph.nodes.push(json!({"id": id, "type": "fail", "name": name, "message": message.unwrap_or_default(), "retryable": true}));
                Vec::new()
            }
        };
        (id, exits)
    }

    /// The way on when the state is done, behind the nodes that make its output.
    pub(super) fn leave(&mut self, state: &State<'_>, raw: &Scope, stage: Stage, graph: &mut Graph) -> Exit {
        let stage = self.finish(state, raw, stage, graph);
        Exit::of(state, stage)
    }

    /// The way on, and those of the catchers. `signal` is the node that waits for heartbeats, if one does.
    pub(super) fn exits(
        &mut self,
        state: &State<'_>,
        id: &str,
        raw: &Scope,
        stage: Stage,
        signal: Option<&str>,
        graph: &mut Graph,
    ) -> Vec<Exit> {
        let mut exits = vec![self.leave(state, raw, stage, graph)];
        exits.extend(self.catches(state, id, raw, signal, graph));
        exits
    }

    /// The `input` of a state's first node, unless it is what the node is given anyway.
    pub(super) fn give(node: &mut Value, input: Value, arrival: &Arrival) {
        if input != template(&arrival.default) {
            node["input"] = input;
        }
    }

    fn pass(&mut self, state: &State<'_>, id: &str, arrival: &Arrival, graph: &mut Graph) -> Vec<Exit> {
        let raw = &arrival.scope;
        let made = match (state.get("Result"), state.get("Output")) {
            (Some(result), _) => plain(result),
            (None, Some(made)) => self.payload(state, "Output", made, raw),
            (None, None) => self.input(state, "Parameters", raw),
        };
        graph.set(id, made);
        let stage = Stage::of(id);
        // its Output is what it made
        vec![if state.jsonata { Exit::of(state, stage) } else { self.leave(state, raw, stage, graph) }]
    }

    fn wait(&mut self, state: &State<'_>, id: &str, arrival: &Arrival, graph: &mut Graph) -> Vec<Exit> {
        let raw = &arrival.scope;
        let scope = self.input_scope(state, raw);
        let times: Vec<_> = ["Seconds", "SecondsPath", "Timestamp", "TimestampPath"]
            .into_iter()
            .filter_map(|field| Some((field, state.get(field)?)))
            .collect();
        let mut node = json!({"id": id, "type": "delay"});
        let time = match times.as_slice() {
            [("Seconds", seconds)] if seconds.is_u64() => Ok(("duration", format!("{seconds}s"))),
            [("Timestamp", time)] if time.as_str().is_some_and(|time| DateTime::parse_from_rfc3339(time).is_ok()) => {
                Ok(("until", time.as_str().unwrap_or_default().to_owned()))
            }
            [(field @ ("Seconds" | "Timestamp"), Value::String(text))] if state.jsonata => {
                path::jsonata(text, &scope).map(|found| time(field, &found))
            }
            [(field @ ("SecondsPath" | "TimestampPath"), Value::String(text))] => {
                path::required(text, &scope).map(|found| time(field, &found))
            }
            [(field, _)] => Err(format!("{field} is no such time")),
            _ => Err("it needs one of Seconds, Timestamp, SecondsPath and TimestampPath".to_owned()),
        };
        let (field, time) = time.unwrap_or_else(|why| {
            self.refuse(state.name, why);
            ("duration", "0s".to_owned())
        });
        node[field] = json!(time);
        let input = self.input(state, "", raw);
        Self::give(&mut node, input, arrival);
        graph.nodes.push(node);
        vec![self.leave(state, raw, Stage::of(id), graph)]
    }

    /// A text of a Fail: a constant, a path or JSONata.
    fn text(&mut self, state: &State<'_>, field: &str, raw: &Scope) -> Option<String> {
        let found = match (state.get(field), state.get(&format!("{field}Path"))) {
            (None, None) => return None,
            (Some(Value::String(text)), None) if state.jsonata && text.starts_with("{%") => path::jsonata(text, raw),
            (Some(Value::String(text)), None) => return Some(plain_text(text)),
            (None, Some(Value::String(text))) => path::required(text, raw),
            _ => Err("it is no text, or given twice".to_owned()),
        };
        let found = self.or_refuse(state.name, field, found, "none".to_owned());
        Some(format!("{{{{ {found} }}}}"))
    }
}

/// A time that is read from the document.
fn time(field: &str, found: &str) -> (&'static str, String) {
    if field.starts_with("Seconds") {
        ("duration", format!("{{{{ {found} }}}}s"))
    } else {
        ("until", format!("{{{{ {found} }}}}"))
    }
}
