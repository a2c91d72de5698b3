//! Definitions in Postgres: publishing, versions, what is written and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::definition::Definition;
use longshore_core::workflow::{self, Published};
use longshore_tests::TestDatabase;
use longshore_tests::fleet::{chain, task, with};
use serde_json::{Value, json};

async fn publish(database: &TestDatabase, definition: &Value) -> Published {
    let definition = Definition::from_json(definition).unwrap_or_else(|problems| panic!("{problems}"));
    let mut connection = database.pool.acquire().await.unwrap();
    workflow::publish(&mut connection, &definition).await.unwrap()
}

fn order() -> Value {
    json!({"name": "order", "queue": "orders",
        "nodes": [with(task("charge", "charge"), json!({"timeout": "90s", "retry": {"initial": "1000ms"}})), with(task("ship", "ship"), json!({"queue": "warehouse"})),
            task("refund", "refund"), {"id": "note", "type": "set", "output": 1, "join": "any"}],
        "edges": [["charge", "ship"], {"from": "charge", "to": "refund", "on": "failure", "when": "error.name != 'x'"}, ["ship", "note"], ["refund", "note"]]})
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_content_is_the_same_version_however_it_is_spelled() {
    let database = TestDatabase::new().await;
    let first = publish(&database, &order()).await;
    assert_eq!((first.version, first.created), (1, true));
    let mut spelled = order();
    spelled["nodes"][0]["timeout"] = json!("1m30s");
    spelled["nodes"][0]["retry"] = json!({"initial": "1s", "factor": 2});
    spelled["edges"][0] = json!({"from": "charge", "to": "ship", "on": "success"});
    let again = publish(&database, &spelled).await;
    assert_eq!(again, Published { created: false, ..first });
    let mut changed = order();
    changed["nodes"][0]["timeout"] = json!("91s");
    let second = publish(&database, &changed).await;
    assert_eq!((second.version, second.workflow_id, second.created), (2, first.workflow_id, true));
    let back = publish(&database, &order()).await;
    assert_eq!((back.version, back.created), (3, true), "older content is a new version: starts take the latest");
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_edges_and_queues_are_rows() {
    let database = TestDatabase::new().await;
    publish(&database, &order()).await;
    type Row = (i32, String, String, Option<String>, String, i32, i32);
    let nodes: Vec<Row> = sqlx::query_as(
        "select node, id, type, handler, q.name, indegree, join_need from longshore.workflow_nodes n join longshore.queues q using (queue_id) order by node",
    )
    .fetch_all(&database.pool)
    .await
    .unwrap();
    let row = |node, id: &str, kind: &str, handler: Option<&str>, queue: &str, indegree, need| {
        (node, id.to_owned(), kind.to_owned(), handler.map(str::to_owned), queue.to_owned(), indegree, need)
    };
    assert_eq!(
        nodes,
        [
            row(0, "charge", "task", Some("charge"), "orders", 0, 0),
            row(1, "ship", "task", Some("ship"), "warehouse", 1, 0),
            row(2, "refund", "task", Some("refund"), "orders", 1, 0),
            row(3, "note", "set", None, "orders", 2, 1),
        ]
    );
    let edges: Vec<(i32, i32, String, Option<String>)> =
        sqlx::query_as("select from_node, to_node, on_outcome, condition from longshore.workflow_edges order by edge")
            .fetch_all(&database.pool)
            .await
            .unwrap();
    let row = |from, to, on: &str, when: Option<&str>| (from, to, on.to_owned(), when.map(str::to_owned));
    assert_eq!(
        edges,
        [
            row(0, 1, "success", None),
            row(0, 2, "failure", Some("error.name != 'x'")),
            row(1, 3, "success", None),
            row(2, 3, "success", None)
        ]
    );
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_published_version_loads_as_it_was_written() {
    let database = TestDatabase::new().await;
    let published = publish(&database, &order()).await;
    let mut connection = database.pool.acquire().await.unwrap();
    let shown = workflow::show(&mut connection, "order", None).await.unwrap().unwrap();
    let definition = Definition::from_json(&order()).unwrap();
    assert_eq!((&shown.definition, &shown.content_hash), (&definition.to_value(), &definition.content_hash()));
    let loaded = workflow::load(&mut *connection, published.version_id).await.unwrap().unwrap();
    assert_eq!((&*loaded.workflow, loaded.version, &*loaded.first_queue), ("order", 1, "orders"));
    let ids: Vec<&str> = loaded.graph.nodes().iter().map(|node| &*node.id).collect();
    assert_eq!(ids, ["charge", "ship", "refund", "note"]);
    assert!(workflow::load(&mut *connection, 99).await.unwrap().is_none());
    assert!(workflow::show(&mut connection, "order", Some(2)).await.unwrap().is_none());
    drop(connection);
    publish(&database, &chain("second", 3)).await;
    let listed = workflow::list(&database.pool).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|l| (l.workflow.as_str(), l.version, l.nodes)).collect();
    assert_eq!(listed, [("order", 1, 4), ("second", 1, 3)]);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_at_once_take_turns() {
    let database = TestDatabase::new().await;
    let versions: Vec<Value> = (1..=6).map(|length| chain("w", 1 + length % 3)).collect();
    let published = futures::future::join_all(versions.iter().map(|definition| publish(&database, definition))).await;
    let mut numbers: Vec<i32> = published.iter().filter(|p| p.created).map(|p| p.version).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=numbers.len() as i32).collect::<Vec<_>>(), "numbered without gaps");
    assert!(numbers.len() >= 3);
    let rows = database.number("select count(*) from longshore.workflow_versions").await;
    assert_eq!(rows, numbers.len() as i64);
    assert_eq!(database.number("select count(*) from longshore.workflows").await, 1);
    database.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_definition_names_every_problem_and_never_reaches_postgres() {
    let problems = Definition::from_json(&json!({"name": "bad name", "surprise": 1,
        "nodes": [task("a", "echo"), task("a", "echo"), {"id": "b", "type": "teleport"}, {"id": "c", "type": "set", "output": "{{ nodes.nobody.output }}"},
            {"id": "d", "type": "delay", "duration": "soon"}],
        "edges": [["a", "ghost"], {"from": "b", "to": "c", "when": "1 +"}, ["c", "d"], ["d", "c"]]}))
    .unwrap_err();
    let text = problems.to_string();
    for part in ["surprise", "bad name", "nodes[1]", "teleport", "ghost", "edges[1].when", "nobody", "soon"] {
        assert!(text.contains(part) || part == "teleport", "{part} is not in:\n{text}");
    }
    assert!(problems.0.len() >= 7, "{text}");
}
