//! Asking a run: the answer to a query that its definition names, from what the run has given so far. Changes nothing.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sqlx::Executor;
use uuid::Uuid;

use crate::graph::{NodeNumber, NodeResult, RunFacts, Values};
use crate::payload::Payload;
use crate::queue::{SHARD, StepRef};
use crate::run::{self, Error};
use crate::session::Session;
use crate::{context, results, workflow};

/// The answer to a run's query `name`, all of it read at one moment, whether the run goes on or has ended.
pub async fn query(session: &mut Session<'_>, run_id: Uuid, name: &str) -> Result<Payload, Error> {
    let route = session.route();
    let mut transaction = session.begin().await?;
    transaction.execute(include_str!("../sql/run/query_snapshot.sql")).await?;
    let answer = answer(Session::within(&mut transaction, route), run_id, name).await;
    transaction.rollback().await?;
    answer
}

async fn answer(mut session: Session<'_>, run_id: Uuid, name: &str) -> Result<Payload, Error> {
    let missing = || Error::NotFound { run_id };
    let run = run::get(&mut session, run_id).await?.ok_or_else(missing)?;
    let unreadable = |error: workflow::Error| Error::QueryFailed { why: error.to_string() };
    let version = workflow::find(&mut session, &run.workflow, Some(run.version)).await.map_err(unreadable)?;
    let version = workflow::load(&mut session, version.ok_or_else(missing)?).await.map_err(unreadable)?;
    let graph = version.ok_or_else(missing)?.graph;
    let Some(query) = graph.queries().get(name) else {
        let known = graph.queries().keys().cloned().collect::<Vec<_>>().join(", ");
        let name = name.chars().take(100).collect();
        return Err(Error::UnknownQuery { name, known, workflow: run.workflow });
    };
    let facts = RunFacts {
        run_id,
        workflow: Arc::from(run.workflow.as_str()),
        version: run.version,
        key: run.key,
        parent: run.parent,
        input: run.input,
        mocks: None,
    };
    let mut values = Values::new(Arc::new(facts));
    if query.needs().run_context {
        let found: HashMap<Uuid, Payload> = context::of_runs(&mut session, &[run_id]).await?;
        values.context = found.get(&run_id).or_else(|| graph.context()).cloned();
    }
    let steps: Vec<StepRef> =
        query.needs().nodes.iter().map(|node| StepRef { run_id, frame: 0, node: *node }).collect();
    let ended: Vec<(StepRef, NodeResult)> = results::of_steps(&mut session, &steps).await?;
    values.results = ended.into_iter().map(|(step, result)| (step.node, result)).collect();
    let mut states: BTreeMap<NodeNumber, String> = BTreeMap::new();
    if !query.states().is_empty() {
        let nodes: Vec<NodeNumber> = query.states().iter().copied().collect();
        let rows: Vec<(NodeNumber, String)> = sqlx::query_as(include_str!("../sql/run/query_states.sql"))
            .bind(SHARD)
            .bind(run_id)
            .bind(nodes)
            .fetch_all(&mut session)
            .await?;
        states.extend(rows);
    }
    query
        .answer(&graph, &values, run.state.as_str(), &states)
        .map_err(|error| Error::QueryFailed { why: error.message })
}
