//! Blocks: which bodies must have run, what each was given, and what the block must have come to.

use serde_json::{Map, Value, json};

use super::super::program::{Around, Body, Condition, Kind, Node, Scope, Tolerate};
use super::super::record::Frame;
use super::super::script::error;
use super::{Ended, Interpreter, Wrong};

/// An attempt of a block that opened frames.
struct Attempted<'a> {
    node: &'a Node,
    attempt: i32,
    whole: &'a Frame,
    scope: &'a Scope,
}

impl Interpreter<'_> {
    /// An attempt of a block.
    pub(super) fn block(
        &self,
        node: &Node,
        frame: i32,
        attempt: i32,
        failed: usize,
        scope: &Scope,
    ) -> Result<Ended, Wrong> {
        let input = &scope.input;
        let whole = self.record.whole(frame, &node.id, attempt);
        let items = match &node.kind {
            Kind::Foreach { items, .. } => match items.value(scope) {
                Value::Array(items) => items,
                _ => return without_frames(whole, Ended::Failed(error("items_invalid", "permanent"))),
            },
            _ => Vec::new(),
        };
        match &node.kind {
            Kind::Foreach { .. } if items.is_empty() => return without_frames(whole, Ended::Completed(json!([]))),
            Kind::While { when, do_while, .. } if !do_while && !when.holds(scope) => {
                return without_frames(whole, Ended::Completed(input.clone()));
            }
            Kind::Choice { cases, otherwise: None, .. } if !cases.iter().any(|(when, _)| when.holds(scope)) => {
                return without_frames(whole, Ended::Completed(Value::Null));
            }
            _ => {}
        }
        let Some(whole) = whole else { return Ok(Ended::Canceled) };
        self.frames.borrow_mut().insert(whole.frame);
        let inner = Scope { failed: scope.failed + failed, ..scope.clone() };
        let run = Attempted { node, attempt, whole, scope: &inner };
        let said = state(whole)?;
        let late = matches!(&said, Ended::Failed(error) if error["name"] == "timeout" && error["kind"] == "timeout")
            && node.timeout.is_some_and(|timeout| {
                let took = whole.finished_at.map(|finished| (finished - whole.created_at).num_milliseconds());
                took.is_some_and(|took| took >= i64::from(timeout))
            });
        let told = if late { Ended::Canceled } else { said.clone() };
        let means = match &node.kind {
            Kind::Choice { cases, otherwise, .. } => self.choice(&run, cases, otherwise.as_ref())?,
            Kind::Parallel { branches, ends, fail_fast, concurrency } => {
                let bodies: Vec<&Body> = branches.iter().map(|(_, body)| body).collect();
                let given = vec![input.clone(); bodies.len()];
                let children = self.children(&run, &bodies, &given, *concurrency)?;
                let names: Vec<&str> = branches.iter().map(|(name, _)| name.as_str()).collect();
                parallel(&names, &children, *ends, *fail_fast, &told)?
            }
            Kind::Foreach { body, concurrency, tolerate, .. } => {
                let children = self.children(&run, &vec![body; items.len()], &items, *concurrency)?;
                foreach(&children, *tolerate, &told)?
            }
            Kind::While { .. } => self.passes(&run)?,
            Kind::Try { body, catches, finally } => self.attempted(&run, body, catches, finally.as_ref())?,
            _ => return Err("it is no block".to_owned()),
        };
        match (&means, &said) {
            // its time was over, whatever it had come to
            _ if late => {}
            // what is around it was closed before it could say so
            (_, Ended::Canceled) => {}
            (Ended::Completed(one), Ended::Completed(other)) | (Ended::Failed(one), Ended::Failed(other))
                if one == other => {}
            _ => return Err(format!("attempt {attempt} ended {said:?}, not {means:?}")),
        }
        Ok(said)
    }

    /// One instance of a body; `None`: it did not begin. `given` is what it must have been given.
    fn child(&self, run: &Attempted<'_>, body: &Body, iteration: usize, given: &Value) -> Result<Option<Ended>, Wrong> {
        let found = match run.node.kind {
            Kind::Choice { .. } => Some(run.whole).filter(|whole| index(whole.iteration) == Some(iteration)),
            _ => {
                let bodies = self.record.bodies(run.whole, &run.node.id, run.attempt);
                bodies.into_iter().find(|child| index(child.iteration) == Some(iteration))
            }
        };
        let Some(child) = found else { return Ok(None) };
        self.frames.borrow_mut().insert(child.frame);
        if child.input.as_ref() != Some(given) {
            return Err(format!("iteration {iteration} was given {:?}, not {given}", child.input));
        }
        let mut scope = run.scope.clone();
        scope.frames.push(Around {
            block: run.node.id.clone(),
            foreach: matches!(run.node.kind, Kind::Foreach { .. }),
            input: given.clone(),
            index: iteration,
        });
        let ended = state(child)?;
        // a `finally` has as long as its block from when that was cut off
        let is_finally =
            matches!(&run.node.kind, Kind::Try { catches, finally: Some(_), .. } if iteration > catches.len());
        let of_time = child.error.as_ref().is_some_and(|error| error["name"] == "timeout");
        let cut = is_finally && of_time && run.node.timeout.is_some();
        let means = if cut || matches!(run.node.kind, Kind::Choice { .. }) && self.is_late(run) {
            Ended::Canceled
        } else {
            ended.clone()
        };
        self.body(body, child.frame, &means, &scope)?;
        Ok(Some(ended))
    }

    /// The block's time was over.
    fn is_late(&self, run: &Attempted<'_>) -> bool {
        run.node.timeout.is_some() && run.whole.error.as_ref().is_some_and(|error| error["name"] == "timeout")
    }

    fn choice(
        &self,
        run: &Attempted<'_>,
        cases: &[(Condition, Body)],
        otherwise: Option<&Body>,
    ) -> Result<Ended, Wrong> {
        let place = cases.iter().position(|(when, _)| when.holds(run.scope)).unwrap_or(cases.len());
        let body = cases.get(place).map(|(_, body)| body).or(otherwise);
        let Some(body) = body else { return Ok(Ended::Completed(Value::Null)) };
        match self.child(run, body, place, &run.scope.input)? {
            Some(ended) => Ok(ended),
            None => Err(format!("it ran body {}, not {place}", run.whole.iteration)),
        }
    }

    fn children(
        &self,
        run: &Attempted<'_>,
        bodies: &[&Body],
        given: &[Value],
        concurrency: Option<usize>,
    ) -> Result<Vec<Option<Ended>>, Wrong> {
        let mut children = Vec::new();
        for (iteration, (body, given)) in bodies.iter().zip(given).enumerate() {
            children.push(self.child(run, body, iteration, given)?);
        }
        let frames = self.record.bodies(run.whole, &run.node.id, run.attempt);
        if frames.len() > bodies.len() {
            return Err(format!("it has {} iterations, not {}", frames.len(), bodies.len()));
        }
        for frame in &frames {
            let at_once = frames.iter().filter(|other| {
                other.created_at <= frame.created_at
                    && other.finished_at.is_none_or(|finished| finished > frame.created_at)
            });
            let at_once = at_once.count();
            if concurrency.is_some_and(|most| at_once > most) {
                return Err(format!("{at_once} iterations went on at a time, {concurrency:?} may"));
            }
        }
        Ok(children)
    }

    fn passes(&self, run: &Attempted<'_>) -> Result<Ended, Wrong> {
        let Kind::While { when, most, stops, keep, body, .. } = &run.node.kind else {
            return Err("it is no while".to_owned());
        };
        let frames = self.record.bodies(run.whole, &run.node.id, run.attempt);
        let last = frames.iter().filter_map(|frame| index(frame.iteration)).max();
        // passes whose frames were not kept: what they gave is what the first that was kept was given
        let first = frames.iter().filter_map(|frame| index(frame.iteration)).min().unwrap_or(0);
        let (mut pass, mut given) = (0, run.scope.input.clone());
        if let (Some(keep), true) = (keep, first > 0) {
            if frames.len() > *keep + 1 {
                return Err(format!("{} passes were kept, not {keep}", frames.len()));
            }
            pass = first;
            given = frames
                .iter()
                .find(|frame| index(frame.iteration) == Some(first))
                .and_then(|frame| frame.input.clone())
                .unwrap_or_default();
        }
        loop {
            let ended = self.child(run, body, pass, &given)?;
            let end = match ended {
                None | Some(Ended::Canceled) => Ended::Canceled,
                Some(Ended::Failed(error)) => Ended::Failed(error),
                Some(Ended::Completed(output)) => {
                    let scope = Scope { input: output.clone(), ..run.scope.clone() };
                    pass += 1;
                    if when.holds(&scope) && pass < *most {
                        given = output;
                        continue;
                    }
                    pass -= 1;
                    match (when.holds(&scope), stops) {
                        (true, false) => Ended::Failed(error("max_iterations", "permanent")),
                        _ => Ended::Completed(output),
                    }
                }
            };
            if last.is_some_and(|last| last > pass) {
                return Err(format!("it made pass {last:?} after {pass}, with which it ended: {end:?}"));
            }
            return Ok(end);
        }
    }

    fn attempted(
        &self,
        run: &Attempted<'_>,
        body: &Body,
        catches: &[(Vec<String>, Body)],
        finally: Option<&Body>,
    ) -> Result<Ended, Wrong> {
        let given = run.scope.input.clone();
        let mut expected = vec![0];
        let mut ended = self.child(run, body, 0, &given)?.unwrap_or(Ended::Canceled);
        if let Ended::Failed(error) = &ended
            && let Some(place) = catches.iter().position(|(on, _)| takes(on, error))
        {
            expected.push(place + 1);
            let error = error.clone();
            ended = self.child(run, &catches[place].1, place + 1, &error)?.unwrap_or(Ended::Canceled);
        }
        // in any case: what ends around it does not end it, and where it was cut off before it is made up for
        if let Some(finally) = finally {
            let last = catches.len() + 1;
            expected.push(last);
            match (self.child(run, finally, last, &given)?, &ended) {
                (Some(Ended::Failed(error)), Ended::Completed(_) | Ended::Failed(_)) => ended = Ended::Failed(error),
                (Some(Ended::Completed(_) | Ended::Failed(_)), _) => {}
                (other, _) => return Err(format!("its finally came to {other:?}")),
            }
        }
        let frames = self.record.bodies(run.whole, &run.node.id, run.attempt);
        if let Some(other) = frames.iter().find(|frame| index(frame.iteration).is_none_or(|at| !expected.contains(&at)))
        {
            return Err(format!("its body {} ran, only {expected:?} may have", other.iteration));
        }
        Ok(ended)
    }
}

/// Whether a catch takes an error.
fn takes(on: &[String], error: &Value) -> bool {
    let word = |field: &str| error[field].as_str().unwrap_or_default().to_owned();
    on.is_empty() || on.iter().any(|pattern| like(pattern, &word("name")) || like(pattern, &word("kind")))
}

/// Whether a text is like a pattern in which `*` stands for any text.
fn like(pattern: &str, text: &str) -> bool {
    match pattern.chars().next() {
        None => text.is_empty(),
        Some('*') => (0..=text.len()).any(|from| text.get(from..).is_some_and(|rest| like(&pattern[1..], rest))),
        Some(letter) => text.strip_prefix(letter).is_some_and(|rest| like(&pattern[letter.len_utf8()..], rest)),
    }
}

/// A block that ends as it begins has no frames.
fn without_frames(whole: Option<&Frame>, ended: Ended) -> Result<Ended, Wrong> {
    match whole {
        None => Ok(ended),
        Some(frame) => Err(format!("it has frame {}, but it should have ended at once: {ended:?}", frame.frame)),
    }
}

/// What a frame says of itself.
fn state(frame: &Frame) -> Result<Ended, Wrong> {
    match (frame.state, &frame.output, &frame.error) {
        (3, Some(output), _) => Ok(Ended::Completed(output.clone())),
        (4, _, Some(error)) => Ok(Ended::Failed(error.clone())),
        // one that the end of the run cut off
        (1 | 5, ..) => Ok(Ended::Canceled),
        _ => Err(format!("frame {} makes no sense: {frame:?}", frame.frame)),
    }
}

fn index(iteration: i32) -> Option<usize> {
    usize::try_from(iteration).ok()
}

/// What a `parallel` ends with that says this of itself.
fn parallel(
    names: &[&str],
    children: &[Option<Ended>],
    ends: usize,
    fail_fast: bool,
    said: &Ended,
) -> Result<Ended, Wrong> {
    let outputs = || -> Map<String, Value> {
        let output = |(name, child): (&&str, &Option<Ended>)| match child {
            Some(Ended::Completed(output)) => Some(((*name).to_owned(), output.clone())),
            _ => None,
        };
        names.iter().zip(children).filter_map(output).collect()
    };
    let failures: Vec<&Value> = failures(children);
    let completed = outputs().len();
    let all_ended = completed + failures.len() == names.len();
    match said {
        Ended::Canceled => Ok(Ended::Canceled),
        Ended::Completed(found) if ends > 0 => {
            // another branch may have completed when enough had
            let all = outputs();
            let found = found.as_object().cloned().unwrap_or_default();
            if found.len() < ends || !found.iter().all(|(name, output)| all.get(name) == Some(output)) {
                return Err(format!("{ends} branches were to complete, {all:?} did, and the output is {found:?}"));
            }
            Ok(Ended::Completed(Value::Object(found)))
        }
        Ended::Completed(_) if completed == names.len() => Ok(Ended::Completed(Value::Object(outputs()))),
        Ended::Completed(_) => Err(format!("it completed with {children:?}")),
        Ended::Failed(_) if ends > 0 => {
            if failures.len() <= names.len() - ends {
                return Err(format!("{ends} branches were to complete, and could: {children:?}"));
            }
            Ok(Ended::Failed(error("too_few_branches", "permanent")))
        }
        Ended::Failed(found) if fail_fast => match failures.iter().find(|error| **error == found) {
            Some(error) => Ok(Ended::Failed((*error).clone())),
            None => Err(format!("it failed with {found}, its branches with {failures:?}")),
        },
        Ended::Failed(_) => match failures.first() {
            Some(error) if all_ended => Ok(Ended::Failed((*error).clone())),
            _ => Err(format!("it failed before all its branches had ended: {children:?}")),
        },
    }
}

fn failures(children: &[Option<Ended>]) -> Vec<&Value> {
    let failure = |child: &'_ Option<Ended>| matches!(child, Some(Ended::Failed(_)));
    let failed = children.iter().filter(|child| failure(child));
    failed.filter_map(|child| if let Some(Ended::Failed(error)) = child { Some(error) } else { None }).collect()
}

/// What a `foreach` ends with that says this of itself.
fn foreach(children: &[Option<Ended>], tolerate: Option<Tolerate>, said: &Ended) -> Result<Ended, Wrong> {
    let failures = failures(children);
    let tolerated = match tolerate {
        None => 0,
        Some(Tolerate::Count(count)) => count,
        Some(Tolerate::Percent(percent)) => percent * children.len() / 100,
    };
    match said {
        Ended::Canceled => Ok(Ended::Canceled),
        Ended::Completed(_) => {
            let output = |child: &Option<Ended>| match child {
                Some(Ended::Completed(output)) => Some(output.clone()),
                Some(Ended::Failed(error)) => Some(json!({"error": error})),
                _ => None,
            };
            let outputs: Option<Vec<Value>> = children.iter().map(output).collect();
            match outputs {
                Some(outputs) if failures.len() <= tolerated => Ok(Ended::Completed(Value::Array(outputs))),
                _ => Err(format!("it completed with {children:?}, and {tolerated} may fail")),
            }
        }
        Ended::Failed(_) if failures.len() <= tolerated => {
            Err(format!("it failed with {children:?}, and {tolerated} may fail"))
        }
        Ended::Failed(_) if tolerated > 0 => Ok(Ended::Failed(error("tolerance_exceeded", "permanent"))),
        Ended::Failed(found) => match failures.iter().find(|error| **error == found) {
            Some(error) => Ok(Ended::Failed((*error).clone())),
            None => Err(format!("it failed with {found}, its iterations with {failures:?}")),
        },
    }
}
