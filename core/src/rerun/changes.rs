//! The context that a new run takes over: as if what it does anew had never changed it. Its snapshots come along, each with the step whose change it is in the new
//! run, so that a run which is made of that one may begin earlier.

use std::collections::{BTreeSet, HashMap, HashSet};

use uuid::Uuid;

use super::Error;
use super::course::{Course, downstream};
use super::past::{Frame, Past};
use crate::graph::{Graph, NodeNumber, START};
use crate::queue::SHARD;
use crate::session::Session;

/// What tells whose a change is in the new run.
pub(super) struct Taken<'a, N> {
    /// Records that count in frames which go on in the new run, those frames, and those that stay as they are.
    ended: HashSet<(i32, NodeNumber)>,
    turns: HashSet<i32>,
    kept: HashSet<i32>,
    /// What the other run has on record.
    past: &'a Past,
    /// The other run's version.
    graph: &'a Graph,
    /// The number in the new version of a node of the other's own graph.
    new_number: N,
    /// The node from which on the other run's own graph is run anew, and all behind it.
    gone: BTreeSet<NodeNumber>,
    /// What was found out about passes that were forgotten, by their nodes.
    forgotten: HashMap<NodeNumber, Whose>,
}

/// Whose a change is in the new run: a frame and a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    /// Of this node, which has a record there; what was changed within a block that has ended is the block's.
    Step(i32, NodeNumber),
    /// Of nothing that is on record there, and nothing makes it again. Of this instance of this block, which goes on: an earlier attempt of it, a pass that was
    /// forgotten. Or of a node that is no more, which is said as [`START`] of the run's own graph.
    Nobody(i32, NodeNumber),
    /// Of what is done anew.
    Anew,
}

/// How the frames of a change end in the new run.
enum Stands {
    /// All of them go on.
    GoOn,
    /// One of them stays as it is, with its records.
    Stays,
    /// It is decided by one of them.
    Decided(Whose),
}

/// A change of the other run: snapshot, frame, node, whether that has no record, and whether what it did is on record beside what it made of the context.
type Change = (i32, Option<i32>, Option<NodeNumber>, bool, bool);

/// The place of a change whose node is no more.
const NO_MORE: (i32, NodeNumber) = (0, START);

/// Make it so. `Err`: a change that is taken over does not fit without one that is not.
pub(super) async fn take_over(
    session: &mut Session<'_>,
    (new, of): (Uuid, Uuid),
    mut taken: Taken<'_, impl Fn(NodeNumber) -> Option<NodeNumber>>,
) -> Result<(), Error> {
    let changes: Vec<Change> = sqlx::query_as(include_str!("../../sql/rerun/context_changes.sql"))
        .bind(SHARD)
        .bind(of)
        .fetch_all(&mut *session)
        .await?;
    // for each change that is taken over: its snapshot, the number of the one that it becomes part of, whether nothing was left out before it
    let (mut snapshots, mut places, mut whole) = (Vec::new(), Vec::<i32>::new(), Vec::new());
    let (mut owners, mut left_out) = (Vec::<Option<Whose>>::new(), false);
    for (snapshot, frame, node, nobodys, known) in changes {
        let owner = frame.zip(node).map(|(frame, node)| taken.whose(frame, node, nobodys));
        left_out |= owner == Some(Whose::Anew);
        if owner == Some(Whose::Anew) {
            continue;
        }
        // of a run before 0.2.0 it is not known what a change did
        if left_out && !known {
            break;
        }
        if owner.is_none() || owners.last() != Some(&owner) {
            owners.push(owner);
        }
        snapshots.push(snapshot);
        places.push(i32::try_from(owners.len()).unwrap_or(i32::MAX) - 1);
        whole.push(!left_out);
    }
    if snapshots.is_empty() {
        return Ok(());
    }
    let (mut frames, mut nodes, mut attempts) = (Vec::new(), Vec::new(), Vec::new());
    for owner in owners {
        let owner = match owner {
            Some(Whose::Step(frame, node)) => Some((frame, node, 1)),
            Some(Whose::Nobody(frame, node)) => Some((frame, node, 0)),
            Some(Whose::Anew) | None => None,
        };
        frames.push(owner.map(|(frame, ..)| frame));
        nodes.push(owner.map(|(_, node, _)| node));
        attempts.push(owner.map(|(.., attempt)| attempt));
    }
    let copied = sqlx::query(include_str!("../../sql/rerun/copy_context.sql"))
        .bind(SHARD)
        .bind(new)
        .bind(of)
        .bind(snapshots)
        .bind(places)
        .bind(whole)
        .bind(frames)
        .bind(nodes)
        .bind(attempts);
    let does_not_fit = |error: &sqlx::Error| {
        let database = error.as_database_error()?;
        matches!(database.code()?.as_ref(), "LS020" | "LS021").then(|| database.message().to_owned())
    };
    match copied.execute(&mut *session).await {
        Ok(_) => Ok(()),
        Err(error) => Err(does_not_fit(&error).map_or(Error::Database(error), Error::Context)),
    }
}

impl<'a, N: Fn(NodeNumber) -> Option<NodeNumber>> Taken<'a, N> {
    /// `from`: the node from which on the other run's own graph is run anew, if it has that.
    pub(super) fn new(
        course: &Course,
        past: &'a Past,
        graph: &'a Graph,
        new_number: N,
        from: Option<NodeNumber>,
    ) -> Self {
        Self {
            ended: course.ended.iter().copied().collect(),
            turns: course.turns.iter().map(|turn| turn.frame).collect(),
            kept: course.kept.iter().copied().collect(),
            past,
            graph,
            new_number,
            gone: from.map_or_else(BTreeSet::new, |from| downstream(graph, 0, Some(from))),
            forgotten: HashMap::new(),
        }
    }

    /// `nobodys`: it was nobody's in the other run already.
    fn whose(&mut self, frame: i32, node: NodeNumber, nobodys: bool) -> Whose {
        if (frame, node) == NO_MORE {
            return Whose::Nobody(frame, node);
        }
        if frame != 0 && self.past.frame(frame).is_none() {
            let known = self.forgotten.get(&node).copied();
            let whose = known.unwrap_or_else(|| self.forgotten(node));
            self.forgotten.insert(node, whose);
            return whose;
        }
        match self.stands(frame) {
            Stands::Decided(whose) => whose,
            _ if nobodys => Whose::Nobody(frame, node),
            Stands::Stays => Whose::Step(frame, node),
            Stands::GoOn => self.record(frame, node).unwrap_or(Whose::Anew),
        }
    }

    /// A node of a frame that goes on has a record that counts there, or there is no such node any more.
    fn record(&self, frame: i32, node: NodeNumber) -> Option<Whose> {
        let number = if frame == 0 { (self.new_number)(node) } else { Some(node) };
        match number {
            Some(number) if self.ended.contains(&(frame, number)) => Some(Whose::Step(frame, number)),
            None if !self.gone.contains(&node) => Some(Whose::Nobody(NO_MORE.0, NO_MORE.1)),
            _ => None,
        }
    }

    /// What becomes of a frame and those around it.
    fn stands(&self, frame: i32) -> Stands {
        for Frame { facts, .. } in self.past.chain(frame) {
            let ended = if facts.whole { self.record(facts.parent, facts.block) } else { None };
            if let Some(whose) = ended {
                return Stands::Decided(whose);
            }
            if self.kept.contains(&facts.frame) {
                return Stands::Stays;
            }
            if !self.turns.contains(&facts.frame) {
                // of an earlier attempt of a block that goes on, or of one of its iterations
                let newest = if facts.whole {
                    self.past.whole(facts.parent, facts.block).filter(|newest| self.turns.contains(&newest.facts.frame))
                } else {
                    let body = self.past.body(facts.parent, facts.iteration);
                    body.filter(|newest| newest.facts.frame != facts.frame).and(self.past.frame(facts.parent))
                };
                let earlier = newest.map(|newest| Whose::Nobody(newest.facts.frame, newest.facts.block));
                return Stands::Decided(earlier.unwrap_or(Whose::Anew));
            }
        }
        Stands::GoOn
    }

    /// A pass of a `while` that keeps its newest only: it was one before those that the block has. Which instance of the block it was of is not known where there
    /// are several; then it counts as one of the blocks around that.
    fn forgotten(&self, node: NodeNumber) -> Whose {
        let mut body = self.graph.node(node).map(|node| node.body);
        while let Some((block, around)) =
            body.and_then(|body| self.graph.body(body)).and_then(|body| Some((body.block?, body.around)))
        {
            let stands = self.past.wholes_of(block).map(|whole| match self.stands(whole) {
                Stands::GoOn | Stands::Stays => Whose::Nobody(whole, block),
                Stands::Decided(whose) => whose,
            });
            let found: Vec<Whose> = stands.collect();
            let stays = |whose: &Whose| matches!(whose, Whose::Nobody(..));
            match found.split_first() {
                Some((first, others)) if others.iter().all(|other| other == first) => return *first,
                Some(_) if !found.iter().all(stays) => return Whose::Anew,
                _ => body = Some(around),
            }
        }
        Whose::Anew
    }
}
