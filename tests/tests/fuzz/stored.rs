//! Definitions of the corpus through Postgres: a version that comes back has the hash it was published with, whatever `jsonb` makes of its numbers.

use longshore_core::definition::Definition;
use longshore_core::workflow;
use longshore_tests::TestDatabase;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_definition_has_the_hash_it_was_published_with() {
    let database = TestDatabase::new().await;
    let mut conn = database.pool.acquire().await.unwrap();
    let mut published = 0;
    for (file, text) in super::kept("definition") {
        let Ok(value) = serde_json::from_slice::<Value>(&text) else { continue };
        let Ok(definition) = Definition::from_json(&value) else { continue };
        workflow::publish(&mut conn, &definition).await.unwrap();
        let stored = workflow::show(&mut conn, &definition.name, None).await.unwrap().unwrap();
        assert_eq!(stored.content_hash, definition.content_hash(), "{}", file.display());
        let read = Definition::from_json(&stored.definition).unwrap();
        assert_eq!(read.content_hash(), stored.content_hash, "{}", file.display());
        published += 1;
    }
    assert!(published >= 3, "the corpus has definitions that are right");
    drop(conn);
    database.drop().await;
}
