//! How many iterations of a block go on at a time, and how many may fail.

use serde_json::Value;

use super::count;
use crate::definition::block::DEFAULT_CONCURRENCY;
use crate::error::{EXPRESSION_FAILED, StepError};
use crate::expression::Template;
use crate::graph::{Block, BlockKind, Bounds, Graph, Node, Values};
use crate::payload::Payload;

/// Up to so many iterations at a time each makes room for the next; beyond it they begin a quarter of the window at a time.
const ONE_BY_ONE: i32 = 16;

/// At most so many iterations go on at a time.
const MAX_WINDOW: i32 = 1000;

impl Bounds {
    /// For a window of so many.
    fn window(count: i32, window: i32) -> Self {
        let window = window.clamp(1, count.clamp(1, MAX_WINDOW));
        let (chunk, ahead) = if window <= ONE_BY_ONE { (1, window) } else { (window / 4, 4) };
        Self { count, chunk, ahead, tolerated: 0, need: 0 }
    }

    /// How many begin with the block.
    pub(super) fn at_once(&self) -> i32 {
        self.chunk.saturating_mul(self.ahead).min(self.count)
    }
}

impl Graph {
    pub(super) fn parallel_bounds(
        &self,
        node: &Node,
        block: &Block,
        values: &Values,
        input: &Payload,
    ) -> Result<Bounds, StepError> {
        let branches = count(block.bodies.len());
        let BlockKind::Parallel { need, fail_fast, concurrency, .. } = &block.kind else {
            return Ok(Bounds::window(branches, branches));
        };
        let window = self.concurrency(concurrency.as_ref(), node, values, input)?.unwrap_or(branches);
        // with `ends` of some, as many may fail as are not needed
        let tolerated = match (need, fail_fast) {
            (0, true) => 0,
            (0, false) => branches,
            (need, _) => branches - need,
        };
        let bounds = if window >= branches {
            Bounds { chunk: branches, ahead: 1, ..Bounds::window(branches, branches) }
        } else {
            Bounds::window(branches, window)
        };
        Ok(Bounds { tolerated, need: *need, ..bounds })
    }

    pub(super) fn foreach_bounds(
        &self,
        node: &Node,
        block: &Block,
        values: &Values,
        input: &Payload,
        items: usize,
    ) -> Result<Bounds, StepError> {
        let items = count(items);
        let BlockKind::Foreach { concurrency, tolerate_count, tolerate_share, .. } = &block.kind else {
            return Ok(Bounds::window(items, items));
        };
        let most = i32::try_from(DEFAULT_CONCURRENCY).unwrap_or(i32::MAX);
        let window = self.concurrency(concurrency.as_ref(), node, values, input)?.unwrap_or(most);
        let number = |field: &str, template: &Option<Template>, up_to: f64| {
            template.as_ref().map(|template| self.given_number(field, template, node, values, input, up_to)).transpose()
        };
        let by_count = number("tolerate.count", tolerate_count, f64::from(i32::MAX))?;
        let by_share = number("tolerate.share", tolerate_share, 1.0)?.map(|share| (share * f64::from(items)).floor());
        // both may be given: the smaller counts
        let tolerated = by_count.into_iter().chain(by_share).reduce(f64::min).unwrap_or(0.0);
        #[expect(clippy::cast_possible_truncation, reason = "it is at most i32::MAX")]
        let tolerated = tolerated as i32;
        Ok(Bounds { tolerated, ..Bounds::window(items, window) })
    }

    fn concurrency(
        &self,
        template: Option<&Template>,
        node: &Node,
        values: &Values,
        input: &Payload,
    ) -> Result<Option<i32>, StepError> {
        let Some(template) = template else { return Ok(None) };
        let number = self.given_number("concurrency", template, node, values, input, f64::from(i32::MAX))?;
        if number < 1.0 {
            return Err(StepError::permanent(EXPRESSION_FAILED, "`concurrency` is less than 1"));
        }
        #[expect(clippy::cast_possible_truncation, reason = "it is at most i32::MAX")]
        Ok(Some(number as i32))
    }

    /// A number that a template gives, from 0 on; whole unless it is a share, which is at most 1.
    fn given_number(
        &self,
        field: &str,
        template: &Template,
        node: &Node,
        values: &Values,
        input: &Payload,
        up_to: f64,
    ) -> Result<f64, StepError> {
        let given = self.rendered(template, node, values, input)?;
        let number = given.parse::<Value>().ok().and_then(|value| value.as_f64());
        match number {
            Some(number) if number >= 0.0 && (up_to <= 1.0 || number.fract() == 0.0) => Ok(number.min(up_to)),
            _ => {
                let short: String = given.as_str().chars().take(60).collect();
                Err(StepError::permanent(EXPRESSION_FAILED, &format!("`{field}` is no such number but `{short}`")))
            }
        }
    }
}
