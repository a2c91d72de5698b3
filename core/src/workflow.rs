//! Definitions in Postgres: publish, load, list.
//!
//! A published version never changes. The same content as the latest version is that version; anything else, older
//! content too, becomes a new one, and starts take the latest from then on.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::{Connection, PgConnection, PgExecutor};

use crate::definition::{ChildVersion, DEFAULT_QUEUE, Definition, Problem, Problems};
use crate::graph::{Edge, Graph, Node, NodeNumber, Subflow};
use crate::payload::{self, Payload};

/// Why a workflow could not be published or read. Nothing was written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The definition is wrong in these places.
    #[error("{0}")]
    Invalid(#[from] Problems),
    /// A text in the definition cannot be stored.
    #[error("the definition cannot be stored: {0}")]
    NotStorable(#[from] payload::Error),
    /// A stored version is beyond this binary: a newer one published it.
    #[error(
        "version {version} of workflow {workflow:?} cannot be read by this binary, use the newer one that published it: {problems}"
    )]
    Unreadable {
        /// The workflow.
        workflow: String,
        /// The version.
        version: i32,
        /// What it does not understand.
        problems: Problems,
    },
    /// Postgres refused a statement or could not be reached; [`crate::database::kind`] says what that means.
    #[error("{0}")]
    Database(#[from] sqlx::Error),
}

/// What a publish led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// The workflow's number.
    pub workflow_id: i32,
    /// The version's number over all workflows.
    pub version_id: i32,
    /// The version's number within the workflow, from 1.
    pub version: i32,
    /// False if the latest version had this content already.
    pub created: bool,
}

/// A version with its compiled graph. It never changes, so it may be kept for ever.
#[derive(Debug)]
pub struct LoadedVersion {
    /// The version's number over all workflows.
    pub version_id: i32,
    /// The workflow's number.
    pub workflow_id: i32,
    /// The workflow's name.
    pub workflow: Arc<str>,
    /// The version's number within the workflow.
    pub version: i32,
    /// The graph.
    pub graph: Graph,
    /// The queue of each node, by node number.
    pub queue_ids: Vec<i32>,
    /// The queue of the first step of a run, and of the engine's own nodes.
    pub first_queue_id: i32,
    /// Its name.
    pub first_queue: Arc<str>,
    /// What each `subflow` node starts.
    pub children: HashMap<NodeNumber, ChildRef>,
}

/// Which workflow a node starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChildRef {
    /// The workflow's number.
    pub workflow_id: i32,
    /// The version's number over all workflows; none: the newest when the step starts.
    pub version_id: Option<i32>,
}

impl LoadedVersion {
    /// The queue of a node's steps.
    #[must_use]
    pub fn queue_id(&self, node: NodeNumber) -> i32 {
        usize::try_from(node).ok().and_then(|node| self.queue_ids.get(node)).copied().unwrap_or(self.first_queue_id)
    }
}

/// A workflow at a glance.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Listed {
    /// Its name.
    pub workflow: String,
    /// Its newest version.
    pub version: i32,
    /// When that was published.
    pub published_at: DateTime<Utc>,
    /// How many nodes that has.
    pub nodes: i64,
}

/// A version as it was published.
#[derive(Clone, Debug)]
pub struct Shown {
    /// The workflow's name.
    pub workflow: String,
    /// The version's number within the workflow.
    pub version: i32,
    /// The version's number over all workflows.
    pub version_id: i32,
    /// Its canonical definition.
    pub definition: Value,
    /// SHA-256 of that, in hexadecimal.
    pub content_hash: String,
    /// When it was published.
    pub published_at: DateTime<Utc>,
}

/// Publishes `definition` unless it is the latest version already, and makes its queues. The versions of child runs that it pins are part of what it
/// is: with a newer one there it is a new version. Safe to repeat and to call
/// from many processes at once: publishes of one workflow take turns.
pub async fn publish(conn: &mut PgConnection, definition: &Definition) -> Result<Published, Error> {
    publish_compiled(conn, definition, &Graph::compile(definition)?).await
}

/// The same where the definition is compiled already: to this graph.
pub async fn publish_compiled(
    conn: &mut PgConnection,
    definition: &Definition,
    graph: &Graph,
) -> Result<Published, Error> {
    let text = Payload::of(&definition.to_value())?;
    let hash = definition.content_hash();

    let mut tx = conn.begin().await?;
    let workflow_id = lock(&mut tx, &definition.name).await?;
    let children = children(&mut tx, definition, graph, workflow_id).await?;
    let newest: Option<(i32, i32, String)> =
        sqlx::query_as(include_str!("../sql/workflow/newest.sql")).bind(workflow_id).fetch_optional(&mut *tx).await?;
    if let Some((version_id, version, newest_hash)) = &newest
        && *newest_hash == hash
        && pins(&mut tx, *version_id).await? == pinned(&children, *version_id)
    {
        tx.rollback().await?;
        return Ok(Published { workflow_id, version_id: *version_id, version: *version, created: false });
    }

    let first_queue = match graph.node(graph.first_node()) {
        Some(entry) => entry.queue.to_string(),
        None => definition.queue.clone().unwrap_or_else(|| DEFAULT_QUEUE.to_owned()), // the engine node `start`
    };
    let mut queues: Vec<String> = graph.queues().iter().map(ToString::to_string).collect();
    queues.push(first_queue.clone());
    sqlx::query(include_str!("../sql/workflow/make_queues.sql")).bind(queues).execute(&mut *tx).await?;
    let version = newest.map_or(1, |(_, version, _)| version + 1);
    let version_id: i32 = sqlx::query_scalar(include_str!("../sql/workflow/insert_version.sql"))
        .bind(workflow_id)
        .bind(version)
        .bind(text.as_str())
        .bind(hash)
        .bind(graph.first_node())
        .bind(first_queue)
        .fetch_one(&mut *tx)
        .await?;
    insert_graph(&mut tx, version_id, graph, &children).await?;
    tx.commit().await?;
    Ok(Published { workflow_id, version_id, version, created: true })
}

/// The version of that number over all workflows; none if there is none.
pub async fn load<'c>(conn: impl PgExecutor<'c>, version_id: i32) -> Result<Option<LoadedVersion>, Error> {
    match row(conn, version_id).await? {
        Some(row) => row.compile().map(Some),
        None => Ok(None),
    }
}

/// The number over all workflows of a version of `workflow`, the latest if `version` is none; none if there is no
/// such version.
pub async fn find<'c>(conn: impl PgExecutor<'c>, workflow: &str, version: Option<i32>) -> Result<Option<i32>, Error> {
    Ok(sqlx::query_scalar(include_str!("../sql/workflow/find.sql"))
        .bind(workflow)
        .bind(version)
        .fetch_optional(conn)
        .await?)
}

/// The latest version of `workflow`, compiled; none if nothing of that name is published.
pub async fn latest(conn: &mut PgConnection, workflow: &str) -> Result<Option<LoadedVersion>, Error> {
    match find(&mut *conn, workflow, None).await? {
        Some(version_id) => load(conn, version_id).await,
        None => Ok(None),
    }
}

/// A version of `workflow` as it was published, the latest if `version` is none; none if there is no such version.
pub async fn show(conn: &mut PgConnection, workflow: &str, version: Option<i32>) -> Result<Option<Shown>, Error> {
    let Some(version_id) = find(&mut *conn, workflow, version).await? else { return Ok(None) };
    Ok(row(conn, version_id).await?.map(|row| Shown {
        workflow: row.workflow,
        version: row.version,
        version_id: row.version_id,
        definition: row.definition,
        content_hash: row.content_hash,
        published_at: row.published_at,
    }))
}

/// Every workflow with its newest version, by name.
pub async fn list<'c>(conn: impl PgExecutor<'c>) -> Result<Vec<Listed>, Error> {
    Ok(sqlx::query_as(include_str!("../sql/workflow/list.sql")).fetch_all(conn).await?)
}

#[derive(sqlx::FromRow)]
struct VersionRow {
    version_id: i32,
    workflow_id: i32,
    workflow: String,
    version: i32,
    definition: Value,
    content_hash: String,
    published_at: DateTime<Utc>,
    queue_ids: Vec<i32>,
    first_queue_id: i32,
    first_queue: String,
    child_nodes: Vec<i32>,
    child_workflow_ids: Vec<i32>,
    child_version_ids: Vec<Option<i32>>,
}

impl VersionRow {
    fn compile(self) -> Result<LoadedVersion, Error> {
        let graph = Definition::from_json(&self.definition).and_then(|definition| Graph::compile(&definition));
        let children = self.child_workflow_ids.iter().zip(self.child_version_ids);
        let children = children.map(|(&workflow_id, version_id)| ChildRef { workflow_id, version_id });
        let children = self.child_nodes.into_iter().zip(children).collect();
        Ok(LoadedVersion {
            children,
            graph: graph.map_err(|problems| Error::Unreadable {
                workflow: self.workflow.clone(),
                version: self.version,
                problems,
            })?,
            version_id: self.version_id,
            workflow_id: self.workflow_id,
            workflow: self.workflow.into(),
            version: self.version,
            queue_ids: self.queue_ids,
            first_queue_id: self.first_queue_id,
            first_queue: self.first_queue.into(),
        })
    }
}

async fn row<'c>(conn: impl PgExecutor<'c>, version_id: i32) -> Result<Option<VersionRow>, Error> {
    Ok(sqlx::query_as(include_str!("../sql/workflow/load.sql")).bind(version_id).fetch_optional(conn).await?)
}

async fn lock(conn: &mut PgConnection, workflow: &str) -> Result<i32, Error> {
    let held =
        sqlx::query_scalar(include_str!("../sql/workflow/lock.sql")).bind(workflow).fetch_optional(&mut *conn).await?;
    if let Some(workflow_id) = held {
        return Ok(workflow_id);
    }
    sqlx::query(include_str!("../sql/workflow/make.sql")).bind(workflow).execute(&mut *conn).await?;
    Ok(sqlx::query_scalar(include_str!("../sql/workflow/lock.sql")).bind(workflow).fetch_one(conn).await?)
}

/// Stands for the version that is being published, which has no number yet.
const ITSELF: i32 = 0;

/// What the `subflow` nodes of a definition start; refused where nothing of that name is published.
async fn children(
    conn: &mut PgConnection,
    definition: &Definition,
    graph: &Graph,
    workflow_id: i32,
) -> Result<HashMap<NodeNumber, ChildRef>, Error> {
    let calls = || graph.nodes().iter().filter_map(|node| Some((node, node.subflow()?)));
    let mut names: Vec<&str> = calls().map(|(_, subflow)| &*subflow.workflow).collect();
    if names.is_empty() {
        return Ok(HashMap::new());
    }
    names.sort_unstable();
    names.dedup();
    let rows: Vec<(String, i32, i32)> =
        sqlx::query_as(include_str!("../sql/workflow/children.sql")).bind(names).fetch_all(conn).await?;
    let mut known: HashMap<String, (i32, i32)> =
        rows.into_iter().map(|(name, workflow_id, version_id)| (name, (workflow_id, version_id))).collect();
    known.insert(definition.name.clone(), (workflow_id, ITSELF));
    let problems: Vec<Problem> =
        definition.subflows().into_iter().filter(|(_, name)| !known.contains_key(*name)).map(unknown_child).collect();
    if !problems.is_empty() {
        return Err(Error::Invalid(Problems(problems)));
    }
    let child = |(node, subflow): (&Node, &Subflow)| {
        let (workflow_id, newest) = *known.get(&*subflow.workflow)?;
        let version_id = (subflow.version == ChildVersion::Pinned).then_some(newest);
        Some((node.number, ChildRef { workflow_id, version_id }))
    };
    Ok(calls().filter_map(child).collect())
}

fn unknown_child((path, name): (String, &str)) -> Problem {
    let fix = "publish it first (`longshore workflow apply`), or correct the name";
    Problem::new(format!("{path}.workflow"), format!("no workflow `{name}` is published"), fix)
}

/// What the nodes of a published version start.
async fn pins(conn: &mut PgConnection, version_id: i32) -> Result<HashMap<NodeNumber, ChildRef>, Error> {
    let rows: Vec<(NodeNumber, i32, Option<i32>)> =
        sqlx::query_as(include_str!("../sql/workflow/pins.sql")).bind(version_id).fetch_all(conn).await?;
    Ok(rows.into_iter().map(|(node, workflow_id, version_id)| (node, ChildRef { workflow_id, version_id })).collect())
}

/// The same of a definition, were it that version.
fn pinned(children: &HashMap<NodeNumber, ChildRef>, itself: i32) -> HashMap<NodeNumber, ChildRef> {
    let number = |version_id| if version_id == ITSELF { itself } else { version_id };
    let pinned = |child: &ChildRef| ChildRef { version_id: child.version_id.map(number), ..*child };
    children.iter().map(|(node, child)| (*node, pinned(child))).collect()
}

async fn insert_graph(
    conn: &mut PgConnection,
    version_id: i32,
    graph: &Graph,
    children: &HashMap<NodeNumber, ChildRef>,
) -> Result<(), Error> {
    let (nodes, edges) = (graph.nodes(), graph.edges());
    let mut indegrees = vec![0_i32; nodes.len()];
    for edge in edges {
        if let Some(indegree) = usize::try_from(edge.to).ok().and_then(|to| indegrees.get_mut(to)) {
            *indegree += 1;
        }
    }
    let needs = |node: &Node| graph.join(node.number).map_or(0, |join| join.need);
    sqlx::query(include_str!("../sql/workflow/insert_nodes.sql"))
        .bind(version_id)
        .bind(nodes.iter().map(|node| node.number).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| &*node.id).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| node.kind.word()).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| node.handler().map(|handler| &**handler)).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| &*node.queue).collect::<Vec<_>>())
        .bind(&indegrees)
        .bind(nodes.iter().map(needs).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| i32::try_from(node.body).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| node.on_error.word()).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| Some(children.get(&node.number)?.workflow_id)).collect::<Vec<_>>())
        .bind(nodes.iter().map(|node| children.get(&node.number)?.version_id).collect::<Vec<_>>())
        .execute(&mut *conn)
        .await?;
    let numbers: Vec<i32> = (0..).take(edges.len()).collect();
    sqlx::query(include_str!("../sql/workflow/insert_edges.sql"))
        .bind(version_id)
        .bind(numbers)
        .bind(edges.iter().map(|edge| edge.from).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.to).collect::<Vec<_>>())
        .bind(edges.iter().map(|edge| edge.on.as_str()).collect::<Vec<_>>())
        .bind(edges.iter().map(Edge::when).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
