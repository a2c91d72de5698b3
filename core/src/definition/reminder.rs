//! Approvals with a reminder: a block of two bodies that begin together. One waits for the answer, and its end is the block's; the other runs the handler again
//! and again, and nothing follows from it. What its author writes, its canonical JSON, and the bodies, which follow from that.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::block::{MAX_ITERATIONS, OnLimit};
use super::wait::approval_signal;
use super::{
    ApprovalDefinition, BlockDefinition, BlockType, BodyDefinition, DelayTime, EdgeDefinition, JoinRule, MAX_ID,
    NodeDefinition, NodeType, OnError,
};
use crate::duration;
use crate::expression::plain;

/// The longest id of such a node: those of the nodes it holds begin with it.
pub const MAX_REMINDED_ID: usize = MAX_ID - ".reminders".len();

/// What runs while nobody has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReminderDefinition {
    /// The handler's name.
    pub handler: String,
    /// How long after the approval begins.
    pub after: Duration,
    /// How long after each reminder the next one follows; as `after` when not given.
    pub every: Option<Duration>,
    /// How many there are at most.
    pub times: Option<u32>,
}

/// An `approval` node with a reminder.
#[derive(Clone, Debug, PartialEq)]
pub struct RemindedApproval {
    /// What it waits for.
    pub approval: ApprovalDefinition,
    /// What runs meanwhile.
    pub reminder: ReminderDefinition,
    /// The body that waits: a node `<id>.answer`.
    pub answer: BodyDefinition,
    /// The body that reminds: `<id>.form`, then `<id>.reminders`, each pass of which is `<id>.later` and `<id>.remind`.
    pub reminders: BodyDefinition,
}

impl RemindedApproval {
    /// The block that a node of this id and queue is.
    pub fn block(
        id: &str,
        queue: Option<&str>,
        approval: ApprovalDefinition,
        reminder: ReminderDefinition,
    ) -> BlockDefinition {
        let node = |part: &str, kind: NodeType| NodeDefinition {
            id: format!("{id}.{part}"),
            kind,
            input: None,
            queue: queue.map(str::to_owned),
            join: JoinRule::All,
            on_error: OnError::Fail,
        };
        let of = |nodes: Vec<NodeDefinition>| {
            let pairs = nodes.iter().zip(nodes.iter().skip(1));
            let edges = pairs.map(|(from, to)| EdgeDefinition::success(&from.id, &to.id)).collect();
            BodyDefinition { nodes, edges, output: None }
        };
        let form = json!({
            "approval": id, "signal": approval_signal(id), "approvers": approval.approvers,
            "schema": approval.schema.as_ref().map(plain), "input": "{{ input }}"
        });
        let remind = NodeDefinition {
            input: Some(json!("{{ frame.input|put([\"reminded\"], frame.index) }}")),
            // one that fails is as good as one that was not read
            on_error: OnError::Continue,
            ..node("remind", NodeType::Task { handler: reminder.handler.clone(), timeout: None, retry: None })
        };
        let pass = of(vec![node("later", NodeType::Delay(DelayTime::For(reminder.pause()))), remind]);
        let passes = BlockType::While {
            when: "true".to_owned(),
            do_while: false,
            max_iterations: reminder.times.unwrap_or(MAX_ITERATIONS),
            on_limit: OnLimit::Stop,
            keep: None,
            // each pass is given the form
            body: BodyDefinition { output: Some(json!("{{ frame.input }}")), ..pass },
        };
        let passes = BlockDefinition { kind: passes, timeout: None, retry: None };
        let answer = of(vec![node("answer", NodeType::Approval(Box::new(approval.clone())))]);
        let reminders = of(vec![
            node("form", NodeType::Set { output: form }),
            node("reminders", NodeType::Block(Box::new(passes))),
        ]);
        let reminded = Self { approval, reminder, answer, reminders };
        BlockDefinition { kind: BlockType::Reminded(Box::new(reminded)), timeout: None, retry: None }
    }

    /// Adds its fields to those of its node; what follows from them is left out.
    pub(super) fn write(&self, map: &mut Map<String, Value>) {
        self.approval.write(map);
        let ReminderDefinition { handler, after, every, times } = &self.reminder;
        let mut fields = json!({"handler": handler, "after": duration::format(*after)});
        if let Some(every) = every.filter(|every| every != after) {
            fields["every"] = json!(duration::format(every));
        }
        if let Some(times) = times {
            fields["times"] = json!(times);
        }
        map.insert("reminder".to_owned(), fields);
    }
}

impl ReminderDefinition {
    /// How long a pass waits before its reminder, a template.
    fn pause(&self) -> String {
        let after = duration::format(self.after);
        match self.every.map(duration::format).filter(|every| *every != after) {
            Some(every) => format!("{{{{ \"{after}\" if frame.index == 0 else \"{every}\" }}}}"),
            None => after,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use serde_json::{Value, json};

    use crate::definition::Definition;
    use crate::graph::Graph;

    #[test]
    fn an_approval_with_a_reminder_holds_what_waits_and_what_reminds() {
        let node = |reminder: Value, more: Value| {
            let mut node = json!({"id": "boss", "type": "approval", "reminder": reminder});
            node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"name": "w", "nodes": [node], "edges": []})
        };
        let written = json!({"handler": "mail", "after": "1d", "every": "2h", "times": 3});
        let whole = node(
            written,
            json!({"approvers": ["{{ input.who }}"], "schema": {"title": "{{"}, "timeout": "9d", "on_error": "continue"}),
        );
        let definition = Definition::from_json(&whole).unwrap();
        assert_eq!(definition.to_value()["nodes"], whole["nodes"]);
        assert_eq!(definition.size().nodes, 6);
        let graph = Graph::compile(&definition).unwrap();
        let words: Vec<_> = graph.nodes().iter().map(|node| (&*node.id, node.kind.word())).collect();
        let expected = [
            ("boss", "reminded"),
            ("boss.answer", "approval"),
            ("boss.form", "set"),
            ("boss.reminders", "while"),
            ("boss.later", "delay"),
            ("boss.remind", "task"),
        ];
        assert_eq!(words, expected);
        let mail = || json!({"handler": "mail", "after": "1d"});
        let with = |field: &str, value: Value| {
            let mut reminder = mail();
            reminder[field] = value;
            node(reminder, json!({}))
        };
        let mut taken = node(mail(), json!({}));
        taken["nodes"].as_array_mut().unwrap().push(json!({"id": "boss.remind", "type": "set", "output": 1}));
        for (definition, path) in [
            (node(json!({"handler": "mail"}), json!({})), "nodes[0].reminder.after"),
            (node(json!({"after": "1d"}), json!({})), "nodes[0].reminder.handler"),
            (with("every", json!("soon")), "nodes[0].reminder.every"),
            (with("times", json!(0)), "nodes[0].reminder.times"),
            (with("to", json!("ann")), "nodes[0].reminder.to"),
            (node(mail(), json!({"approvers": ["{{ nodes.none.output }}"]})), "nodes[0].approvers[0]"),
            (node(mail(), json!({"id": "x".repeat(120)})), "nodes[0].id"),
            (taken, "nodes[1].id"),
        ] {
            let told = Definition::from_json(&definition).unwrap_err();
            assert_eq!(told.0.iter().map(|problem| problem.path.as_str()).collect::<Vec<_>>(), [path], "{told}");
        }
    }
}
