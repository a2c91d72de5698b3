//! Recorded executions of state machines: each definition through the importer, on a real fleet, with handlers that
//! answer as was recorded. Times are a twentieth of what they are in the definition, so that none is skipped.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};

use longshore::asl;
use longshore_core::duration;
use longshore_enqueuer::Enqueuer;
use longshore_tests::TestFleet;
use longshore_worker::{Failure, Slots, Step};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Told, cases, json as read, same, text};

/// Every constant time of a definition is divided by it.
const FASTER: u32 = 20;

/// A Map whose items are executions of their own there.
const DISTRIBUTED: &str = "test_map_state_tolerated_failure_count_path[1]";
/// A machine that starts another.
const STARTS: &str = "test_start_execution_sync";

/// Where a case is met otherwise on purpose: what is true here. The reason is in `ops/REFERENCE.md`.
fn otherwise(case: &str, recorded: &mut Value) -> bool {
    match case {
        DISTRIBUTED => {
            recorded["steps_entered_in_order"] = json!(["MapState", "HandleItem"]);
            recorded["iterations_started"] = json!(1);
        }
        STARTS => {
            let output = recorded["expected"]["output"].as_object_mut().unwrap();
            output.retain(|key, _| ["Input", "Name", "Output", "Status"].contains(&key.as_str()));
            output.insert("StateMachineArn".to_owned(), json!(CHILD));
        }
        _ => return false,
    }
    let reference = text(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/REFERENCE.md")));
    assert!(reference.contains(case), "{case}: a difference has its reason in the reference");
    true
}

/// The machine that a recorded one starts.
const CHILD: &str = "arn:aws:states:eu-west-1:123456789012:stateMachine:child";

/// What tasks of a workflow return or raise, call by call.
type Script = Arc<Mutex<HashMap<String, VecDeque<Value>>>>;

/// JSON with comments and commas before a closing bracket.
fn relaxed(text: &str) -> Value {
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    let mut quoted = false;
    while let Some(c) = rest.next() {
        match c {
            '\\' if quoted => {
                plain.push(c);
                plain.extend(rest.next());
                continue;
            }
            '"' => quoted = !quoted,
            '/' if !quoted && rest.peek() == Some(&'/') => {
                while rest.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            ']' | '}' if !quoted => {
                let kept = plain.trim_end().trim_end_matches(',').len();
                plain.truncate(kept);
            }
            _ => {}
        }
        plain.push(c);
    }
    serde_json::from_str(&plain).unwrap_or_else(|error| panic!("{error}: {plain}"))
}

/// Makes the constant times of a definition shorter.
pub(crate) fn hurry(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hurry),
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(time) if ["timeout", "duration", "initial", "max"].contains(&key.as_str()) => {
                        if let Ok(long) = duration::parse(time) {
                            *time = duration::format(long / FASTER);
                        }
                    }
                    value => hurry(value),
                }
            }
        }
        _ => {}
    }
}

/// Where a recorded definition has a placeholder that the recorder's test filled in.
fn fill_in(case: &str, machine: &mut Value) {
    if case == STARTS {
        let parameters = &mut machine["States"]["StartExecution"]["Parameters"];
        parameters.as_object_mut().unwrap().remove("StateMachineArn.$");
        parameters["StateMachineArn"] = json!(CHILD);
    }
    if case == "test_raise_custom_exception" {
        machine["States"]["InvokeLambda"]["Catch"][0]["ErrorEquals"] = json!(["CustomException"]);
    }
}

/// Answers as the script says. An input with a task token is answered by a signal.
async fn play(script: Script, enqueuer: Enqueuer, step: Step, input: Value) -> Result<Value, Failure> {
    let line = script.lock().unwrap().get_mut(step.workflow()).and_then(VecDeque::pop_front);
    let line = line.ok_or_else(|| Failure::permanent("it is called more often than was recorded"))?;
    let token = input["MessageBody"]["TaskToken"].as_str();
    match (line["event"].as_str().unwrap(), token) {
        ("LambdaFunctionTimedOut", _) => {
            step.cancellation().cancelled().await;
            Err(Failure::canceled("its time is over"))
        }
        ("TaskTimedOut", Some(_)) => Ok(json!("sent, and never answered")),
        ("TaskSucceeded", Some(token)) => {
            let run: Uuid = token[..36].parse().map_err(Failure::permanent)?;
            enqueuer.signal(run, token, &given(&line["output"])).await.map_err(Failure::permanent)?;
            Ok(json!("sent"))
        }
        ("TaskSucceeded", None) => Ok(given(&line["output"])),
        (_, _) => {
            let cause = line["cause"].as_str().unwrap_or_default();
            Err(Failure::retryable(cause).named(line["error"].as_str().unwrap()))
        }
    }
}

/// A value that may be recorded as JSON text.
fn given(recorded: &Value) -> Value {
    recorded.as_str().map_or_else(|| recorded.clone(), |text| serde_json::from_str(text).unwrap())
}

/// A state machine's own names, with where each leads.
fn states(machine: &Value, found: &mut BTreeMap<String, Option<String>>) {
    for (name, state) in machine["States"].as_object().into_iter().flatten() {
        found.insert(name.clone(), state["Next"].as_str().map(str::to_owned));
        states(&state["ItemProcessor"], found);
        state["Branches"].as_array().into_iter().flatten().for_each(|branch| states(branch, found));
    }
}

/// The steps of a run that were tried or wait to be, in the order in which they began.
async fn entered(fleet: &TestFleet, run: Uuid) -> Vec<String> {
    let sql = "select coalesce(json_agg(id order by began, frame, node), '[]') from (
        select n.id, s.frame, s.node, min(s.began) as began
        from (select frame, node, claimed_at as began from longshore.execution_step_attempts where run_id = $1 and attempt > 0
              union all select frame, node, now() from longshore.execution_steps where run_id = $1 and state = 'delayed') s
        join longshore.workflow_runs r on r.run_id = $1
        join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = s.node
        group by n.id, s.frame, s.node) x";
    let names: Value = fleet.ask(sql, run).await;
    names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
}

async fn count(fleet: &TestFleet, run: Uuid, sql: &str) -> i64 {
    fleet.ask(sql, run).await
}

struct Case {
    id: String,
    workflow: String,
    recorded: Value,
    machine: Value,
    /// Some of it is met otherwise on purpose.
    differs: bool,
}

impl Case {
    fn read(folder: &std::path::Path, place: usize, recorded: &Value) -> Self {
        let id = recorded["id"].as_str().unwrap().to_owned();
        let mut machine = relaxed(&text(&folder.join(recorded["definition"][0].as_str().unwrap())));
        fill_in(&id, &mut machine);
        let mut recorded = recorded.clone();
        let differs = otherwise(&id, &mut recorded);
        Self { workflow: format!("case-{place}"), recorded, machine, id, differs }
    }

    /// What tasks return or raise; the recorded cause of a failure is what the handler says.
    fn script(&self) -> VecDeque<Value> {
        if self.id == STARTS {
            return VecDeque::new(); // the child run returns it
        }
        let expected = &self.recorded["expected"];
        let cause = [&expected["cause"], &expected["output"]["Cause"], &expected["output"]["stateError"]["Cause"]];
        let cause = cause.into_iter().find(|cause| !cause.is_null()).map(|cause| match cause {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        let lines = self.recorded["task_results_in_order"].as_array().unwrap().iter().cloned();
        lines
            .map(|mut line| {
                line["cause"] = json!(cause);
                line
            })
            .collect()
    }

    async fn check(&self, fleet: &TestFleet, run: Uuid, state: &str, value: &Value) -> Result<String, String> {
        let expected = &self.recorded["expected"];
        let ended = match expected["run"].as_str().unwrap() {
            "succeeded" => "completed",
            "aborted" => "canceled",
            failed => failed,
        };
        same("state", &state, &ended).map_err(|why| format!("{why}: {value}"))?;
        if ended == "completed" {
            same("output", value, &given(&expected["output"]))?;
        }
        if ended == "failed" {
            let name = asl::error_name(value["name"].as_str().unwrap());
            // a Fail without an Error has no name there
            same("error", &name, &expected["error"].as_str().unwrap_or("failed"))?;
            if let Some(cause) = expected["cause"].as_str().filter(|_| name != "States.Runtime") {
                same("cause", &value["message"].as_str().unwrap(), &cause)?;
            }
        }
        let mut known = BTreeMap::new();
        states(&self.machine, &mut known);
        let entered: Vec<_> = entered(fleet, run).await.into_iter().filter(|id| known.contains_key(id)).collect();
        let recorded: Vec<String> = serde_json::from_value(self.recorded["steps_entered_in_order"].clone()).unwrap();
        if self.recorded["parallel_rounds_started"] == 0 {
            same("states entered, in order", &entered, &recorded)?;
        }
        let sorted = |names: &[String]| {
            let mut names = names.to_vec();
            names.sort();
            names
        };
        same("states entered", &sorted(&entered), &sorted(&recorded))?;
        let place = |name: &str| entered.iter().position(|entered| entered == name);
        for (from, to) in known.iter().filter_map(|(from, to)| Some((place(from)?, place(to.as_deref()?)?))) {
            same("a state follows the one before it", &(from < to), &true)?;
        }
        let of_type = |kind: &str| {
            format!("join longshore.workflow_runs r using (run_id)
                join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node and n.type in ({kind}) where a.run_id = $1")
        };
        for (what, recorded, sql) in [
            ("attempts", "attempts_scheduled", format!("select count(*) from longshore.execution_step_attempts a {} and attempt > 0", of_type("'task', 'subflow'"))),
            (
                "iterations",
                "iterations_started",
                "select count(*) from longshore.block_group_runs where run_id = $1 and type = 'foreach' and iteration is not null".to_owned(),
            ),
            (
                "rounds of maps",
                "map_rounds_started",
                // an attempt that failed before any iteration did not start
                format!("select count(*) from longshore.execution_step_attempts a {} and attempt > 0
                    and (outcome = 1 or exists (select from longshore.frames f where f.run_id = a.run_id and f.node = a.node and f.attempt = a.attempt))", of_type("'foreach'")),
            ),
            (
                "rounds of parallels",
                "parallel_rounds_started",
                format!("select count(*) from longshore.execution_step_attempts a {} and attempt > 0", of_type("'parallel'")),
            ),
        ] {
            same(what, &count(fleet, run, &sql).await, &self.recorded[recorded].as_i64().unwrap())?;
        }
        let otherwise = if self.differs { ", otherwise on purpose" } else { "" };
        Ok(format!("{ended}, {} states{otherwise}: {}", entered.len(), self.recorded["what"].as_str().unwrap()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn recorded_executions_end_as_recorded() {
    let Some(folder) = cases() else { return };
    let recorded = read(&folder.join("aws-cases.json"));
    let recorded = recorded.as_array().unwrap();
    let cases: Vec<_> = recorded.iter().enumerate().map(|(place, case)| Case::read(&folder, place, case)).collect();
    let mut told = Told::default();
    let child = recorded.iter().find_map(|case| case["child_definition"][0].as_str()).unwrap();
    let child = asl::definition(&relaxed(&text(&folder.join(child))), "child").unwrap();
    let mut fleet = TestFleet::publish([child]).await;
    let script = Script::default();
    let mut worker = fleet.worker().queue("default", Slots(20));
    let mut runs = Vec::new();
    for case in &cases {
        match asl::definition(&case.machine, &case.workflow) {
            Ok(mut definition) => {
                hurry(&mut definition);
                fleet.apply(definition.clone()).await;
                runs.push(case);
                script.lock().unwrap().insert(case.workflow.clone(), case.script());
            }
            Err(refused) => told.tell(&case.id, Err(refused.to_string())),
        }
    }
    for handler in ["__tbd__", "_tbd_", "__tbc__", "lambda:invoke", "sqs:sendMessage"] {
        let (script, enqueuer) = (script.clone(), fleet.enqueuer.clone());
        worker = worker
            .handler(handler, move |step: Step, input: Value| play(script.clone(), enqueuer.clone(), step, input));
    }
    fleet.add(worker).await;
    for case in runs {
        let run = fleet.start(&case.workflow, case.recorded["input"].clone()).await;
        if case.recorded["expected"]["run"] == "aborted" {
            fleet.until(&format!("select exists (select from longshore.step_delayed where run_id = '{run}')")).await;
            // what waits is gone once the run is settled
            let waits = entered(&fleet, run).await;
            fleet.enqueuer.cancel(run).await.unwrap();
            let (state, _) = fleet.ended(run).await;
            let recorded: Vec<String> =
                serde_json::from_value(case.recorded["steps_entered_in_order"].clone()).unwrap();
            let result =
                same("state", &state.as_str(), &"canceled").and_then(|()| same("states entered", &waits, &recorded));
            told.tell(&case.id, result.map(|()| "canceled, and no other state entered".to_owned()));
            continue;
        }
        let (state, value) = fleet.ended(run).await;
        let result = case.check(&fleet, run, &state, &value).await;
        let unplayed = script.lock().unwrap()[&case.workflow].len();
        let result = result.and_then(|how| same("results that nobody asked for", &unplayed, &0).map(|()| how));
        told.tell(&case.id, result);
    }
    fleet.finish().await;
    told.end(25);
}
