//! The one check in Rust: every published version still is what was published.

use futures::TryStreamExt;
use serde_json::{Value, json};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, Row};

use super::{Check, found};
use crate::definition::{DEFAULT_QUEUE, Definition, Problems};
use crate::graph::Graph;

pub(super) async fn check(conn: &mut PgConnection) -> Result<Check, sqlx::Error> {
    let mut findings = Vec::new();
    let mut rows = sqlx::query(include_str!("../../sql/doctor/versions.sql")).persistent(false).fetch(conn);
    while let Some(row) = rows.try_next().await? {
        if let Some(difference) = difference(&row)? {
            findings.push(format!("{}: {difference}", row.try_get::<&str, _>("version")?));
        }
    }
    Ok(found(9, "version_altered", "published versions are unchanged", findings))
}

/// What of a version's row differs from what its definition gives.
fn difference(row: &PgRow) -> Result<Option<String>, sqlx::Error> {
    let definition = match Definition::from_json(&row.try_get("definition")?) {
        Ok(definition) => definition,
        Err(problems) => return Ok(Some(unusable(&problems))),
    };
    let graph = match Graph::compile(&definition) {
        Ok(graph) => graph,
        Err(problems) => return Ok(Some(unusable(&problems))),
    };
    let hash: String = row.try_get("content_hash")?;
    if definition.content_hash() != hash {
        return Ok(Some("the definition does not match its content hash".to_owned()));
    }
    if row.try_get::<&str, _>("workflow")? != definition.name {
        return Ok(Some(format!("its definition is of workflow {}", definition.name)));
    }
    let first = graph.first_node();
    let first_queue: &str = row.try_get("first_queue")?;
    let right_queue = match graph.node(first) {
        Some(entry) => &*entry.queue,
        None => definition.queue.as_deref().unwrap_or(DEFAULT_QUEUE), // the engine node `start`
    };
    if row.try_get::<i32, _>("first_node")? != first || first_queue != right_queue {
        return Ok(Some("the first node or its queue was altered".to_owned()));
    }
    let nodes = (row.try_get("nodes")?, nodes(&graph));
    let edges = (row.try_get("edges")?, edges(&graph));
    Ok([("nodes", nodes), ("edges", edges)].iter().find_map(|(what, (stored, right))| {
        let place = first_difference(stored, right)?;
        Some(format!("the rows of its {what} were altered, first {place}"))
    }))
}

/// The first problem, in one line.
fn unusable(problems: &Problems) -> String {
    let first = problems.iter().next().map(ToString::to_string).unwrap_or_default();
    format!("its definition cannot be used: {first}")
}

fn nodes(graph: &Graph) -> Value {
    let mut indegrees = vec![0; graph.nodes().len()];
    for edge in graph.edges() {
        if let Some(indegree) = usize::try_from(edge.to).ok().and_then(|to| indegrees.get_mut(to)) {
            *indegree += 1;
        }
    }
    let nodes = graph.nodes().iter().zip(indegrees).map(|(node, indegree)| {
        let need = graph.join(node.number).map_or(0, |join| join.need);
        json!([
            node.number,
            *node.id,
            node.kind.word(),
            node.handler().map(|handler| &**handler),
            *node.queue,
            indegree,
            need
        ])
    });
    nodes.collect()
}

fn edges(graph: &Graph) -> Value {
    let edges = graph.edges().iter().enumerate();
    edges.map(|(place, edge)| json!([place, edge.from, edge.to, edge.on.as_str(), edge.when()])).collect()
}

/// The place of the first row that is not the same in both lists.
fn first_difference(stored: &Value, right: &Value) -> Option<usize> {
    let (stored, right) = (stored.as_array()?, right.as_array()?);
    (0..stored.len().max(right.len())).find(|&place| stored.get(place) != right.get(place))
}
