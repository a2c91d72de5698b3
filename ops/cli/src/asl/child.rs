//! Task that starts another state machine and waits for it: a child run.

use longshore_core::definition::MAX_ID;
use serde_json::json;

use super::data::Stage;
use super::flow::{Arrival, Exit};
use super::graph::Graph;
use super::machine::State;
use super::{Translation, output, template};
use crate::wfcommons::allowed;

/// The resources, and whether what the machine gave comes as JSON text.
const SYNC: [(&str, bool); 2] =
    [("arn:aws:states:::states:startExecution.sync", true), ("arn:aws:states:::states:startExecution.sync:2", false)];

/// Whether the output comes as text, where a resource starts a machine and waits for it.
pub(super) fn waits(resource: &str) -> Option<bool> {
    SYNC.iter().find(|(known, _)| *known == resource).map(|(_, text)| *text)
}

impl Translation {
    /// `text`: the output comes as JSON text.
    pub(super) fn child(
        &mut self,
        state: &State<'_>,
        id: &str,
        text: bool,
        arrival: &Arrival,
        graph: &mut Graph,
    ) -> (String, Vec<Exit>) {
        let given = self.input(state, state.payload_field(), &arrival.scope);
        if state.get("HeartbeatSeconds").is_some() {
            self.refuse(state.name, "HeartbeatSeconds is translated with .waitForTaskToken only");
        }
        let machine = given["StateMachineArn"].as_str().filter(|name| !name.contains("{{"));
        let workflow = match machine {
            Some(machine) => {
                let name = machine.split_once(":stateMachine:").map_or(machine, |(_, name)| name);
                allowed(name.split(':').next().unwrap_or(name), MAX_ID)
            }
            None => {
                let why =
                    "StateMachineArn is no constant: which workflow is started is known when a definition is published";
                self.refuse(state.name, why);
                "unknown".to_owned()
            }
        };
        for (field, _) in given.as_object().into_iter().flatten() {
            if !["StateMachineArn", "Input", "Name"].contains(&field.as_str()) {
                self.refuse(state.name, format!("{field} of what starts a machine is not translated"));
            }
        }
        // what the machine is given is what its execution is said to have been given
        let input = self.id(id, "given");
        graph.set(&input, given["Input"].clone());
        let given_input = format!("{}|default({{}})", output(&input));
        let mut node = json!({"id": id, "type": "subflow", "workflow": workflow, "input": template(&given_input)});
        self.patience(state, &mut node);
        if let Some(seconds) = self.seconds(state, "TimeoutSeconds") {
            node["timeout"] = json!(format!("{seconds}s"));
        }
        graph.nodes.push(node);
        graph.follow(&input, id);
        let text_of = |expression: &str| template(&format!("({expression})|tojson"));
        let mut result = json!({
            "StateMachineArn": machine, "Status": "SUCCEEDED", "Input": text_of(&given_input),
            "Output": if text { text_of(&output(id)) } else { template(&output(id)) }
        });
        if let Some(name) = given.get("Name") {
            result["Name"] = name.clone();
        }
        let stage = self.append(state, "execution", result, Stage::of(id), graph);
        (input, self.exits(state, id, &arrival.scope, stage, None, graph))
    }
}
