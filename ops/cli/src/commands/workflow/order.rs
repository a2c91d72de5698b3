//! In which order definitions are published: what one starts by a `subflow` comes before it, so that it is there and pinned at its newest.

use std::collections::{HashMap, HashSet};

use anyhow::Result;
use longshore_core::{
    definition::{Definition, Problem},
    workflow,
};
use sqlx::PgConnection;

use super::FileProblem;

/// The same definitions, children first, otherwise in the order given. Those that start each other stay as they are.
pub(super) fn children_first(definitions: Vec<(String, Definition)>) -> Vec<(String, Definition)> {
    let places: HashMap<String, usize> =
        definitions.iter().enumerate().map(|(place, (_, definition))| (definition.name.clone(), place)).collect();
    let children: Vec<Vec<usize>> = definitions
        .iter()
        .map(|(_, definition)| {
            definition.subflows().iter().filter_map(|(_, name)| places.get(*name).copied()).collect()
        })
        .collect();
    let mut order = Vec::with_capacity(definitions.len());
    let mut seen = HashSet::new();
    for root in 0..definitions.len() {
        if !seen.insert(root) {
            continue;
        }
        // a definition is put in order once its children are; without recursion, since a chain may be long
        let mut open = vec![(root, 0)];
        while let Some((place, next)) = open.pop() {
            match children.get(place).and_then(|children| children.get(next)) {
                Some(&child) => {
                    open.push((place, next + 1));
                    if seen.insert(child) {
                        open.push((child, 0));
                    }
                }
                None => order.push(place),
            }
        }
    }
    let mut definitions: Vec<_> = definitions.into_iter().map(Some).collect();
    order.into_iter().filter_map(|place| definitions.get_mut(place)?.take()).collect()
}

/// The subflows of workflows that are neither published nor among these.
pub(super) async fn unknown_children(
    connection: &mut PgConnection,
    definitions: &[(String, Definition)],
) -> Result<Vec<FileProblem>> {
    let mut known: HashMap<&str, bool> =
        definitions.iter().map(|(_, definition)| (definition.name.as_str(), true)).collect();
    let mut problems = Vec::new();
    for (file, definition) in definitions {
        for (path, name) in definition.subflows() {
            let published = match known.get(name) {
                Some(published) => *published,
                None => workflow::find(&mut *connection, name, None).await?.is_some(),
            };
            known.insert(name, published);
            if !published {
                let problem = Problem {
                    path: format!("{path}.workflow"),
                    message: format!("no workflow `{name}` is published, nor is it among these files"),
                    fix: "apply it as well, or correct the name".to_owned(),
                };
                problems.push(FileProblem { file: file.clone(), problem });
            }
        }
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use longshore_core::definition::Definition;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_a_workflow_starts_comes_before_it() {
        let definition = |name: &str, starts: &[&str]| {
            let nodes = starts.iter().map(|child| json!({"id": child, "type": "subflow", "workflow": child}));
            let nodes: Vec<_> = nodes.chain([json!({"id": "_", "type": "set", "output": 1})]).collect();
            (name.to_owned(), Definition::from_json(&json!({"name": name, "nodes": nodes})).unwrap())
        };
        let given = vec![
            definition("x", &[]),
            definition("top", &["middle", "leaf", "elsewhere"]),
            definition("middle", &["leaf", "middle"]),
            definition("ping", &["pong"]),
            definition("pong", &["ping"]),
            definition("leaf", &[]),
        ];
        let order: Vec<_> = children_first(given).into_iter().map(|(name, _)| name).collect();
        assert_eq!(order, ["x", "leaf", "middle", "top", "pong", "ping"]);
    }
}
