//! What a state is given and what it makes of its result: payload templates and the fields around them.

use longshore_core::expression::plain;
use serde_json::{Map, Value, json};

use super::graph::Graph;
use super::machine::{Kind, State};
use super::path::{self, Scope, Step};
use super::{Translation, intrinsic, literal, output, template};

/// The longest `ResultPath`: what `put` takes.
const MAX_PATH: usize = 32;

/// A state's node and those behind it, while the document goes through them.
pub(super) struct Stage {
    /// The last node.
    pub at: String,
    /// The document, as an expression to which `.a` may be added.
    pub document: String,
}

impl Stage {
    /// The node gives the document.
    pub(super) fn of(id: &str) -> Self {
        Self { document: output(id), at: id.to_owned() }
    }
}

impl Translation {
    /// A payload template as a template of ours.
    pub(super) fn payload(&mut self, state: &State<'_>, field: &str, value: &Value, scope: &Scope) -> Value {
        match value {
            Value::Object(map) => Value::Object(self.fields(state, field, map, scope)),
            Value::Array(items) => items.iter().map(|item| self.payload(state, field, item, scope)).collect(),
            Value::String(text) if scope.jsonata && text.starts_with("{%") => {
                let found = path::jsonata(text, scope);
                template(&self.or_refuse(state.name, field, found, "none".to_owned()))
            }
            other => plain(other),
        }
    }

    fn fields(
        &mut self,
        state: &State<'_>,
        field: &str,
        map: &Map<String, Value>,
        scope: &Scope,
    ) -> Map<String, Value> {
        let mut fields = Map::new();
        for (key, value) in map {
            let Some(name) = key.strip_suffix(".$").filter(|_| !scope.jsonata) else {
                fields.insert(key.clone(), self.payload(state, field, value, scope));
                continue;
            };
            let found = match value.as_str() {
                Some(text) if text.starts_with("States.") => intrinsic::call(text, scope),
                Some(text) => path::required(text, scope),
                None => Err("the value of a name that ends in `.$` is a path".to_owned()),
            };
            let found = self.or_refuse(state.name, &format!("{field}.{key}"), found, "none".to_owned());
            fields.insert(name.to_owned(), template(&found));
        }
        fields
    }

    /// The scope of a state's fields; the document is what is left of it after `InputPath`.
    pub(super) fn input_scope(&mut self, state: &State<'_>, scope: &Scope) -> Scope {
        match state.get("InputPath") {
            Some(Value::String(path)) => {
                let found = path::value(path, scope);
                let document = self.or_refuse(state.name, "InputPath", found, "none".to_owned());
                let part = document != scope.document;
                Scope { part, ..scope.on(&document) }
            }
            Some(Value::Null) => scope.on("({})"),
            Some(_) => {
                self.refuse(state.name, "InputPath: it is no path");
                scope.clone()
            }
            None => scope.clone(),
        }
    }

    /// What the state works on, as a template: `raw` after `InputPath` and the field that makes a new document of it.
    pub(super) fn input(&mut self, state: &State<'_>, field: &str, raw: &Scope) -> Value {
        let scope = self.input_scope(state, raw);
        match state.get(field) {
            Some(value) => self.payload(state, field, value, &scope),
            None if scope.document == "({})" => json!({}),
            None if scope.part => template(&format!("{}|required", scope.document)),
            None => template(&scope.document),
        }
    }

    /// The nodes that make the state's output of its result, which the node `stage.at` gives: `ResultSelector`,
    /// `ResultPath` and `OutputPath`, or in JSONata `Output`. `raw` is what came to the state.
    pub(super) fn finish(&mut self, state: &State<'_>, raw: &Scope, stage: Stage, graph: &mut Graph) -> Stage {
        if state.jsonata {
            let works = matches!(state.kind, Kind::Task | Kind::Parallel | Kind::Map);
            let scope = Scope { result: works.then(|| stage.document.clone()), ..raw.clone() };
            return match state.get("Output") {
                Some(value) => {
                    let made = self.payload(state, "Output", value, &scope);
                    self.append(state, "output", made, stage, graph)
                }
                None => stage,
            };
        }
        let mut stage = stage;
        if let Some(selector) = state.get("ResultSelector") {
            let scope = raw.on(&stage.document);
            let made = self.payload(state, "ResultSelector", selector, &scope);
            stage = self.append(state, "result", made, stage, graph);
        }
        match state.get("ResultPath") {
            None => {}
            Some(Value::Null) => stage.document.clone_from(&raw.document),
            Some(Value::String(path)) => {
                if let Some(put) = self.put(state.name, path, &raw.document, &stage.document) {
                    let made = self.output_path(state, &put, raw);
                    return self.append(state, "output", made, stage, graph);
                }
            }
            Some(_) => self.refuse(state.name, "ResultPath: it is no path"),
        }
        match state.get("OutputPath") {
            None => stage,
            Some(Value::String(path)) if path == "$" => stage,
            Some(_) => {
                let made = self.output_path(state, &stage.document, raw);
                self.append(state, "output", made, stage, graph)
            }
        }
    }

    /// A template that gives what `OutputPath` leaves of a document.
    fn output_path(&mut self, state: &State<'_>, document: &str, raw: &Scope) -> Value {
        match state.get("OutputPath") {
            None => template(document),
            Some(Value::Null) => json!({}),
            Some(Value::String(path)) if path == "$" => template(document),
            Some(Value::String(path)) => {
                let found = path::required(path, &raw.on(&format!("({document})")));
                template(&self.or_refuse(state.name, "OutputPath", found, "none".to_owned()))
            }
            Some(_) => {
                self.refuse(state.name, "OutputPath: it is no path");
                Value::Null
            }
        }
    }

    /// The expression that puts a result into the document; none when it takes its place.
    pub(super) fn put(&mut self, state: &str, path: &str, document: &str, result: &str) -> Option<String> {
        let steps = match path.strip_prefix('$').map(path::steps) {
            Some(Ok(steps)) if steps.len() <= MAX_PATH => steps,
            _ => {
                self.refuse(state, format!("ResultPath: `{path}` is no path of at most {MAX_PATH} names and places"));
                return None;
            }
        };
        if steps.is_empty() {
            return None;
        }
        let steps = steps.into_iter().map(|step| match step {
            Step::Field(name) => literal(&name),
            Step::Item(place) => place.to_string(),
        });
        Some(format!("{document}|put([{}], {result})", steps.collect::<Vec<_>>().join(", ")))
    }

    /// A `set` node behind the last one.
    pub(super) fn append(
        &mut self,
        state: &State<'_>,
        what: &str,
        made: Value,
        stage: Stage,
        graph: &mut Graph,
    ) -> Stage {
        let id = self.id(&self.node(state.name), what);
        graph.set(&id, made);
        graph.follow(&stage.at, &id);
        Stage::of(&id)
    }
}
