//! Blocks through a real fleet: what each gives, what it does when a body fails, and what is left of it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_tests::TestFleet;
use longshore_tests::fleet::{set, with};
use serde_json::{Value, json};

/// A node that runs the built-in handler of this name with this input.
fn task(id: &str, handler: &str, input: Value) -> Value {
    json!({"id": id, "type": "task", "handler": handler, "input": input, "retry": {"max_attempts": 1}})
}

/// A task that fails for good under this name.
fn failing(id: &str, name: &str) -> Value {
    task(id, "flaky", json!({"fail": 9, "permanent": true, "name": name}))
}

/// A body of one node.
fn body(node: Value) -> Value {
    json!({"nodes": [node]})
}

/// A block with these fields.
fn block(id: &str, kind: &str, fields: Value) -> Value {
    with(json!({"id": id, "type": kind}), fields)
}

/// A workflow of one node.
fn workflow(node: Value) -> Value {
    json!({"name": "w", "nodes": [node]})
}

/// Runs it and checks that nothing is left of it.
async fn ends(definition: Value, input: Value) -> (String, Value) {
    let fleet = TestFleet::working([definition]).await;
    let ended = fleet.run("w", input).await;
    fleet.finish().await;
    ended
}

async fn completes(definition: Value, input: Value, output: Value) {
    let (state, given) = ends(definition, input).await;
    assert_eq!((state.as_str(), &given), ("completed", &output));
}

async fn fails(definition: Value, input: Value, name: &str) {
    let (state, error) = ends(definition, input).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!(name)), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_if_runs_the_body_that_its_condition_chooses() {
    let choice = block(
        "c",
        "if",
        json!({"when": "run.input.x > 3", "then": body(set("big", json!("{{ frame.input.x }} is big"))),
               "else": body(task("small", "echo", json!("small")))}),
    );
    completes(workflow(choice.clone()), json!({"x": 5}), json!("5 is big")).await;
    completes(workflow(choice), json!({"x": 1}), json!("small")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_that_takes_nothing_gives_null_and_its_successors_run() {
    let switch =
        block("s", "switch", json!({"cases": [{"when": "run.input.x == 1", "body": body(set("one", json!(1)))}]}));
    let definition = json!({"name": "w", "nodes": [switch, set("after", json!("after {{ nodes.s.output }}"))], "edges": [["s", "after"]]});
    completes(definition.clone(), json!({"x": 2}), json!("after ")).await;
    completes(definition, json!({"x": 1}), json!("after 1")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_branches_of_a_parallel_give_an_object() {
    let parallel = |concurrency: Value| {
        block(
            "p",
            "parallel",
            json!({"concurrency": concurrency, "branches": [
                {"id": "z", "nodes": [task("a", "echo", json!("{{ frame.index }}")), set("b", json!("{{ nodes.a.output + 10 }}"))], "edges": [["a", "b"]]},
                {"id": "a", "nodes": [task("c", "echo", json!(1)), task("d", "echo", json!(2))]},
                {"id": "m", "nodes": [task("e", "sleep", json!({"seconds": 0.1, "output": "m"}))]}]}),
        )
    };
    let output = json!({"z": 10, "a": {"c": 1, "d": 2}, "m": "m"});
    completes(workflow(parallel(Value::Null)), json!({}), output.clone()).await;
    completes(workflow(parallel(json!(1))), json!({}), output).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_gives_its_outputs_in_the_order_of_the_items() {
    let items: Vec<i32> = (0..100).collect();
    for concurrency in [1, 3, 30, 200] {
        let each = block(
            "f",
            "foreach",
            json!({"items": "{{ run.input.items }}", "concurrency": concurrency,
                   "body": {"nodes": [task("t", "echo", json!({"n": "{{ item }}", "at": "{{ index }}"})), set("s", json!("{{ nodes.t.output.n * 2 }}"))],
                            "edges": [["t", "s"]]}}),
        );
        let doubled: Vec<i32> = items.iter().map(|item| item * 2).collect();
        completes(workflow(each), json!({"items": items}), json!(doubled)).await;
    }
}

/// The lane that moves the window keeps half of what begins, without a trip through the queue; the rest is for whoever is idle.
#[tokio::test(flavor = "multi_thread")]
async fn half_of_what_a_moved_window_opens_stays_with_the_lane() {
    let each =
        json!({"items": "{{ run.input }}", "concurrency": 32, "body": body(task("t", "echo", json!("{{ item }}")))});
    let mut fleet = TestFleet::publish([workflow(block("f", "foreach", each))]).await;
    fleet.work(64).await;
    let items: Vec<i32> = (0..320).collect();
    let (run, output) = fleet.complete("w", json!(items)).await;
    assert_eq!(output, json!(items));
    // what stays is claimed in the moment it becomes ready
    let stayed = "select count(*) from longshore.execution_step_attempts where run_id = $1 and node = 1 and enqueued_at = claimed_at";
    let stayed: i64 = fleet.ask(stayed, run).await;
    assert!((50..=200).contains(&stayed), "{stayed} of 320");
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_over_nothing_gives_an_empty_list_and_over_no_list_fails() {
    let each = block("f", "foreach", json!({"items": "{{ run.input }}", "body": body(set("s", json!(1)))}));
    completes(workflow(each.clone()), json!([]), json!([])).await;
    completes(workflow(each.clone()), json!([7]), json!([1])).await;
    fails(workflow(each), json!({"no": "list"}), "items_invalid").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreach_bears_as_many_failures_as_it_tolerates() {
    let each = |tolerate: Value| {
        block(
            "f",
            "foreach",
            json!({"items": [0, 1, 2, 3], "tolerate": tolerate,
                   "body": body(task("t", "flaky", json!({"fail": "{{ 9 if item > 1 else 0 }}", "output": "{{ item }}", "name": "odd"})))}),
        )
    };
    let (state, output) = ends(workflow(each(json!({"count": 2}))), json!({})).await;
    assert_eq!(state, "completed", "{output}");
    assert_eq!((&output[0], &output[1], &output[2]["error"]["name"]), (&json!(0), &json!(1), &json!("odd")));
    fails(workflow(each(json!({"share": 0.25}))), json!({}), "tolerance_exceeded").await;
    fails(workflow(each(Value::Null)), json!({}), "odd").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_of_a_while_is_given_what_the_last_one_gave() {
    let again = |fields: Value| {
        let node = block(
            "l",
            "while",
            json!({"when": "input.n < run.input.until", "body": body(task("t", "echo", json!({"n": "{{ frame.input.n + 1 }}"})))}),
        );
        workflow(with(node, fields))
    };
    completes(again(json!({})), json!({"n": 0, "until": 5}), json!({"n": 5})).await;
    completes(again(json!({})), json!({"n": 7, "until": 5}), json!({"n": 7, "until": 5})).await;
    completes(again(json!({"do_while": true, "keep": 1})), json!({"n": 7, "until": 5}), json!({"n": 8})).await;
    completes(again(json!({"max_iterations": 3, "on_limit": "stop"})), json!({"n": 0, "until": 5}), json!({"n": 3}))
        .await;
    fails(again(json!({"max_iterations": 3})), json!({"n": 0, "until": 5}), "max_iterations").await;
}

/// Nor are those of blocks within it.
#[tokio::test(flavor = "multi_thread")]
async fn the_frames_of_a_pass_that_is_not_kept_are_gone() {
    let each = block("f", "foreach", json!({"items": [1, 2, 3], "body": body(task("t", "echo", json!(1)))}));
    let pass = json!({"nodes": [each, set("s", json!({"n": "{{ frame.input.n + 1 }}"}))], "edges": [["f", "s"]]});
    let again = block("l", "while", json!({"when": "input.n < 9", "input": {"n": 0}, "keep": 2, "body": pass}));
    let mut fleet = TestFleet::publish([workflow(again)]).await;
    fleet.work(8).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!({"n": 9}));
    let kept = "select array_agg(iteration order by iteration) from longshore.frames where run_id = $1 and node = 0 and not whole";
    let kept: Vec<i32> = fleet.ask(kept, run).await;
    assert_eq!(kept[kept.len() - 2..], [7, 8]);
    assert!(kept.len() <= 3, "{kept:?}");
    let frames: i64 = fleet.ask("select count(*) from longshore.frames where run_id = $1", run).await;
    assert_eq!(frames, 1 + i64::try_from(kept.len()).unwrap() * 5, "a pass has its frame, its foreach and three items");
    let chunks: i64 =
        fleet.ask("select count(distinct frame) from longshore.frame_chunks where run_id = $1", run).await;
    assert_eq!(chunks, i64::try_from(kept.len()).unwrap());
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_catches_what_it_names_and_ends_with_its_finally() {
    let attempt = |name: &str, finally: bool| {
        let mut fields = json!({
            "body": body(failing("t", name)),
            "catch": [{"on": ["bad_*"], "body": body(set("caught", json!("caught {{ error.name }}")))},
                      {"on": ["other"], "body": body(failing("again", "worse"))}]});
        if finally {
            fields["finally"] = body(task("last", "echo", json!("{{ frame.input }}")));
        }
        workflow(block("t1", "try", fields))
    };
    completes(attempt("bad_luck", false), json!({}), json!("caught bad_luck")).await;
    completes(attempt("bad_luck", true), json!({}), json!("caught bad_luck")).await;
    fails(attempt("other", true), json!({}), "worse").await;
    fails(attempt("unknown", true), json!({}), "unknown").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_branch_cancels_the_others_and_a_failure_edge_takes_it() {
    let definition = json!({"name": "w", "nodes": [
        block("p", "parallel", json!({"branches": [
            {"id": "slow", "nodes": [task("s", "sleep", json!({"seconds": 60})), set("never", json!(1))], "edges": [["s", "never"]]},
            {"id": "bad", "nodes": [failing("b", "bad")]}]})),
        set("after", json!("{{ error.name }}"))],
        "edges": [{"from": "p", "to": "after", "on": "failure"}]});
    let mut fleet = TestFleet::publish([definition]).await;
    fleet.work(8).await;
    let (run, output) = fleet.complete("w", json!({})).await;
    assert_eq!(output, json!("bad"));
    fleet.until("select not exists (select from longshore.closed) and not exists (select from longshore.lanes)").await;
    let states: Vec<(String, Option<i32>, String)> = sqlx::query_as(
        "select block, iteration, state from longshore.block_group_runs where run_id = $1 order by iteration nulls first",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap();
    let state = |iteration: Option<i32>, state: &str| ("p".to_owned(), iteration, state.to_owned());
    assert_eq!(states, [state(None, "failed"), state(Some(0), "canceled"), state(Some(1), "failed")]);
    assert_eq!(fleet.tries(run, "s").await, ["canceled"]);
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_parallel_may_end_with_the_first_branch() {
    let parallel = block(
        "p",
        "parallel",
        json!({"ends": "any", "branches": [
            {"id": "slow", "nodes": [task("s", "sleep", json!({"seconds": 60}))]},
            {"id": "bad", "nodes": [failing("b", "bad")]},
            {"id": "fast", "nodes": [task("f", "echo", json!("fast"))]}]}),
    );
    completes(workflow(parallel), json!({}), json!({"fast": "fast"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_is_retried_as_a_whole_and_its_time_is_bounded() {
    let retried = block(
        "p",
        "foreach",
        json!({"items": [1], "retry": {"max_attempts": 3, "initial": "10ms", "jitter": 0}, "body": body(task("t", "flaky", json!({"fail": 9})))}),
    );
    let mut fleet = TestFleet::publish([workflow(retried)]).await;
    fleet.work(8).await;
    let run = fleet.start("w", json!({})).await;
    assert_eq!(fleet.ended(run).await.0, "failed");
    assert_eq!(fleet.tries(run, "p").await, ["failed", "failed", "failed"]);
    fleet.finish().await;
    let bounded = block(
        "t",
        "try",
        json!({"timeout": "200ms", "body": body(task("s", "sleep", json!({"seconds": 60}))), "catch": [{"body": body(set("c", json!(1)))}]}),
    );
    fails(workflow(bounded), json!({}), "timeout").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_of_a_block_that_has_one_frame_is_bounded_too() {
    let choice = |fields: Value| block("c", "if", json!({"when": "true", "timeout": "200ms", "then": fields}));
    let late = choice(body(task("s", "sleep", json!({"seconds": 60}))));
    fails(workflow(late), json!({}), "timeout").await;
    completes(workflow(choice(body(set("s", json!(1))))), json!({}), json!(1)).await;
}

/// The engine's step that ends a block is no try, so its failure is the block's.
#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_output_postgres_refuses_fails_and_no_other() {
    let again = json!({"when": "input.n < run.input", "input": {"n": 0}, "body": body(task("t", "echo", json!({"n": "{{ frame.input.n + 1 }}"})))});
    let each = json!({"items": "{{ [run.input, 1] }}", "body": body(task("e", "echo", json!("{{ item }}")))});
    let kinds = [("while", "l", again), ("foreach", "f", each)];
    let named = |kind: &str, node: Value| json!({"name": kind, "nodes": [node]});
    let mut fleet = TestFleet::publish(kinds.map(|(kind, id, fields)| named(kind, block(id, kind, fields)))).await;
    // stands for what passes the scan in Rust and cannot be stored all the same
    let refuse = "create function refuse() returns trigger language plpgsql as $$ begin
            if new.whole and new.output in ('{\"n\": 7}', '[7, 1]') then raise 'not this' using errcode = '22P05'; end if;
            return new;
        end $$;
        create trigger refuse before update on longshore.frames for each row execute function refuse()";
    fleet.database.execute(refuse).await;
    fleet.work(8).await;
    for kind in ["while", "foreach"] {
        let runs = [5, 7, 6].map(|last| (last, fleet.start(kind, json!(last))));
        for (last, run) in runs {
            let (state, ended) = fleet.ended(run.await).await;
            match last {
                7 => assert_eq!((state.as_str(), &ended["name"]), ("failed", &json!("output_invalid")), "{ended}"),
                _ => assert_eq!(state, "completed", "{ended}"),
            }
        }
    }
    fleet.database.execute("drop trigger refuse on longshore.frames").await;
    fleet.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_nest() {
    let inner = block(
        "w1",
        "while",
        json!({"when": "input < 3", "body": body(task("t", "echo", json!("{{ frame.input + 1 }}")))}),
    );
    let each = block(
        "each",
        "foreach",
        json!({"items": "{{ frame.input }}", "body": {"nodes": [
            task("before", "echo", json!("{{ item }}")),
            inner,
            block("odd", "if", json!({"when": "frames.each.input == 2", "then": body(failing("x", "two"))})),
            set("out", json!("{{ item }}:{{ nodes.w1.output }}:{{ index }}"))],
            "edges": [["before", "w1"], ["w1", "odd"], ["odd", "out"]]}}),
    );
    let tried = block(
        "tried",
        "try",
        json!({"body": body(each), "catch": [{"on": ["two"], "body": body(set("c", json!("two is bad")))}]}),
    );
    let parallel = block(
        "p",
        "parallel",
        json!({"branches": [{"id": "a", "nodes": [tried]}, {"id": "b", "nodes": [set("e", json!(1))]}]}),
    );
    completes(workflow(parallel.clone()), json!([0, 1, 5]), json!({"a": ["0:3:0", "1:3:1", "5:5:2"], "b": 1})).await;
    completes(workflow(parallel), json!([0, 1, 2, 5]), json!({"a": "two is bad", "b": 1})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_on_errors_decides_what_giving_up_means() {
    let definition = |policy: Value, edges: Value| {
        let mut bad = failing("bad", "broken");
        bad["on_error"] = policy;
        json!({"name": "w", "nodes": [bad, set("good", json!({"of": "{{ nodes.bad.output }}", "in": "{{ input }}"})), set("other", json!("other"))],
               "edges": edges, "output": {"good": "{{ nodes.good.output }}", "other": "{{ nodes.other.output }}"}})
    };
    let edges = json!([["bad", "good"], {"from": "bad", "to": "other", "on": "failure"}]);
    let (state, output) = ends(definition(json!("continue"), edges.clone()), json!({})).await;
    assert_eq!(
        (state.as_str(), &output["good"]["of"]["name"], &output["other"]),
        ("completed", &json!("broken"), &Value::Null)
    );
    assert_eq!(output["good"]["in"], output["good"]["of"]);
    let fallback = json!({"fallback": {"instead": "{{ error.name }}"}});
    let given = json!({"instead": "broken"});
    completes(
        definition(fallback, edges.clone()),
        json!({}),
        json!({"good": {"of": given, "in": given}, "other": null}),
    )
    .await;
    completes(definition(json!("route"), edges.clone()), json!({}), json!({"good": null, "other": "other"})).await;
    completes(definition(json!("skip"), edges), json!({}), json!({"good": null, "other": null})).await;
    let (state, error) = ends(definition(json!("fail"), json!([["bad", "good"], ["bad", "other"]])), json!({})).await;
    assert_eq!((state.as_str(), &error["name"]), ("failed", &json!("broken")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_on_errors_holds_for_a_block() {
    let mut each = block("f", "foreach", json!({"items": [1, 2], "body": body(failing("t", "bad"))}));
    each["on_error"] = json!({"fallback": "none of {{ run.input | length }}"});
    completes(workflow(each), json!([1, 2]), json!("none of 2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_ends_in_one_cycle_does_not_mix_the_values_of_its_frames() {
    let items: Vec<i32> = (0..300).collect();
    let each = block(
        "f",
        "foreach",
        json!({"items": "{{ run.input }}", "body": {
            "nodes": [task("t", "sleep", json!({"seconds": "{{ (item % 7) / 1000 }}", "output": "{{ item }}"}))], "output": "{{ nodes.t.output }}"}}),
    );
    for _ in 0..3 {
        completes(workflow(each.clone()), json!(items), json!(items)).await;
    }
}
