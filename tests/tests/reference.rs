//! The examples of the reference do what it says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore::asl;
use longshore_tests::TestFleet;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread")]
async fn every_example_does_what_the_reference_says() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/REFERENCE.md")).unwrap();
    let examples = text.split("```json").skip(1).map(|rest| rest.split("```").next().unwrap());
    let examples: Vec<Value> = examples.map(|example| serde_json::from_str(example).expect(example)).collect();
    for word in [
        "task",
        "set",
        "delay",
        "wait",
        "approval",
        "reminder",
        "context",
        "milestone",
        "query",
        "subflow",
        "fail",
        "terminate",
        "if",
        "switch",
        "parallel",
        "foreach",
        "while",
        "try",
        "import",
    ] {
        let of_it = |example: &&Value| example["workflow"]["name"] == word;
        assert_eq!(examples.iter().filter(of_it).count(), 1, "one example of {word}");
    }
    let definition = |example: &Value| match example.get("machine") {
        Some(machine) => asl::definition(machine, example["workflow"]["name"].as_str().unwrap()).unwrap(),
        None => example["workflow"].clone(),
    };
    // what an example starts is published before it
    let others = |example: &Value| example["workflows"].as_array().cloned().unwrap_or_default();
    let published = examples.iter().flat_map(|example| others(example).into_iter().chain([definition(example)]));
    let mut fleet = TestFleet::publish(published).await;
    fleet.work(8).await;
    for example in &examples {
        let name = example["workflow"]["name"].as_str().unwrap();
        let run = fleet.start(name, example["input"].clone()).await;
        for signal in example["signals"].as_array().into_iter().flatten() {
            fleet.enqueuer.signal(run, signal[0].as_str().unwrap(), &signal[1]).await.unwrap();
        }
        let (state, given) = fleet.ended(run).await;
        match example.get("error") {
            Some(error) => assert_eq!((state.as_str(), &given["name"]), ("failed", error), "{name}"),
            None => assert_eq!((state.as_str(), &given), ("completed", &example["output"]), "{name}"),
        }
        for (query, answer) in example["queries"].as_object().into_iter().flatten() {
            assert_eq!(&fleet.enqueuer.query::<Value>(run, query).await.unwrap(), answer, "{name}: {query}");
        }
    }
    fleet.finish().await;
}
