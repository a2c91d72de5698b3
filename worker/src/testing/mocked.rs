//! Definitions as a test publishes them: a `subflow` that a mock answers is a task there.

use longshore_core::definition::{Definition, NodeDefinition, NodeType};
use longshore_core::retry::RetryPolicies;

/// The handler of a task that stands for a `subflow`; its mock is found by its node.
const SUBFLOW: &str = "subflow";

/// The definition with those of its `subflow` nodes replaced.
pub(crate) fn mocked(definition: &Definition, is_mocked: &dyn Fn(&str) -> bool) -> Definition {
    let mut definition = definition.clone();
    replace(&mut definition.nodes, is_mocked);
    definition
}

fn replace(nodes: &mut [NodeDefinition], is_mocked: &dyn Fn(&str) -> bool) {
    for node in nodes {
        match &mut node.kind {
            NodeType::Subflow(subflow) if is_mocked(&node.id) => {
                node.kind = NodeType::Task {
                    handler: SUBFLOW.to_owned(),
                    timeout: subflow.timeout,
                    retry: Some(subflow.retry.clone().unwrap_or_else(RetryPolicies::once)),
                };
            }
            NodeType::Block(block) => {
                block.kind.bodies_mut().into_iter().for_each(|body| replace(&mut body.nodes, is_mocked));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::json;

    use super::*;

    #[test]
    fn a_subflow_that_is_mocked_is_a_task_wherever_it_stands() {
        let call = |id: &str| json!({"id": id, "type": "subflow", "workflow": "pack", "timeout": "1h"});
        let body = |id: &str| json!({"nodes": [call(id)]});
        let definition = json!({"name": "w", "nodes": [
            call("top"), call("real"),
            {"id": "try", "type": "try", "body": body("b"), "catch": [{"body": body("c")}], "finally": body("f")},
            {"id": "if", "type": "if", "when": "true", "then": body("t"), "else": body("e")},
            {"id": "switch", "type": "switch", "cases": [{"when": "true", "body": body("s")}], "default": body("d")},
            {"id": "all", "type": "parallel", "branches": [{"id": "x", "nodes": [call("p")]}]},
            {"id": "each", "type": "foreach", "items": [], "body": body("i")}]});
        let definition = Definition::from_json(&definition).unwrap();
        let text = mocked(&definition, &|node| node != "real").to_value().to_string();
        assert_eq!(text.matches(r#""handler":"subflow""#).count(), 10, "{text}");
        assert_eq!(text.matches(r#""type":"subflow""#).count(), 1, "{text}");
        assert!(text.contains(r#""timeout":"1h""#) && text.contains(r#""max_attempts":1"#), "{text}");
        assert!(Definition::from_json(&serde_json::from_str(&text).unwrap()).is_ok());
    }
}
