//! The nodes and edges that a translation makes.

use std::collections::HashSet;

use serde_json::{Value, json};

/// Nodes, edges among them, and the output if it is not that of the only sink.
#[derive(Default)]
pub(super) struct Graph {
    pub nodes: Vec<Value>,
    pub edges: Vec<Value>,
    pub output: Option<Value>,
}

/// Which ending of a node leads on, and whether only under a condition.
#[derive(Clone, Default)]
pub(super) struct Way {
    pub failure: bool,
    pub when: Option<String>,
}

impl Way {
    /// When the node completed and this holds.
    pub(super) fn when(condition: String) -> Self {
        Self { failure: false, when: Some(condition) }
    }
}

impl Graph {
    /// One node.
    pub(super) fn of(node: Value) -> Self {
        Self { nodes: vec![node], ..Self::default() }
    }

    /// A `set` node.
    pub(super) fn set(&mut self, id: &str, output: Value) {
        self.nodes.push(json!({"id": id, "type": "set", "output": output}));
    }

    pub(super) fn edge(&mut self, from: &str, way: &Way, to: &str) {
        if !way.failure && way.when.is_none() {
            self.edges.push(json!([from, to]));
            return;
        }
        let mut edge = json!({"from": from, "to": to});
        if way.failure {
            edge["on"] = json!("failure");
        }
        if let Some(when) = &way.when {
            edge["when"] = json!(when);
        }
        self.edges.push(edge);
    }

    /// An edge that is taken when the node completed.
    pub(super) fn follow(&mut self, from: &str, to: &str) {
        self.edge(from, &Way::default(), to);
    }

    /// The one node that nothing leaves, if it is one.
    pub(super) fn only_sink<'g>(&'g self) -> Option<&'g str> {
        let from = |edge: &'g Value| edge.get("from").or(edge.get(0)).and_then(Value::as_str);
        let left: HashSet<&str> = self.edges.iter().filter_map(from).collect();
        let mut sinks = self.nodes.iter().filter_map(|node| node["id"].as_str()).filter(|id| !left.contains(id));
        sinks.next().filter(|_| sinks.next().is_none())
    }

    /// Adds it to a body or a definition.
    pub(super) fn write(self, body: &mut Value) {
        body["nodes"] = json!(self.nodes);
        if !self.edges.is_empty() {
            body["edges"] = json!(self.edges);
        }
        if let Some(output) = self.output {
            body["output"] = output;
        }
    }

    /// As the body of a block.
    pub(super) fn value(self) -> Value {
        let mut body = json!({});
        self.write(&mut body);
        body
    }
}
