//! Blocks of a compiled version: which bodies a node holds and what it does with them. The rules are in `frame`.

use std::time::Duration;

use crate::definition::block::OnLimit;
use crate::expression::{Expression, Template};
use crate::retry::RetryPolicies;

/// A body's place in a compiled version. 0 is the run's own graph.
pub type BodyNumber = usize;

/// What a node that holds bodies does.
#[derive(Debug)]
pub struct Block {
    /// The word in the definition's `type`.
    pub word: &'static str,
    /// What it does with its bodies.
    pub kind: BlockKind,
    /// How long one attempt may take.
    pub timeout: Option<Duration>,
    /// What follows a failed attempt.
    pub retry: RetryPolicies,
    /// Its bodies, in the order of `BlockType::bodies`.
    pub bodies: Vec<BodyNumber>,
}

/// What a block does with its bodies. Where there are several, they are in the order of `BlockType::bodies`.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a version has one for each of its blocks, which are few")]
pub enum BlockKind {
    /// Runs all at once.
    Parallel {
        /// The branches' names.
        names: Vec<std::sync::Arc<str>>,
        /// 0: all branches must complete; n: so many.
        need: i32,
        /// The first failure fails the block.
        fail_fast: bool,
        /// How many go on at a time.
        concurrency: Option<Template>,
    },
    /// Runs one for each item.
    Foreach {
        /// The items.
        items: Option<Template>,
        /// How many go on at a time.
        concurrency: Option<Template>,
        /// How many may fail.
        tolerate_count: Option<Template>,
        /// The share that may fail.
        tolerate_share: Option<Template>,
    },
    /// Runs one again and again.
    While {
        /// Whether there is another pass.
        when: Expression,
        /// The first pass is made without asking.
        do_while: bool,
        /// The most passes.
        max_iterations: u32,
        /// What happens after the last of them.
        on_limit: OnLimit,
        /// Frames kept.
        keep: Option<u32>,
    },
    /// Runs the first when its condition holds, else the second, if there is one.
    If {
        /// The condition.
        when: Expression,
    },
    /// Runs the first whose condition holds; the body after them all, if there is one, when none does.
    Switch {
        /// The conditions.
        whens: Vec<Expression>,
    },
    /// Runs the first, another when it fails, and the last in any case.
    Try {
        /// What each catch takes: names, kinds and patterns; none is everything.
        catches: Vec<Vec<String>>,
        /// The last body is a `finally`.
        finally: bool,
    },
    /// Runs both at once; the end of the first is the block's, and nothing follows from that of the second.
    Reminded,
}

impl Block {
    /// A body of it runs in any case.
    pub const fn has_finally(&self) -> bool {
        matches!(self.kind, BlockKind::Try { finally: true, .. })
    }
}

impl BlockKind {
    /// Whether its bodies run at once, counted by a join.
    pub const fn is_wide(&self) -> bool {
        matches!(self, Self::Parallel { .. } | Self::Foreach { .. })
    }

    /// Which of the block's bodies an iteration runs; `None` for the number of an instance that is no body.
    pub fn place(&self, iteration: i32) -> Option<usize> {
        let iteration = usize::try_from(iteration).ok()?;
        Some(if matches!(self, Self::Foreach { .. } | Self::While { .. }) { 0 } else { iteration })
    }
}
