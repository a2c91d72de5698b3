//! The commands as a script meets them: what `-o json` prints, and the exit codes. One cluster and two workers for all of it, as the parts
//! follow each other: a workflow is applied, started, watched, explained, pruned. Postgres must be installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use std::{
    collections::BTreeSet,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use longshore::{
    postgres::Listen,
    stage::{Plan, Stage},
};
use serde_json::{Value, json};

const LONGSHORE: &str = env!("CARGO_BIN_EXE_longshore");

/// What a command gave.
struct Said {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Said {
    fn json(&self) -> Value {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        serde_json::from_str(&self.stdout).unwrap()
    }
}

/// The objects that this output has must have the keys that `OUTPUT.md` gives for the command, and every list must have something in it.
fn assert_documented(command: &str, output: &Value) {
    let mut found = 0;
    for line in include_str!("../OUTPUT.md").lines().filter(|line| line.starts_with("| `")) {
        let [_, commands, object, keys, _] = line.split('|').map(str::trim).collect::<Vec<_>>()[..] else {
            panic!("{line} has not three columns");
        };
        if !commands.split(", ").any(|it| it.trim_matches('`') == command) {
            continue;
        }
        let object = match object.trim_matches('`') {
            "" => output,
            list if list.ends_with("[]") => &output[list.trim_end_matches("[]")][0],
            name => &output[name],
        };
        let documented: BTreeSet<&str> = keys.split_whitespace().map(|key| key.trim_matches('`')).collect();
        let object = object.as_object().unwrap_or_else(|| panic!("{command} has no such object: {line}"));
        let printed: BTreeSet<&str> = object.keys().map(String::as_str).collect();
        assert_eq!(printed, documented, "{line}");
        found += 1;
    }
    assert!(found > 0, "OUTPUT.md does not know {command}");
}

fn longshore_without_database(arguments: &[&str], stdin: &str) -> Said {
    said(Command::new(LONGSHORE).env_remove("LONGSHORE_DATABASE_URL").env_remove("DATABASE_URL").args(arguments), stdin)
}

fn said(command: &mut Command, stdin: &str) -> Said {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Said { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

struct Shell {
    url: String,
}

impl Shell {
    fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], stdin: &str) -> Said {
        said(Command::new(LONGSHORE).env("LONGSHORE_DATABASE_URL", &self.url).args(arguments), stdin)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        self.run(&[arguments, &["-o", "json"]].concat()).json()
    }

    /// What a command prints, which must be as documented for `command`.
    fn documented(&self, command: &str, more: &[&str]) -> Value {
        let output = self.json(&[&command.split(' ').collect::<Vec<_>>(), more].concat());
        assert_documented(command, &output);
        output
    }

    fn code(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let said = self.run(arguments);
        (said.code, said.stderr)
    }
}

fn definition(name: &str, seconds: f64) -> Value {
    json!({
        "name": name,
        "input_schema": {"type": "object", "properties": {"order": {"type": "integer"}}},
        "nodes": [
            {"id": "reserve", "type": "task", "handler": "sleep", "input": {"seconds": seconds, "output": 7}},
            {"id": "charge", "type": "task", "handler": "echo"}],
        "edges": [["reserve", "charge"]]
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_does_what_it_says_and_its_json_has_the_documented_keys() {
    let plan = Plan {
        dir: None,
        listen: Listen::Socket,
        workers: 2,
        worker_arguments: vec!["--all-queues".to_owned(), "--grace".to_owned(), "5s".to_owned()],
        logs: None,
    };
    let stage = Stage::set_up(&plan, Path::new(LONGSHORE)).await.unwrap();
    assert_eq!(stage.metrics().len(), 2);
    let shell = Shell { url: stage.url().to_owned() };

    let status = shell.documented("migrate status", &[]);
    assert_eq!(status["current"], true);
    assert_eq!(shell.documented("migrate up", &[])["applied"], json!([]));
    assert!(shell.documented("migrate sql", &[])["sql"].as_str().unwrap().contains("create table"));

    definitions_are_published_once(&shell);
    runs_are_started_and_watched(&shell);
    a_run_that_is_not_finished_is_explained_and_canceled(&shell);
    a_run_is_paused_asked_and_run_anew(&shell);
    a_child_is_published_before_its_parent_and_shown_with_it(&shell);
    cases_are_tested_on_a_postgres_of_their_own(&shell);

    assert_eq!(shell.code(&["doctor", "--strict"]).0, Some(0));
    shell.documented("doctor", &[]);
    let pruned = shell.documented("prune", &["--older-than", "30d"]);
    assert_eq!(pruned, json!({"runs": 0, "attempts": 0, "partitions": 0}));
    assert_eq!(stage.stop(std::time::Duration::from_secs(20)).await.unwrap(), 0, "a worker had to be killed");
}

fn a_run_is_paused_asked_and_run_anew(shell: &Shell) {
    let definition = json!({"name": "asked", "context": {"n": 0}, "queries": {"n": "run.context.n"}, "nodes": [
        {"id": "count", "type": "context", "increment": {"n": 1}}, {"id": "go", "type": "wait", "signal": "go"},
        {"id": "check", "type": "fail", "name": "late", "message": "too late"}], "edges": [["count", "go"], ["go", "check"]]});
    assert_eq!(shell.run_with(&["workflow", "apply", "-"], &definition.to_string()).code, Some(0));
    let start = || shell.json(&["run", "start", "asked"])["run_id"].as_str().unwrap().to_owned();
    let (run, other) = (start(), start());
    assert_eq!(shell.documented("run pause", &[&run, "--reason", "for ann"])["changed"], true);
    assert_eq!(shell.documented("run pause", &[&run])["changed"], false);
    let found = shell.json(&["run", "resume", "--workflow", "asked", "--dry-run"]);
    assert_eq!(
        (&found["dry_run"], &found["changed"], &found["runs"][0]["run_id"]),
        (&json!(true), &json!(0), &json!(run))
    );
    assert_eq!(shell.documented("run resume", &[&run])["state"], "running");
    shell.json(&["run", "signal", &run, "go"]);
    assert_eq!(shell.code(&["run", "watch", &run]).0, Some(1));
    assert_eq!(shell.documented("run query", &[&run, "n"])["answer"], 1);
    assert_eq!(shell.code(&["run", "query", &run, "m"]).0, Some(3));
    assert_eq!(shell.documented("run context", &[&run, "--at", "1"])["snapshot"]["node"], "count");
    let changed = shell.json(&["run", "context", &run, "--at", "1", "--diff"]);
    assert_eq!(changed["diff"], json!(["-  \"n\": 0", "+  \"n\": 1"]));
    assert_eq!(shell.code(&["run", "context", &run, "--at", "9"]).0, Some(3));
    // it fails again, at once; that it goes on is what `retry` says
    let done = loop {
        let said = shell.run(&["-o", "json", "run", "retry", &run]);
        match said.code {
            Some(0) => break serde_json::from_str::<Value>(&said.stdout).unwrap(),
            code => assert_eq!(code, Some(4), "not settled yet: {}", said.stderr),
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    };
    assert_documented("run retry", &done);
    assert_eq!(shell.code(&["run", "watch", &run]).0, Some(1), "it has failed again");
    let planned = shell.documented("run rerun", &[&run, "--from", "go", "--plan"]);
    assert_eq!(
        (&planned["run_id"], &planned["reused"], &planned["ready"]),
        (&Value::Null, &json!(["count"]), &json!(["go"]))
    );
    let anew = shell.json(&["run", "rerun", &run, "--from", "count", "--version", "latest", "--input", "{}"]);
    assert_eq!(anew["ready"], json!(["count"]));
    assert_eq!(shell.code(&["run", "rerun", &run, "--from", "nowhere"]).0, Some(3));
    assert_eq!(shell.code(&["run", "rerun", &run, "--from", "go/on"]).0, Some(4), "a wait holds nothing");
    // all of a filter: only when it is said in earnest
    let failed = ["run", "rerun", "--workflow", "asked", "--from", "go", "--state", "failed"];
    let would = shell.json(&[&failed[..], &["--dry-run"]].concat());
    assert_eq!(
        (&would["dry_run"], &would["changed"], would["runs"].as_array().map(Vec::len)),
        (&json!(true), &json!(0), Some(1))
    );
    let planned = shell.json(&[&failed[..], &["--plan"]].concat());
    assert_eq!((&planned["changed"], &planned["runs"][0]["plan"]["run_id"]), (&json!(0), &Value::Null));
    let done = shell.json(&failed);
    assert_eq!((&done["changed"], &done["runs"][0]["run_id"]), (&json!(1), &json!(run)));
    assert!(done["runs"][0]["plan"]["run_id"].is_string(), "{done}");
    assert_eq!(shell.code(&["run", "rerun", "--workflow", "asked", "--from", "go"]).0, Some(2), "of which is not said");
    assert_eq!(shell.code(&["run", "cancel", "--workflow", "asked"]).0, Some(2), "of which of them is not said");
    // one that is queued at first may be running by then
    let cancel = |state| {
        shell.json(&["run", "cancel", "--workflow", "asked", "--state", state])["changed"].as_u64().unwrap_or(1)
    };
    assert_eq!(cancel("queued") + cancel("running"), 3, "{other} and the two run anew");
}

fn definitions_are_published_once(shell: &Shell) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("order.json");
    std::fs::write(&file, definition("order", 0.01).to_string()).unwrap();
    let path = file.to_str().unwrap();
    let applied = shell.json(&["workflow", "apply", folder.path().to_str().unwrap()]);
    let line = |created: bool| json!({"workflow": "order", "version": 1, "created": created, "file": path});
    assert_eq!(applied, json!({"workflows": [line(true)]}));
    assert_eq!(shell.json(&["workflow", "apply", path])["workflows"][0], line(false));
    let stdin = shell.run_with(&["workflow", "apply", "-"], &definition("slow", 3600.0).to_string());
    assert_eq!((stdin.code, stdin.stdout.trim()), (Some(0), "slow version 1 created"), "{}", stdin.stderr);

    assert_documented("workflow apply", &applied);
    shell.documented("workflow list", &[]);
    let shown = shell.documented("workflow show", &["order", "--version", "1"]);
    assert_eq!(shown["definition"]["nodes"][0]["id"], "reserve");
    assert_eq!(shell.code(&["workflow", "show", "nothing"]).0, Some(3));
    assert_eq!(shell.code(&["workflow", "apply", "/no/such/file.json"]).0, Some(3));
}

fn runs_are_started_and_watched(shell: &Shell) {
    let start = ["run", "start", "order", "--input", "{\"order\": 7}", "--key", "order-7"];
    let started = shell.json(&start);
    assert_documented("run start", &started);
    assert_eq!(started["created"], true);
    let run_id = started["run_id"].as_str().unwrap();
    assert_eq!(shell.json(&start), json!({"run_id": run_id, "created": false}));

    let watched = shell.documented("run watch", &[run_id]);
    assert_eq!((&watched["run"]["state"], &watched["run"]["output"]), (&json!("completed"), &json!(7)));
    let shown = shell.documented("run show --attempts", &[run_id]);
    assert_documented("run show", &shown);
    assert_eq!(shown["steps"][1]["state"], "completed");
    assert_eq!(shown["attempts"].as_array().map(Vec::len), Some(2));
    let listed = shell.documented("run list", &["--workflow", "order", "--state", "completed"]);
    assert_eq!(listed["runs"][0]["run_id"], run_id);

    let (code, refusal) = shell.code(&["run", "start", "order", "--input", "{\"order\": 8}", "--key", "order-7"]);
    assert_eq!(code, Some(4), "{refusal}");
    assert_eq!(shell.code(&["run", "start", "nothing"]).0, Some(3));
    assert_eq!(shell.code(&["run", "start", "order", "--input", "{\"order\": \"x\"}"]).0, Some(1));
    assert_eq!(shell.code(&["run", "start", "order", "--input", "{"]).0, Some(2));
    assert_eq!(shell.code(&["run", "start", "order", "--priority", "4"]).0, Some(2));
    assert_eq!(shell.code(&["run", "cancel", run_id]).0, Some(4));
    assert_eq!(shell.code(&["run", "show", "00000000-0000-7000-8000-000000000000"]).0, Some(3));
}

fn a_run_that_is_not_finished_is_explained_and_canceled(shell: &Shell) {
    let started = shell.json(&["run", "start", "slow"]);
    let run_id = started["run_id"].as_str().unwrap();
    let explained = shell.documented("run explain", &[run_id]);
    assert_eq!(explained["run_id"], run_id);
    let sent = shell.documented("run signal", &[run_id, "paid", "{\"by\": \"card\"}", "--key", "k"]);
    assert_eq!(shell.json(&["run", "signal", run_id, "paid", "--key", "k"]), sent, "the same key is the same signal");
    assert_eq!(shell.code(&["run", "signal", run_id, "paid", "{"]).0, Some(2));
    let canceled = shell.documented("run cancel", &[run_id, "--reason", "enough"]);
    assert_eq!(canceled, json!({"run_id": run_id, "state": "canceled", "changed": true}));
    assert_eq!(shell.json(&["run", "cancel", run_id])["changed"], false);
    assert_eq!(shell.code(&["run", "signal", run_id, "paid"]).0, Some(4), "it has ended");
    let (code, stderr) = shell.code(&["run", "watch", run_id]);
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(shell.code(&["run", "advance", run_id]).0, Some(4), "it is not in test mode");
    let folder = tempfile::tempdir().unwrap();
    let mocks = folder.path().join("mocks.json");
    std::fs::write(&mocks, json!({"handler:sleep": [{"error": {"name": "busy"}}, {"output": 1}]}).to_string()).unwrap();
    let mocks = mocks.to_str().unwrap();
    let tested = shell.json(&["run", "start", "slow", "--mocks", mocks, "--run-at", "2100-01-01T00:00:00Z"]);
    let tested = tested["run_id"].as_str().unwrap();
    assert_eq!(shell.documented("run advance", &[tested, "--by", "1h"])["timers"], 1);
    assert_eq!(shell.json(&["run", "show", tested])["run"]["mode"], "test");
    shell.json(&["run", "cancel", tested]);
    std::fs::write(folder.path().join("mocks.json"), "{").unwrap();
    assert_eq!(shell.code(&["run", "start", "slow", "--mocks", mocks]).0, Some(2));
}

fn a_child_is_published_before_its_parent_and_shown_with_it(shell: &Shell) {
    let folder = tempfile::tempdir().unwrap();
    let call =
        |child: &str| json!({"name": "a-parent", "nodes": [{"id": "call", "type": "subflow", "workflow": child}]});
    let (parent, child) = (folder.path().join("a.json"), folder.path().join("b.json"));
    std::fs::write(
        &child,
        json!({"name": "the-child", "nodes": [{"id": "a", "type": "set", "output": 7}]}).to_string(),
    )
    .unwrap();
    std::fs::write(&parent, call("nothing").to_string()).unwrap();
    let said = shell.run_with(&["workflow", "apply", folder.path().to_str().unwrap()], "");
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    assert!(said.stdout.contains("nodes[0].workflow: no workflow `nothing` is published"), "{}", said.stdout);
    assert_eq!(shell.code(&["workflow", "show", "the-child"]).0, Some(3), "nothing is applied");
    std::fs::write(&parent, call("the-child").to_string()).unwrap();
    let applied = shell.json(&["workflow", "apply", folder.path().to_str().unwrap()]);
    assert_eq!([&applied["workflows"][0]["workflow"], &applied["workflows"][1]["workflow"]], ["the-child", "a-parent"]);
    let watched = shell.json(&["run", "start", "a-parent", "--watch"]);
    assert_eq!(watched["run"]["output"], 7);
    let run_id = watched["run"]["run_id"].as_str().unwrap();
    let shown = shell.json(&["run", "show", run_id]);
    let child = &shown["run"]["children"][0];
    assert_eq!(
        (&child["workflow"], &child["node"], &child["state"]),
        (&json!("the-child"), &json!("call"), &json!("completed"))
    );
    assert_eq!(shell.json(&["run", "show", child["run_id"].as_str().unwrap()])["run"]["parent_run_id"], run_id);
    let text = shell.run_with(&["run", "show", run_id], "");
    assert!(text.stdout.contains("the-child v1"), "{}", text.stdout);
}

/// The shell's environment names a database with live workers, which is not used.
fn cases_are_tested_on_a_postgres_of_their_own(shell: &Shell) {
    const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let reference = include_str!("../../REFERENCE.md");
    let example = reference.split("```js\n").nth(1).unwrap().split("```").next().unwrap();
    std::fs::write(path("order.test.json"), example).unwrap();
    std::fs::copy(format!("{SAMPLES}/order.json"), path("order.json")).unwrap();
    // applied and tested are other files of a folder
    assert_eq!(shell.code(&["workflow", "validate", folder.path().to_str().unwrap()]).0, Some(0));
    assert_eq!(shell.code(&["workflow", "validate", SAMPLES]).0, Some(0));

    let arguments = [SAMPLES, &path("order.json"), "--require-coverage", "60"];
    let tested = shell.documented("workflow test", &arguments);
    assert_eq!((&tested["passed"], &tested["failed"]), (&json!(11), &json!(0)), "{tested:#}");
    // of blocks with an approval, and of edges alone
    for (place, things) in [(0, 27), (1, 13)] {
        let sample = &tested["files"][place]["coverage"];
        assert_eq!([&sample["covered"], &sample["total"]], [&json!(things), &json!(things)]);
        assert_eq!(sample["percent"], 100.0);
    }
    let open = |place: usize, list: &str, key: &str, open: Value| {
        let coverage = &tested["files"][place]["coverage"];
        coverage[list].as_array().unwrap().iter().filter(|it| it[key] == open).count()
    };
    assert_eq!((open(1, "nodes", "went", json!("run")), open(2, "nodes", "went", json!("skipped"))), (6, 1));
    assert_eq!((open(1, "edges", "taken", json!(false)), open(2, "edges", "taken", json!(false))), (0, 2));

    let wrong = json!({"definition": "order.json", "cases": [
        {"name": "no mock", "input": {"order": 1, "amount": 2}, "expect": {"output": {"sent": true}, "path": ["ship"]}}]});
    std::fs::write(path("order.test.json"), wrong.to_string()).unwrap();
    let said = shell.run(&["workflow", "test", &path("order.json"), "--require-coverage", "50"]);
    assert_eq!(said.code, Some(1), "{}", said.stderr);
    for part in [
        "FAILED  no mock",
        "node `reserve` has no mock, and handler `sleep` is not registered",
        "state: expected completed, came failed (mock_missing: ",
        "output: expected {\"sent\":true}, came null",
        "path: expected [\"ship\"], came []",
        "nodes run    1   6  charge, ship, refund, release, notify",
    ] {
        assert!(said.stdout.contains(part), "{part}\n{}", said.stdout);
    }
    assert!(said.stderr.contains("1 of 1 cases failed; "), "{}", said.stderr);
    assert!(said.stderr.contains("covers 7.7 % of order, 50 % are required"), "{}", said.stderr);

    // where workers are alive nothing is tested
    let there = shell.run(&["workflow", "test", SAMPLES, "--database-url", &shell.url]);
    assert_eq!(there.code, Some(1));
    assert!(there.stderr.contains("is alive on this database"), "{}", there.stderr);
}

#[test]
fn test_files_that_are_wrong_are_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("w.json"), definition("w", 1.0).to_string()).unwrap();
    std::fs::write(path("w.test.json"), json!({"cases": [{"name": "n", "mocks": {"x": 1}, "expct": {}}]}).to_string())
        .unwrap();
    let test = |file: &str| longshore_without_database(&["workflow", "test", file, "-o", "json"], "");
    let said = test(&path("w.json"));
    assert_eq!(said.code, Some(2), "{}", said.stderr);
    let problems: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(problems["problems"][0]["path"], "cases[0].expct");
    std::fs::write(path("w.test.json"), json!({"cases": [{"name": "n", "mocks": {"x": 1}}]}).to_string()).unwrap();
    let problems: Value = serde_json::from_str(&test(&path("w.test.json")).stdout).unwrap();
    assert_eq!(problems["problems"][0]["path"], "cases[0].mocks.x");
    std::fs::write(path("w.json"), "{}").unwrap();
    assert_eq!(test(&path("w.json")).code, Some(2));
    for missing in ["other.json", "other.test.json"] {
        let said = test(&path(missing));
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains("other.test.json"), "{}", said.stderr);
    }
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(test(empty.path().to_str().unwrap()).code, Some(2));
}

#[test]
fn definitions_are_checked_without_a_database_and_every_problem_is_named() {
    let bad = json!({"name": "b", "nodes": [{"id": "n", "type": "task"}], "edges": [["n", "m"]]}).to_string();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, definition("w", 1.0).to_string()).unwrap();
    let validate = ["workflow", "validate", file.path().to_str().unwrap(), "-", "-o", "json"];
    let said = longshore_without_database(&validate, &bad);
    assert_eq!(said.code, Some(1));
    assert!(said.stderr.trim().ends_with("2 problems"), "{}", said.stderr);
    let checked: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_documented("workflow validate", &checked);
    let paths: Vec<&str> =
        checked["problems"].as_array().unwrap().iter().map(|problem| problem["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["nodes[0].handler", "edges[0].to"]);
    let good = longshore_without_database(&["workflow", "validate", "-"], &definition("w", 1.0).to_string());
    assert_eq!((good.code, good.stdout.trim()), (Some(0), "w is valid: 2 nodes, 1 edges"));
}

#[test]
fn a_state_machine_is_imported_or_refused_by_state_and_reason() {
    const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/refund.asl.json");
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("refund.json");
    let printed = longshore_without_database(&["import", "asl", SAMPLE], "");
    let written = longshore_without_database(&["import", "asl", SAMPLE, "--out", out.to_str().unwrap()], "");
    assert_eq!((printed.code, written.code, written.stdout.as_str()), (Some(0), Some(0), ""), "{}", written.stderr);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), printed.stdout);
    assert_eq!(printed.json()["name"], "refund");
    let validated = longshore_without_database(&["workflow", "validate", out.to_str().unwrap(), "-o", "json"], "");
    assert_eq!(validated.json()["valid"], true);
    let named = longshore_without_database(&["import", "asl", SAMPLE, "--name", "pay-back"], "");
    assert_eq!(named.json()["name"], "pay-back");
    let machine = json!({"StartAt": "a", "States": {"a": {"Type": "Map", "ItemReader": {}, "End": true}}});
    std::fs::write(&out, machine.to_string()).unwrap();
    let refused = longshore_without_database(&["import", "asl", out.to_str().unwrap()], "");
    assert_eq!((refused.code, refused.stdout.as_str()), (Some(1), ""));
    assert!(refused.stderr.contains("state \"a\": ItemReader is not translated"), "{}", refused.stderr);
    assert!(refused.stderr.contains("state \"a\": it needs an ItemProcessor"), "{}", refused.stderr);
}

#[test]
fn a_command_without_a_database_says_how_to_name_one() {
    for arguments in [["run", "list"], ["doctor", "--strict"]] {
        let said = longshore_without_database(&arguments, "");
        assert_eq!(said.code, Some(2));
        assert!(said.stderr.contains("LONGSHORE_DATABASE_URL"), "{}", said.stderr);
    }
    for arguments in [["run", "list", "--help"], ["worker", "-otext", "--help"]] {
        let help = longshore_without_database(&arguments, "").stdout;
        assert!(help.contains("LONGSHORE_DATABASE_URL") && !help.contains("[env: DATABASE_URL"), "{help}");
    }
    assert_eq!(longshore_without_database(&["worker"], "").code, Some(2));
    // What follows is refused for what it is, not for being absent: DATABASE_URL serves the worker, too.
    let mut worker = Command::new(LONGSHORE);
    worker.env_remove("LONGSHORE_DATABASE_URL").env("DATABASE_URL", "no url").arg("worker");
    assert!(said(&mut worker, "").stderr.contains("not a Postgres URL"));
    let before = longshore_without_database(&["--database-url", "no url", "worker"], "");
    assert!(before.stderr.contains("not a Postgres URL"), "{}", before.stderr);
}
