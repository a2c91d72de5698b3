//! Recorded scientific workflows as test input, and what must be true of their runs, by SQL of our own.

use std::path::PathBuf;

use longshore::wfcommons::{Graph, name_of};
use serde_json::Value;
use uuid::Uuid;

use crate::TestFleet;

/// The folder of the cases; its `dags` holds the graphs.
pub const CASES_VARIABLE: &str = "LONGSHORE_CASES";

/// A recorded graph.
pub struct Dag {
    /// The workflow's name.
    pub name: String,
    /// The graph.
    pub graph: Graph,
}

/// Every recorded graph, the smaller first; none, with a word to the reader, where there are no cases.
pub fn all() -> Option<Vec<Dag>> {
    let Some(cases) = std::env::var_os(CASES_VARIABLE) else {
        eprintln!("skipped: no cases ({CASES_VARIABLE} names their folder)");
        return None;
    };
    let folder = PathBuf::from(cases).join("dags");
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.unwrap().path()).filter(|path| {
        let name = path.to_string_lossy().into_owned();
        name.ends_with(".json") || name.ends_with(".json.gz")
    });
    let mut dags: Vec<Dag> = files
        .map(|path| Dag { name: name_of(&path), graph: Graph::read(&path).unwrap_or_else(|error| panic!("{error:#}")) })
        .collect();
    assert!(!dags.is_empty(), "{} has no graph", folder.display());
    dags.sort_by_key(|dag| dag.graph.tasks());
    Some(dags)
}

impl Dag {
    /// The workflow, its sleeps scaled so that the critical path takes this long.
    pub fn scaled_to(&self, seconds: f64) -> Value {
        self.graph.definition(&self.name, self.graph.scale_to(seconds))
    }

    /// The workflow without any sleep.
    pub fn without_sleep(&self) -> Value {
        self.graph.definition(&self.name, 0.0)
    }

    /// What must be true of a completed run of this graph, whatever happened to the workers meanwhile.
    pub async fn assert_ran_once(&self, fleet: &TestFleet, run: Uuid) {
        fleet.database.execute("analyze").await; // or these joins take minutes
        let (tasks, edges) = (self.graph.tasks() as i64, self.graph.edges() as i64);
        let ask = async |what: &str, sql: &str, expected: i64| {
            let found: i64 = fleet.ask(sql, run).await;
            assert_eq!(found, expected, "{}: {what}", self.name);
        };
        ask("the run completed", "select count(*) from longshore.workflow_runs where run_id = $1 and state = 3", 1)
            .await;
        let nodes = "select count(*) from longshore.workflow_nodes n join longshore.workflow_runs r using (version_id) where r.run_id = $1";
        ask("every task is a node", nodes, tasks).await;
        let completed = "select count(*) from (select node from longshore.execution_step_attempts where run_id = $1 and node >= 0 and outcome = 1
            group by node having count(*) = 1) x";
        ask("every task has exactly one completed attempt", completed, tasks).await;
        let others =
            "select count(*) from longshore.execution_step_attempts where run_id = $1 and outcome not in (1, 3)";
        ask("no attempt ended otherwise, but for those that were lost", others, 0).await;
        let ordered = "select count(*) from longshore.workflow_edges e
            join longshore.workflow_runs r on r.version_id = e.version_id
            join longshore.execution_step_attempts u on u.run_id = r.run_id and u.node = e.from_node and u.outcome = 1
            join (select run_id, node, min(claimed_at) as claimed_at from longshore.execution_step_attempts where run_id = $1 group by 1, 2) v
                on v.run_id = r.run_id and v.node = e.to_node
            where r.run_id = $1 and u.finished_at <= v.claimed_at";
        ask("every edge is kept by the database's clock", ordered, edges).await;
        let gaps = "select count(*) from (select from longshore.execution_step_attempts where run_id = $1 group by node
            having min(attempt) <> 1 or max(attempt) <> count(*)) x";
        ask("no join was enqueued twice: attempts have no gaps", gaps, 0).await;
        ask("no join is left", "select count(*) from longshore.step_joins where run_id = $1", 0).await;
    }
}
