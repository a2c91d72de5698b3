//! The conformance tests of another definition language: each scenario's tasks as nodes of ours. Its calls and events
//! go to handlers of this test, since no test goes out to the network.

use std::path::Path;

use longshore_tests::TestFleet;
use longshore_worker::{Failure, Slots};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Told, cases, same, text, yaml};

/// One scenario of a feature.
struct Scenario {
    name: String,
    definition: Value,
    input: Value,
    /// What is expected, each with the document that follows it.
    expected: Vec<(String, Option<Value>)>,
}

fn scenarios(path: &Path) -> Vec<Scenario> {
    let text = text(path);
    let feature = path.file_stem().unwrap().to_string_lossy().into_owned();
    let scenario = |part: &str| {
        let (name, rest) = part.split_once('\n').unwrap();
        let mut scenario = Scenario {
            name: format!("{feature}: {}", name.trim()),
            definition: Value::Null,
            input: json!({}),
            expected: Vec::new(),
        };
        // texts alternate with documents
        let parts: Vec<&str> = rest.split("\"\"\"").collect();
        for (place, said) in parts.iter().enumerate().step_by(2) {
            let document = parts.get(place + 1).map(|document| yaml::parse(document.strip_prefix("yaml").unwrap()));
            let lines: Vec<_> =
                said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
            for (at, line) in lines.iter().enumerate() {
                let document = document.clone().filter(|_| at + 1 == lines.len());
                match document {
                    Some(document) if line.ends_with("a workflow with definition:") => scenario.definition = document,
                    Some(document) if line.ends_with("the workflow input is:") => scenario.input = document,
                    _ if line.starts_with("When ") => {}
                    document => scenario.expected.push(((*line).to_owned(), document)),
                }
            }
        }
        scenario
    };
    text.split("Scenario:").skip(1).map(scenario).collect()
}

/// Nodes and edges in the making.
#[derive(Default)]
struct Flow {
    nodes: Vec<Value>,
    edges: Vec<Value>,
}

/// Where a task leads when it is done: it leaves these nodes, each under a condition or always.
type Ways = Vec<(String, Option<String>)>;

impl Flow {
    /// The tasks of a `do` in their order; `ways` lead to the first. The ways that lead out.
    fn tasks(&mut self, path: &str, tasks: &Value, mut ways: Ways) -> Ways {
        let mut out = Vec::new();
        let mut jumps: Vec<(String, String, Option<String>)> = Vec::new();
        for (place, item) in tasks.as_array().unwrap().iter().enumerate() {
            let (name, task) = item.as_object().unwrap().iter().next().unwrap();
            let id = format!("{path}.{place}.{name}");
            let jumped = jumps.extract_if(.., |(to, ..)| to == name).map(|(_, from, when)| (from, when));
            ways.extend(jumped);
            if let Some(inner) = task.get("do") {
                ways = self.tasks(&format!("{id}.do"), inner, ways);
                continue;
            }
            let left = self.task(&id, task, std::mem::take(&mut ways));
            for (from, when, to) in left {
                match to.as_deref().or(task["then"].as_str()) {
                    None | Some("continue") => ways.push((from, when)),
                    Some("end" | "exit") => out.push((from, when)),
                    Some(to) => jumps.push((to.to_owned(), from, when)),
                }
            }
        }
        out.extend(ways);
        out
    }

    /// One task: the ways it leaves, each with where to, if it says.
    fn task(&mut self, id: &str, task: &Value, ways: Ways) -> Vec<(String, Option<String>, Option<String>)> {
        // of the ways that may lead here, the last one that was gone: a task's number is in its id
        let came = if ways.len() > 1 { "(input|items|last)[1]" } else { "input" };
        let mut first = format!("{id}:input");
        let dot = match task["input"]["from"].as_str() {
            Some(from) => jq(from, came, came),
            None => came.to_owned(),
        };
        self.nodes.push(json!({"id": first, "type": "set", "output": whole(&dot)}));
        for (from, when) in ways {
            let mut edge = json!({"from": from, "to": first});
            if let Some(when) = when {
                edge["when"] = json!(when);
            }
            self.edges.push(edge);
        }
        let given = format!("nodes[\"{first}\"].output");
        let mut next = |this: &mut Self, id: &str, mut node: Value| {
            node["id"] = json!(id);
            this.nodes.push(node);
            this.edges.push(json!([first, id]));
            first = id.to_owned();
        };
        let event = &task["emit"]["event"]["with"];
        if let Some(set) = task.get("set") {
            next(self, id, json!({"type": "set", "output": values(set, &given, &given)}));
        } else if let Some(call) = task.get("with") {
            let uri =
                call["endpoint"]["uri"].as_str().unwrap().replace('{', &format!("{{{{ {given}.")).replace('}', " }}");
            next(self, id, json!({"type": "task", "handler": "http", "input": {"method": call["method"], "uri": uri}}));
        } else if event.is_object() {
            next(self, id, json!({"type": "task", "handler": "emit", "input": values(event, &given, &given)}));
        } else if let Some(error) = task["raise"].get("error") {
            // a name for programs, and the rest of it for people
            let message = json!({"status": error["status"], "type": error["type"]}).to_string();
            next(self, id, json!({"type": "fail", "name": error["title"], "message": message}));
            return Vec::new();
        } else if let Some(cases) = task.get("switch") {
            next(self, id, json!({"type": "set", "output": whole(&given)}));
            let mut earlier = String::from("false");
            let mut left = Vec::new();
            for case in cases.as_array().unwrap() {
                let case = case.as_object().unwrap().values().next().unwrap();
                let when = case["when"].as_str().map_or_else(|| "true".to_owned(), |when| jq(when, &given, &given));
                left.push((
                    id.to_owned(),
                    Some(format!("({when}) and not ({earlier})")),
                    case["then"].as_str().map(str::to_owned),
                ));
                earlier = format!("{earlier} or {when}");
            }
            left.push((id.to_owned(), Some(format!("not ({earlier})")), None));
            return left;
        } else {
            panic!("there is no task {task}");
        }
        if let Some(filter) = task["output"]["as"].as_str() {
            let filtered = jq(filter, &format!("nodes[\"{id}\"].output"), &given);
            next(self, &format!("{id}:output"), json!({"type": "set", "output": whole(&filtered)}));
        }
        vec![(first, None, None)]
    }
}

fn whole(expression: &str) -> Value {
    json!(format!("{{{{ {expression} }}}}"))
}

/// A value in which texts may be `${ … }`.
fn values(value: &Value, dot: &str, input: &str) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .map(|(key, value)| (key.clone(), values(value, dot, input)))
            .collect::<serde_json::Map<_, _>>()
            .into(),
        Value::String(text) if text.starts_with("${") => whole(&jq(text, dot, input)),
        plain => plain.clone(),
    }
}

/// As much jq as the scenarios use: paths, texts with values in them, `+` on lists, lists, objects and `==`.
fn jq(text: &str, dot: &str, input: &str) -> String {
    let text = text.trim();
    let text = text.strip_prefix("${").map_or(text, |text| text.strip_suffix('}').unwrap()).trim();
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let word = |from: &str| from.find(|c: char| !c.is_alphanumeric() && c != '.' && c != '_').unwrap_or(from.len());
        let length = match c {
            '.' => {
                let length = word(rest);
                out.push_str(dot);
                out.push_str(rest[..length].strip_suffix('.').unwrap_or(&rest[..length]));
                if rest[length..].trim_start().starts_with('+') {
                    out.push_str("|default([])"); // null + [x] is [x]
                }
                length
            }
            '$' => {
                let path = rest.strip_prefix("$input").unwrap();
                let length = word(path);
                out.push_str(input);
                out.push_str(&path[..length]);
                length + 6
            }
            '"' => {
                let length = rest[1..].find('"').unwrap() + 2;
                let mut pieces = rest[1..length - 1].split("\\(");
                let mut parts = vec![json!(pieces.next().unwrap()).to_string()];
                for piece in pieces {
                    let (path, plain) = piece.split_once(')').unwrap();
                    parts.extend([jq(path, dot, input), json!(plain).to_string()]);
                }
                out.push_str(&parts.join(" ~ "));
                length
            }
            c if c.is_alphabetic() => {
                let length = word(rest); // the key of an object
                out.push_str(&json!(rest[..length]).to_string());
                length
            }
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out
}

/// The tasks that ran, in order, by the names they have in the scenario.
async fn ran(fleet: &TestFleet, run: Uuid) -> Vec<String> {
    let sql = "select coalesce(json_agg(n.id order by a.claimed_at), '[]') from longshore.execution_step_attempts a
        join longshore.workflow_runs r using (run_id)
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
        where a.run_id = $1 and a.attempt > 0 and n.id not like '%:%'";
    let ids: Value = fleet.ask(sql, run).await;
    ids.as_array().unwrap().iter().map(|id| id.as_str().unwrap().rsplit('.').next().unwrap().to_owned()).collect()
}

async fn check(fleet: &TestFleet, scenario: &Scenario, run: Uuid) -> Result<String, String> {
    let (state, value) = fleet.ended(run).await;
    let ran = ran(fleet, run).await;
    for (said, document) in &scenario.expected {
        let said = said.trim_start_matches("Then ").trim_start_matches("And ");
        let words: Vec<&str> = said.split(['\'', ' ']).filter(|word| !word.is_empty()).collect();
        match (words.as_slice(), document) {
            (["the", "workflow", "should", "complete", ..], document) => {
                same("state", &state.as_str(), &"completed").map_err(|why| format!("{why}: {value}"))?;
                document.iter().try_for_each(|output| same("output", &value, output))?;
            }
            (["the", "workflow", "should", "fault", ..], Some(error)) => {
                same("state", &state.as_str(), &"failed")?;
                let mut told: Value = serde_json::from_str(value["message"].as_str().unwrap()).unwrap();
                told["title"] = value["name"].clone();
                told["instance"] = json!(format!("/{}", value["node"].as_str().unwrap().replace('.', "/")));
                same("error", &told, error)?;
            }
            (["the", "workflow", "output", "should", "have", "properties", names @ ..], None) => {
                let missing = names.iter().filter(|name| **name != "," && value.get(name).is_none());
                same("missing properties", &missing.collect::<Vec<_>>(), &Vec::new())?;
            }
            (["the", "workflow", "output", "should", "have", "a", name, ..], Some(expected)) => {
                same(name, &value[*name], expected)?
            }
            ([name, "should", "run", "first"], None) => same("first", &ran[0].as_str(), name)?,
            ([name, "should", "run", "last"], None) => same("last", &ran[ran.len() - 1].as_str(), name)?,
            other => panic!("nothing is known of {other:?}"),
        }
    }
    Ok(format!("{} expectations, {}", scenario.expected.len(), ran.join(" → ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn scenarios_of_the_conformance_tests_hold() {
    let Some(folder) = cases() else { return };
    let mut told = Told::default();
    let mut fleet = TestFleet::publish([]).await;
    let worker = fleet.worker().queue("default", Slots(10));
    let worker = worker.handler("http", async |_, call: Value| {
        let pet = call["uri"].as_str().and_then(|uri| uri.rsplit('/').next()).unwrap_or_default();
        let id: u64 = pet.parse().map_err(Failure::permanent)?;
        Ok::<_, Failure>(json!({"id": id, "name": "Rex", "method": call["method"]}))
    });
    let worker = worker.handler("emit", async |step: longshore_worker::Step, mut event: Value| {
        event["id"] = json!(step.idempotency_key());
        event["specversion"] = json!("1.0");
        event["time"] = json!(chrono::Utc::now());
        Ok::<_, Failure>(event)
    });
    fleet.add(worker).await;
    for feature in ["do", "set", "switch", "raise", "data-flow", "emit"] {
        for scenario in scenarios(&folder.join(format!("ctk/{feature}.feature"))) {
            let mut flow = Flow::default();
            let mut ends = flow.tasks("do", &scenario.definition["do"], Vec::new());
            let mut definition = json!({"name": "scenario"});
            if !ends.is_empty() {
                // whichever task was the last gives the output
                ends.dedup_by(|a, b| a.0 == b.0);
                for (from, when) in &ends {
                    flow.edges.push(json!({"from": from, "to": "end:", "when": when}));
                }
                let output = if ends.len() > 1 { "(input|items|last)[1]" } else { "input" };
                flow.nodes.push(json!({"id": "end:", "type": "set", "output": whole(output)}));
            }
            definition["nodes"] = json!(flow.nodes);
            definition["edges"] = json!(flow.edges);
            fleet.apply(definition).await;
            let run = fleet.start("scenario", scenario.input.clone()).await;
            told.tell(&scenario.name, check(&fleet, &scenario, run).await);
        }
    }
    fleet.finish().await;
    told.end(10);
}
