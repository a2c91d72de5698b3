//! Our own sample workflows and the runs the demo starts of them. Every one of these runs completes: a
//! declined card or a lost parcel takes the branch that is there for it.

use anyhow::{Context, Result};
use serde_json::{Value, json};

const ORDER: &str = include_str!("../../samples/order.json");
const DOCUMENT: &str = include_str!("../../samples/document.json");
const FLAKY: &str = include_str!("../../samples/flaky.json");
const CLAIM: &str = include_str!("../../samples/claim.json");

const ORDERS: u32 = 30;
const DOCUMENTS: u32 = 12;
const FLAKY_RUNS: u32 = 100;
const CLAIMS: u32 = 16;
const FAN_WIDTH: u32 = 1000;
const FAN_SECONDS: f64 = 0.1;

/// A workflow and the inputs of the runs to start.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The definition, ready to apply.
    pub definition: Value,
    /// One input a run; at least one.
    pub inputs: Vec<Value>,
    /// What a person answers to a run with this input that asks for approval.
    pub answer: Option<fn(&Value) -> Value>,
    /// What a run with this input must give; anything if none.
    pub output: Option<fn(&Value) -> Value>,
}

impl Sample {
    /// A workflow whose runs ask nobody, and whose outputs are not looked at.
    pub fn new(definition: Value, inputs: Vec<Value>) -> Self {
        Self { definition, inputs, answer: None, output: None }
    }

    /// The workflow's name, as its definition says; empty when it says none.
    pub fn name(&self) -> &str {
        self.definition["name"].as_str().unwrap_or_default()
    }
}

/// All samples: orders with declined payments and lost parcels, a document pipeline, a fan-out and join of
/// 1,000 nodes, runs whose handlers fail at first, and claims in nested blocks that a person decides.
///
/// # Errors
/// When a sample is not JSON.
pub fn all() -> Result<Vec<Sample>> {
    Ok(vec![
        Sample::new(parse("order", ORDER)?, (1..=ORDERS).map(order).collect()),
        Sample::new(parse("document", DOCUMENT)?, (1..=DOCUMENTS).map(document).collect()),
        Sample::new(fan(FAN_WIDTH, FAN_SECONDS), vec![json!({})]),
        Sample::new(parse("flaky", FLAKY)?, (0..FLAKY_RUNS).map(|_| json!({})).collect()),
        Sample {
            answer: Some(|input| json!({"answer": is_paid(input), "by": "ann"})),
            output: Some(decided),
            ..Sample::new(parse("claim", CLAIM)?, (1..=CLAIMS).map(claim).collect())
        },
    ])
}

/// A workflow that fans out to `width` nodes, each sleeping for `seconds`, and joins them again.
pub fn fan(width: u32, seconds: f64) -> Value {
    let mut nodes = vec![json!({"id": "split", "type": "task", "handler": "echo", "input": {"parts": width}})];
    let mut edges = Vec::new();
    for part in 1..=width {
        let id = format!("part-{part}");
        nodes.push(json!({"id": id, "type": "task", "handler": "sleep", "input": {"seconds": seconds}}));
        edges.push(json!(["split", id]));
        edges.push(json!([id, "join"]));
    }
    // An input of its own: the default, every part's output by id, would be read for nothing.
    nodes.push(json!({"id": "join", "type": "task", "handler": "echo", "input": {"parts": width}}));
    json!({"name": "fan", "nodes": nodes, "edges": edges})
}

/// Every fifth card is declined; every seventh parcel is lost twice, which is once too often.
fn order(number: u32) -> Value {
    json!({
        "order": 1000 + number,
        "amount": f64::from(number) * 12.5,
        "declines": u32::from(number.is_multiple_of(5)),
        "losses": if number.is_multiple_of(7) { 2 } else { 0 },
    })
}

fn document(number: u32) -> Value {
    json!({
        "document": format!("report-{number}.pdf"),
        "language": if number.is_multiple_of(3) { "de" } else { "en" },
        "pages": number * 2,
    })
}

/// Papers of one to five pages; of every fourth claim one is torn.
fn claim(number: u32) -> Value {
    let paper = |paper: u32| json!({"pages": 1 + (number + paper) % 5, "torn": number.is_multiple_of(4) && paper == 2});
    json!({"claim": 5000 + number, "papers": (0..3 + number % 4).map(paper).collect::<Vec<_>>(), "earlier": number % 3})
}

/// Whoever had no more than one claim before is paid.
fn is_paid(claim: &Value) -> bool {
    claim["earlier"].as_u64().unwrap_or_default() < 2
}

/// What a claim must come to.
fn decided(claim: &Value) -> Value {
    let papers = claim["papers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let pages = papers.iter().map(|paper| paper["pages"].as_u64().unwrap_or_default());
    let torn = papers.iter().any(|paper| paper["torn"] == true);
    json!({
        "words": if torn { Value::Null } else { pages.clone().map(|pages| pages * 200).collect() },
        "pages": if torn { Value::Null } else { pages.sum::<u64>().into() },
        "earlier": claim["earlier"],
        "decision": if is_paid(claim) { "paid" } else { "refused" },
        "by": "ann",
    })
}

fn parse(name: &str, text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("the sample {name} is not JSON"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_sample_has_its_own_name_and_at_least_a_run() {
        let samples = all().unwrap();
        let names: HashSet<&str> = samples.iter().map(Sample::name).collect();
        assert_eq!(names, HashSet::from(["order", "document", "fan", "flaky", "claim"]));
        assert!(samples.iter().all(|sample| !sample.inputs.is_empty()));
    }

    #[test]
    fn orders_take_every_branch() {
        let orders: Vec<Value> = (1..=ORDERS).map(order).collect();
        let declined = orders.iter().filter(|order| order["declines"] == 1).count();
        let lost = orders.iter().filter(|order| order["losses"] == 2 && order["declines"] == 0).count();
        assert!(declined > 0 && lost > 0 && declined + lost < orders.len());
    }

    #[test]
    fn claims_are_paid_and_refused_with_papers_whole_and_torn() {
        let ends: HashSet<(bool, bool)> = (1..=CLAIMS)
            .map(|number| decided(&claim(number)))
            .map(|end| (end["decision"] == "paid", end["words"].is_null()))
            .collect();
        assert_eq!(ends.len(), 4);
    }

    #[test]
    fn the_fan_is_as_wide_as_asked() {
        let fan = fan(3, 0.5);
        assert_eq!(fan["nodes"].as_array().map(Vec::len), Some(5));
        assert_eq!(fan["edges"].as_array().map(Vec::len), Some(6));
    }
}
