//! Parallel and Map: blocks that hold machines.

use serde_json::{Value, json};

use super::data::Stage;
use super::flow::{Around, Arrival, Exit};
use super::graph::Graph;
use super::machine::{Machine, State};
use super::path::{self, Scope};
use super::{Translation, frame, output, template};

impl Translation {
    pub(super) fn parallel(
        &mut self,
        state: &State<'_>,
        id: &str,
        arrival: &Arrival,
        around: &Around,
        graph: &mut Graph,
    ) -> Vec<Exit> {
        let input = self.input(state, state.payload_field(), &arrival.scope);
        let inside = around.within(id, None);
        let branch = |(place, machine): (usize, &Machine<'_>)| {
            let mut branch = json!({"id": (place + 1).to_string()});
            self.body(machine, &inside, None).write(&mut branch);
            branch
        };
        let branches: Vec<Value> = state.inner.iter().enumerate().map(branch).collect();
        let outputs: Vec<_> =
            (1..=branches.len()).map(|place| template(&format!("{}[\"{place}\"]", output(id)))).collect();
        let mut node = json!({"id": id, "type": "parallel", "branches": branches});
        self.patience(state, &mut node);
        Self::give(&mut node, input, arrival);
        graph.nodes.push(node);
        // a list of what the branches gave, where ours is an object
        let stage = self.append(state, "list", json!(outputs), Stage::of(id), graph);
        self.exits(state, id, &arrival.scope, stage, None, graph)
    }

    pub(super) fn map(
        &mut self,
        state: &State<'_>,
        id: &str,
        arrival: &Arrival,
        around: &Around,
        graph: &mut Graph,
    ) -> Vec<Exit> {
        let raw = &arrival.scope;
        let input = self.input(state, "", raw);
        let own = raw.on("input");
        let mut node = json!({"id": id, "type": "foreach", "items": self.items(state, &own)});
        self.limits(state, &own, &mut node);
        self.patience(state, &mut node);
        if node.get("tolerate").is_some() && state.get("Retry").is_some() {
            self.refuse(state.name, "Retry: that too many items failed is final here");
        }
        let inside = Around { map: true, ..around.within(id, Some(frame(id, "index"))) };
        let selector = match (state.get("ItemSelector"), state.get("Parameters")) {
            (None, None) => None,
            (Some(selector), None) => Some(("ItemSelector", selector)),
            (None, Some(selector)) => Some(("Parameters", selector)),
            (Some(_), Some(_)) => {
                self.refuse(state.name, "Parameters: ItemSelector is given as well");
                None
            }
        };
        let first = selector.map(|(field, selector)| {
            let scope = Scope { map: true, ..self.input_scope(state, raw) };
            (self.id(id, "item"), self.payload(state, field, selector, &scope))
        });
        self.mode(state);
        let body = state.inner.first().map(|machine| self.body(machine, &inside, first)).unwrap_or_default();
        node["body"] = body.value();
        Self::give(&mut node, input, arrival);
        graph.nodes.push(node);
        self.exits(state, id, raw, Stage::of(id), None, graph)
    }

    /// The items, `own` being the document that the block is given.
    fn items(&mut self, state: &State<'_>, own: &Scope) -> Value {
        match (state.get("ItemsPath"), state.get("Items")) {
            (None, None) => template(&own.document),
            (Some(Value::String(path)), None) => {
                let found = path::required(path, own);
                template(&self.or_refuse(state.name, "ItemsPath", found, "none".to_owned()))
            }
            (None, Some(items @ (Value::String(_) | Value::Array(_)))) => self.payload(state, "Items", items, own),
            _ => {
                self.refuse(state.name, "its items are no path and no list");
                json!([])
            }
        }
    }

    /// How many items go on at a time and how many may fail.
    fn limits(&mut self, state: &State<'_>, own: &Scope, node: &mut Value) {
        if let Some(limit) = self.number(state, "MaxConcurrency", own) {
            // 0 means no limit: as many as usual
            match limit {
                Limit::Given(0.0) => {}
                Limit::Given(limit) => node["concurrency"] = whole(limit),
                Limit::Read(found) => node["concurrency"] = template(&format!("256 if {found} == 0 else {found}")),
            }
        }
        let count = self.number(state, "ToleratedFailureCount", own).map(|limit| match limit {
            Limit::Given(count) => whole(count),
            Limit::Read(found) => template(&found),
        });
        let share = self.number(state, "ToleratedFailurePercentage", own).map(|limit| match limit {
            Limit::Given(percent) => json!(percent / 100.0),
            Limit::Read(found) => template(&format!("({found}) / 100")),
        });
        if let Some(count) = count {
            node["tolerate"]["count"] = count;
        }
        if let Some(share) = share {
            node["tolerate"]["share"] = share;
        }
    }

    fn number(&mut self, state: &State<'_>, field: &str, own: &Scope) -> Option<Limit> {
        let found = match (state.get(field), state.get(&format!("{field}Path"))) {
            (None, None) => return None,
            (Some(number), None) if number.is_number() => Ok(Limit::Given(number.as_f64().unwrap_or(-1.0))),
            (Some(Value::String(text)), None) if state.jsonata => path::jsonata(text, own).map(Limit::Read),
            (None, Some(Value::String(text))) => path::required(text, own).map(Limit::Read),
            _ => Err("it is no number, or given twice".to_owned()),
        };
        Some(self.or_refuse(state.name, field, found, Limit::Given(1.0)))
    }

    /// A distributed Map without a reader does what an inline one does.
    fn mode(&mut self, state: &State<'_>) {
        let processor = state.get("ItemProcessor").or(state.get("Iterator"));
        let Some(config) = processor.and_then(|processor| processor.get("ProcessorConfig")) else { return };
        for (field, value) in config.as_object().into_iter().flatten() {
            let known = match field.as_str() {
                "Mode" => ["INLINE", "DISTRIBUTED"],
                "ExecutionType" => ["STANDARD", "EXPRESS"],
                _ => ["", ""],
            };
            if !value.as_str().is_some_and(|value| known.contains(&value)) {
                self.refuse(state.name, format!("ProcessorConfig.{field} {value} is not translated"));
            }
        }
    }
}

/// A number that is written, or an expression that gives it.
enum Limit {
    Given(f64),
    Read(String),
}

/// A whole number as JSON writes it.
fn whole(number: f64) -> Value {
    let text = number.to_string();
    serde_json::from_str(&text).unwrap_or_else(|_| json!(number))
}
