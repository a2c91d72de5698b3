//! One block: what its type needs, what it evaluates itself, and its bodies.

use std::collections::HashMap;

use serde_json::Value;

use super::references::{Holder, Place};
use super::shape::short;
use super::{CheckedBlock, Checker, ID_FIX, Part};
use crate::definition::block::{CatchDefinition, MAX_BODIES, MAX_DEPTH, MAX_ITEMS, MAX_ITERATIONS};
use crate::definition::{BlockDefinition, BlockType, BodyDefinition, JoinRule, NodeDefinition, is_id};
use crate::expression::Template;

/// The longest entry of a catch's `on` in characters.
const MAX_CATCH: usize = 200;

/// A number that a block evaluates.
#[derive(Clone, Copy)]
enum Number {
    /// A whole number, at least this.
    Count(u64),
    /// 0 to 1.
    Share,
}

impl<'d> Checker<'d> {
    pub(super) fn block(
        &mut self,
        number: usize,
        node: &'d NodeDefinition,
        block: &'d BlockDefinition,
        path: &str,
    ) -> CheckedBlock {
        let mut checked = CheckedBlock {
            items: None,
            concurrency: None,
            tolerate_count: None,
            tolerate_share: None,
            whens: Vec::new(),
            bodies: Vec::new(),
        };
        if self.around.depth() == MAX_DEPTH {
            let fix = "move what it holds into fewer blocks, or split the workflow";
            self.wrong(path, format!("blocks are nested more than {MAX_DEPTH} levels deep"), fix);
            return checked;
        }
        self.patience(block.timeout, block.retry.as_ref(), path);
        let own = Place::Own(number);
        match &block.kind {
            BlockType::Parallel { branches, ends, concurrency, .. } => {
                self.branches(branches, *ends, path);
                checked.concurrency = self.number("concurrency", concurrency, Number::Count(1), own, path);
            }
            BlockType::Foreach { items, concurrency, tolerate, .. } => {
                checked.items = Some(self.items(items, own, path));
                checked.concurrency = self.number("concurrency", concurrency, Number::Count(1), own, path);
                if let Some(tolerate) = tolerate {
                    if tolerate.count.is_none() && tolerate.share.is_none() {
                        let fix = "give `count`, `share` or both, or leave it out";
                        self.wrong(format!("{path}.tolerate"), "it says nothing", fix);
                    }
                    checked.tolerate_count =
                        self.number("tolerate.count", &tolerate.count, Number::Count(0), own, path);
                    checked.tolerate_share = self.number("tolerate.share", &tolerate.share, Number::Share, own, path);
                }
            }
            BlockType::While { when, max_iterations, keep, .. } => {
                checked.whens.extend(self.condition(&format!("{path}.when"), when, Some(own)));
                if !(1..=MAX_ITERATIONS).contains(max_iterations) {
                    let fix = format!("use 1 to {MAX_ITERATIONS}");
                    self.wrong(format!("{path}.max_iterations"), format!("{max_iterations} is out of range"), fix);
                }
                if *keep == Some(0) {
                    let fix = "use at least 1, or leave it out to keep every pass";
                    self.wrong(format!("{path}.keep"), "it is zero", fix);
                }
            }
            BlockType::If { when, .. } => {
                checked.whens.extend(self.condition(&format!("{path}.when"), when, Some(own)));
            }
            BlockType::Switch { cases, .. } => {
                self.count("cases", cases.len(), path);
                for (at, (when, _)) in cases.iter().enumerate() {
                    checked.whens.extend(self.condition(&format!("{path}.cases[{at}].when"), when, Some(own)));
                }
            }
            BlockType::Reminded(_) => {}
            BlockType::Try { catches, finally, .. } => {
                if catches.is_empty() && finally.is_none() {
                    let fix = "give one of them, or put the nodes where the block is";
                    self.wrong(format!("{path}.catch"), "it is missing, and so is `finally`", fix);
                } else if !catches.is_empty() {
                    self.count("catch", catches.len(), path);
                    self.catches(catches, path);
                }
            }
        }
        if let BlockType::Reminded(reminded) = &block.kind
            && !self.reminded(number, &node.id, reminded, path)
        {
            // what its bodies are made of would be told again
            return checked;
        }
        let bodies = block.kind.bodies().into_iter().enumerate();
        checked.bodies = bodies
            .map(|(place, (below, body))| {
                let holder = Holder::of(&block.kind, place, number, &node.id);
                self.body(Part::from(body), Some(holder), &format!("{path}.{below}."))
            })
            .collect();
        checked
    }

    fn branches(&mut self, branches: &[(String, BodyDefinition)], ends: JoinRule, path: &str) {
        self.count("branches", branches.len(), path);
        let mut seen = HashMap::new();
        for (place, (id, _)) in branches.iter().enumerate() {
            let path = format!("{path}.branches[{place}].id");
            if id.is_empty() {
                continue; // Noted when it was read.
            }
            if !is_id(id) {
                self.wrong(path.as_str(), format!("`{}` is no id", short(id)), ID_FIX);
            }
            if let Some(first) = seen.get(id) {
                let message = format!("branches[{first}] has the id `{}` already", short(id));
                self.wrong(path, message, "give each branch its own id");
            } else {
                seen.insert(id, place);
            }
        }
        let most = branches.len();
        if let JoinRule::Count(count) = ends
            && !usize::try_from(count).is_ok_and(|count| (1..=most.max(1)).contains(&count))
        {
            let message = format!("it waits for {count} branches, but there are {most}");
            self.wrong(format!("{path}.ends"), message, format!("use 1 to {}, \"all\" or \"any\"", most.max(1)));
        }
    }

    fn catches(&mut self, catches: &[CatchDefinition], path: &str) {
        let everything = catches.iter().position(CatchDefinition::takes_everything);
        for (place, catch) in catches.iter().enumerate() {
            let path = format!("{path}.catch[{place}]");
            for (at, word) in catch.on.iter().enumerate() {
                if !(1..=MAX_CATCH).contains(&word.chars().count()) {
                    let fix = format!(
                        "name an error or a kind of errors in 1 to {MAX_CATCH} characters; `*` stands for any text"
                    );
                    self.wrong(format!("{path}.on[{at}]"), "it is no name of an error", fix);
                }
            }
            if let Some(first) = everything.filter(|first| *first < place) {
                let message = format!("it is never reached: catch[{first}] takes every error");
                self.wrong(path, message, "move it before that one, or remove it");
            }
        }
    }

    /// Branches, cases or catches: at least one, and not too many.
    fn count(&mut self, field: &str, count: usize, path: &str) {
        if count == 0 {
            self.wrong(format!("{path}.{field}"), "there is none", "give at least one");
        } else if count > MAX_BODIES {
            let fix = format!("use at most {MAX_BODIES}; split the workflow");
            self.wrong(format!("{path}.{field}"), format!("there are {count} of them"), fix);
        }
    }

    fn items(&mut self, items: &Value, place: Place, path: &str) -> Template {
        let path = format!("{path}.items");
        let before = self.problems.len();
        let template = self.template(&path, items, place);
        match items {
            _ if self.problems.len() > before || template.is_expression() => {}
            Value::Array(items) if items.len() > MAX_ITEMS => {
                self.wrong(path, format!("there are {} of them", items.len()), format!("use at most {MAX_ITEMS}"));
            }
            Value::Array(_) => {}
            _ => self.wrong(path, "it is no list", "give a list, or a template such as \"{{ run.input.orders }}\""),
        }
        template
    }

    fn number(
        &mut self,
        field: &str,
        value: &'d Option<Value>,
        number: Number,
        place: Place,
        path: &str,
    ) -> Option<Template> {
        let value = value.as_ref()?;
        let path = format!("{path}.{field}");
        let before = self.problems.len();
        let template = self.template(&path, value, place);
        let (fits, what) = match number {
            Number::Count(least) => (
                value.as_u64().is_some_and(|count| count >= least && u32::try_from(count).is_ok()),
                format!("a whole number of at least {least}"),
            ),
            Number::Share => {
                (value.as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "a number from 0 to 1".to_owned())
            }
        };
        if !fits && !template.is_expression() && self.problems.len() == before {
            let short: String = value.to_string().chars().take(40).collect();
            let fix = "give such a number without quotes, or a template such as \"{{ run.input.limit }}\"";
            self.wrong(path, format!("`{short}` is not {what}"), fix);
        }
        Some(template)
    }
}
