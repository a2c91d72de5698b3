//! The sample as the README runs it: the program itself, on a database with nothing but the schema.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::process::Stdio;
use std::time::Duration;

use longshore_tests::TestDatabase;
use tokio::process::Command;

#[tokio::test]
async fn the_sample_takes_its_orders_to_their_end() {
    let database = TestDatabase::new().await;
    let program = Command::new(env!("CARGO_BIN_EXE_sample-handlers"))
        .env("LONGSHORE_DATABASE_URL", &database.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .output();
    let ended = tokio::time::timeout(Duration::from_secs(60), program).await.expect("the sample ends").unwrap();
    let said = String::from_utf8_lossy(&ended.stdout);
    assert!(ended.status.success(), "{said}\n{}", String::from_utf8_lossy(&ended.stderr));
    let expected = [
        "order-fulfilment version 1",
        r#"2 x lamp, card good: completed {"parcel":"P-1-2xlamp","receipt":"C-1","refunded_cents":null,"released":null}"#,
        r#"1 x lamp, card slow: completed {"parcel":"P-2-1xlamp","receipt":"C-2","refunded_cents":null,"released":null}"#,
        r#"1 x lamp, card declined: completed {"parcel":null,"receipt":null,"refunded_cents":null,"released":1}"#,
        r#"1 x piano, card good: completed {"parcel":null,"receipt":"C-3","refunded_cents":4900,"released":1}"#,
        r#"99 x lamp, card good: failed sold_out: there are no 99 of the item "lamp""#,
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);

    assert_eq!(database.number("select quantity from shop.stock where item = 'lamp'").await, 7);
    assert_eq!(database.number("select quantity from shop.stock where item = 'piano'").await, 1);
    let charges = "select count(*) from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id) join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        where n.id = 'charge' and a.attempt > 0";
    assert_eq!(database.number(charges).await, 5, "four orders came to be charged, one of them twice");
    let left = "select (select count(*) from longshore.lanes) + (select count(*) from longshore.workers)";
    assert_eq!(database.number(left).await, 0, "the worker left nothing behind");
    database.drop().await;
}
