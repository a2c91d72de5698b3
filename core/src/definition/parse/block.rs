//! Reads the fields of a block and its bodies.

use serde_json::{Value, json};

use super::fields::Fields;
use super::{graph, retry, rule};
use crate::definition::block::{CatchDefinition, DEFAULT_MAX_ITERATIONS, MAX_BODIES, MAX_DEPTH, OnLimit, Tolerance};
use crate::definition::{BlockDefinition, BlockType, BodyDefinition, JoinRule, NodeDefinition};

/// Stands for a name that cannot be read, so that nothing else is wrong with it.
const UNREAD: &str = "none";
const BODY_FIX: &str = "write an object with `nodes`, and `edges` among them";

/// The fields of a node of this type; none when it is no block.
pub(super) fn fields(word: &str) -> Option<&'static [&'static str]> {
    Some(match word {
        "parallel" => &["timeout", "retry", "branches", "ends", "fail_fast", "concurrency"],
        "foreach" => &["timeout", "retry", "items", "concurrency", "tolerate", "body"],
        "while" => &["timeout", "retry", "when", "do_while", "max_iterations", "on_limit", "keep", "body"],
        "if" => &["timeout", "retry", "when", "then", "else"],
        "switch" => &["timeout", "retry", "cases", "default"],
        "try" => &["timeout", "retry", "body", "catch", "finally"],
        _ => return None,
    })
}

/// The block that a node of this type is; none when it is no block. Within too many blocks its bodies are not read,
/// which bounds the recursion.
pub(super) fn block(word: &str, fields: &mut Fields<'_, '_>) -> Option<BlockDefinition> {
    self::fields(word)?;
    let (timeout, retry) = (fields.duration("timeout"), retry(fields));
    fields.reading.depth += 1;
    let kind = match word {
        "parallel" => parallel(fields),
        "foreach" => BlockType::Foreach {
            items: items(fields),
            body: body("body", fields),
            concurrency: fields.given("concurrency"),
            tolerate: tolerate(fields),
        },
        "while" => repeat(fields),
        "if" => {
            BlockType::If { when: condition(fields), then: body("then", fields), otherwise: given_body("else", fields) }
        }
        "switch" => switch(fields),
        _ => attempt(fields),
    };
    fields.reading.depth -= 1;
    Some(BlockDefinition { kind, timeout, retry })
}

fn parallel(fields: &mut Fields<'_, '_>) -> BlockType {
    let ends = rule("ends", fields).unwrap_or_else(|| {
        fields.wrong("ends", "there is no such end", "use \"all\", \"any\" or a number of branches, at least 1");
        JoinRule::All
    });
    let known = ["id", "nodes", "edges", "output"];
    let branches = each("branches", &known, fields, |branch| match branch {
        Some(branch) => (branch.needed_text("id"), content(branch)),
        None => (String::new(), unread()),
    });
    BlockType::Parallel {
        branches,
        ends,
        fail_fast: fields.flag("fail_fast").unwrap_or(true),
        concurrency: fields.given("concurrency"),
    }
}

fn items(fields: &mut Fields<'_, '_>) -> Value {
    fields.any("items").unwrap_or_else(|| {
        fields.wrong("items", "it is missing", "give a list, or a template such as \"{{ run.input.orders }}\"");
        json!([])
    })
}

fn tolerate(fields: &mut Fields<'_, '_>) -> Option<Tolerance> {
    let inner = fields.inner("tolerate", &["count", "share"])?;
    Some(Tolerance { count: inner.given("count"), share: inner.given("share") })
}

fn repeat(fields: &mut Fields<'_, '_>) -> BlockType {
    let on_limit = match fields.text("on_limit").as_deref() {
        None | Some("fail") => OnLimit::Fail,
        Some("stop") => OnLimit::Stop,
        Some(_) => {
            fields.wrong("on_limit", "there is no such way to end", "use \"fail\" or \"stop\"");
            OnLimit::Fail
        }
    };
    BlockType::While {
        when: condition(fields),
        do_while: fields.flag("do_while").unwrap_or(false),
        max_iterations: fields.count("max_iterations").unwrap_or(DEFAULT_MAX_ITERATIONS),
        on_limit,
        keep: fields.count("keep"),
        body: body("body", fields),
    }
}

fn switch(fields: &mut Fields<'_, '_>) -> BlockType {
    let cases = each("cases", &["when", "body"], fields, |case| match case {
        Some(case) => (condition(case), body("body", case)),
        None => ("true".to_owned(), unread()),
    });
    BlockType::Switch { cases, default: given_body("default", fields) }
}

fn attempt(fields: &mut Fields<'_, '_>) -> BlockType {
    let catches = each("catch", &["on", "body"], fields, |catch| match catch {
        Some(catch) => CatchDefinition { on: caught(catch), body: body("body", catch) },
        None => CatchDefinition { on: vec![UNREAD.to_owned()], body: unread() },
    });
    BlockType::Try { body: body("body", fields), catches, finally: given_body("finally", fields) }
}

/// What a `catch` takes; empty when it takes everything.
fn caught(catch: &mut Fields<'_, '_>) -> Vec<String> {
    if catch.get("on").is_none() {
        return Vec::new();
    }
    let on = catch.texts("on");
    if on.as_ref().is_some_and(Vec::is_empty) {
        catch.wrong("on", "it is empty", "name errors or kinds of them, or leave it out to catch every error");
    }
    on.filter(|on| !on.is_empty()).unwrap_or_else(|| vec![UNREAD.to_owned()])
}

/// What is read of the items of a list; an item that is no object, which is noted, keeps its place.
fn each<T>(
    name: &str,
    known: &[&str],
    fields: &mut Fields<'_, '_>,
    read: impl Fn(Option<&mut Fields<'_, '_>>) -> T,
) -> Vec<T> {
    let (items, path) = (fields.list(name, MAX_BODIES), fields.at(name));
    let mut all = Vec::new();
    for (place, value) in items.iter().enumerate() {
        if fields.reading.full {
            break;
        }
        all.push(read(Fields::open(value, format!("{path}[{place}]"), known, fields.reading).as_mut()));
    }
    all
}

fn condition(fields: &mut Fields<'_, '_>) -> String {
    if fields.get("when").is_none() {
        fields.wrong("when", "it is missing", "give a bare expression, such as run.input.total > 100");
    }
    fields.text("when").unwrap_or_else(|| "true".to_owned())
}

fn given_body(name: &str, fields: &mut Fields<'_, '_>) -> Option<BodyDefinition> {
    fields.get(name)?;
    Some(body(name, fields))
}

fn body(name: &str, fields: &mut Fields<'_, '_>) -> BodyDefinition {
    if fields.get(name).is_none() {
        fields.wrong(name, "it is missing", BODY_FIX);
    }
    let body = fields.inner(name, &["nodes", "edges", "output"]);
    body.map_or_else(unread, |mut body| content(&mut body))
}

fn content(fields: &mut Fields<'_, '_>) -> BodyDefinition {
    if fields.reading.depth > MAX_DEPTH {
        return unread();
    }
    let output = fields.any("output");
    let (nodes, edges) = graph(fields);
    BodyDefinition { nodes, edges, output }
}

/// In place of a body whose mistake is noted: one in which nothing else is wrong.
fn unread() -> BodyDefinition {
    BodyDefinition { nodes: vec![NodeDefinition::task("", UNREAD)], ..BodyDefinition::default() }
}
