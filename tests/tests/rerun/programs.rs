//! Random programs of nested blocks, tried again and run anew.

use longshore_tests::TestFleet;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{failing, retry};

/// Try again until it ends otherwise; how often that took.
async fn until_it_completes(fleet: &TestFleet, run: Uuid, most: usize) -> (usize, Value) {
    let mut times = 0;
    loop {
        let (state, given) = fleet.ended(run).await;
        if state == "completed" {
            return (times, given);
        }
        times += 1;
        assert!(times <= most, "run {run} fails again and again: {given}");
        retry(fleet, run).await;
    }
}

/// A body of up to three nodes, some of them blocks.
fn random_body(random: &mut StdRng, depth: usize, names: &mut usize) -> Value {
    let mut nodes = Vec::new();
    for _ in 0..random.random_range(1..=3) {
        *names += 1;
        let id = format!("n{names}");
        let kind = if depth == 0 { 9 } else { random.random_range(0..9) };
        let mut body = |random: &mut StdRng| random_body(random, depth - 1, names);
        nodes.push(match kind {
            0 | 1 => {
                let tolerate = random.random_range(0..2);
                json!({"id": id, "type": "foreach", "items": (0..random.random_range(1..7)).collect::<Vec<i32>>(),
                    "concurrency": random.random_range(1..8), "tolerate": {"count": tolerate}, "body": body(random)})
            }
            2 => {
                json!({"id": id, "type": "while", "do_while": true, "when": "false", "body": body(random)})
            }
            3 => json!({"id": id, "type": "if", "when": "true", "then": body(random)}),
            4 => json!({"id": id, "type": "try", "body": body(random), "catch": [{"on": ["never"], "body": {"nodes": [failing(&format!("{id}c"), 0)]}}]}),
            5 => {
                let branch = |name: &str, mut body: Value| {
                    body["id"] = json!(name);
                    body
                };
                let branches = [branch("l", body(random)), branch("r", body(random))];
                json!({"id": id, "type": "parallel", "fail_fast": random.random_bool(0.5), "branches": branches})
            }
            _ => failing(&id, u32::from(random.random_bool(0.25))),
        });
    }
    let ids: Vec<String> = nodes.iter().map(|node| node["id"].as_str().unwrap().to_owned()).collect();
    let edges: Vec<Value> =
        ids.windows(2).filter(|_| random.random_bool(0.6)).map(|pair| json!([pair[0], pair[1]])).collect();
    json!({"nodes": nodes, "edges": edges})
}

/// The same, in which nothing fails.
fn without_failures(body: &Value) -> Value {
    serde_json::from_str(&body.to_string().replace("\"fail\":1", "\"fail\":0")).unwrap()
}

/// Some places of completed nodes of a run, as numbers.
async fn places(fleet: &TestFleet, run: Uuid) -> Vec<String> {
    sqlx::query_scalar(
        "select coalesce((select string_agg(b.id || '[' || f.iteration || ']', '/' order by p.depth) || '/'
                from unnest(w.path || w.frame) with ordinality p (frame, depth)
                join longshore.frames f on f.run_id = a.run_id and f.frame = p.frame and f.iteration >= 0
                join longshore.workflow_nodes b on b.version_id = r.version_id and b.node = f.node), '') || n.id
         from longshore.execution_step_attempts a
         join longshore.workflow_runs r on r.run_id = a.run_id
         join longshore.workflow_nodes n on n.version_id = r.version_id and n.node = a.node
         left join longshore.frames w on w.run_id = a.run_id and w.frame = a.frame
         where a.run_id = $1 and a.outcome = 1 and (a.frame = 0 or w.state = 3) order by md5(a.frame || '/' || a.node) limit 4",
    )
    .bind(run)
    .fetch_all(&fleet.database.pool)
    .await
    .unwrap()
}

/// Random programs of nested blocks whose tasks fail at their first attempt in a frame now and then: tried again until they complete, they give what they
/// would have given had nothing failed, unless a failure was tolerated; and no task of a frame completes twice (the fleet's checks). So do new runs that begin
/// anywhere in them.
#[tokio::test(flavor = "multi_thread")]
async fn however_often_a_program_of_blocks_fails_it_goes_on_to_what_it_gives() {
    let mut random = StdRng::seed_from_u64(11);
    let mut fleet = TestFleet::publish([]).await;
    let mut programs = Vec::new();
    for number in 0..30 {
        let mut body = random_body(&mut random, 3, &mut 0);
        if body.to_string().contains("\"tolerate\":{\"count\":1}") && random.random_bool(0.7) {
            body = serde_json::from_str(
                &body.to_string().replace("\"tolerate\":{\"count\":1}", "\"tolerate\":{\"count\":0}"),
            )
            .unwrap();
        }
        for (name, mut body) in [(format!("w{number}"), body.clone()), (format!("g{number}"), without_failures(&body))]
        {
            body["name"] = json!(name);
            fleet.apply(body).await;
        }
        programs.push((number, body.to_string().contains("\"tolerate\":{\"count\":1}")));
    }
    fleet.work(16).await;
    let each = programs.iter().map(async |(number, tolerant)| {
        let (good, bad) =
            (fleet.start(&format!("g{number}"), json!({})).await, fleet.start(&format!("w{number}"), json!({})).await);
        let expected = fleet.ended(good).await;
        let (times, given) = until_it_completes(&fleet, bad, 80).await;
        assert_eq!(expected.0, "completed", "{number}: {}", expected.1);
        if !tolerant {
            assert_eq!(given, expected.1, "{number}");
        }
        // and from anywhere in it
        for place in places(&fleet, bad).await {
            let anew =
                fleet.enqueuer.rerun(bad, &place).await.unwrap_or_else(|error| panic!("{number} {place}: {error}"));
            let (_, given) = until_it_completes(&fleet, anew.run_id.unwrap(), 80).await;
            assert!(*tolerant || given == expected.1, "{number} {place}: {given}");
        }
        times
    });
    let times: Vec<usize> = futures::future::join_all(each).await;
    assert!(times.iter().sum::<usize>() > 40, "{times:?}");
    fleet.finish().await;
}
