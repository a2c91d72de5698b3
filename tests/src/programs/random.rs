//! Random programs: small, nested, with every kind of node, edge, join and policy. What they read is chosen so that it does not depend on time, or the
//! interpreter could not say what it is: a node that may begin before all its predecessors have ended is given what was there before them.

use std::collections::BTreeSet;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde_json::{Value, json};

use super::program::{
    Body, Condition, Edge, Giving, Kind, Node, On, OnError, Path, Retry, Root, SignalName, Termination, Tolerate,
};
use super::script::{ALWAYS, How, Script};

/// How deep blocks are nested.
const DEPTH: usize = 4;

const NAMES: [&str; 4] = ["flop", "flip", "odd.one", "e_1"];
const PATTERNS: [&str; 9] = ["flop", "fl*p", "e_*", "*one", "permanent", "retryable", "timeout", "pan*", "to*_*"];

/// A random program.
pub fn program(random: &mut StdRng) -> Body {
    let mut maker = Maker { random, left: 0, count: 0, waits: 0 };
    maker.left = maker.random.random_range(4..28);
    maker.body(0, &Sight::default(), false)
}

/// What a run of it is given.
pub fn input(random: &mut StdRng) -> Value {
    let items: Vec<Value> = (0..random.random_range(0..4)).map(|_| item(random)).collect();
    json!({"x": random.random_range(0..4), "n": random.random_range(0..5), "items": items})
}

fn item(random: &mut StdRng) -> Value {
    match random.random_range(0..6) {
        0 => json!({"n": random.random_range(0..5)}),
        1 => (0..random.random_range(0..3)).map(|_| json!(random.random_range(0..5))).collect(),
        _ => json!(random.random_range(0..5)),
    }
}

/// What a template may read.
#[derive(Clone, Default)]
struct Sight {
    /// Nodes that have ended whenever it is read.
    nodes: BTreeSet<String>,
    /// The blocks around, the innermost last, and whether they are a `foreach`.
    blocks: Vec<(String, bool)>,
    /// `error` may be read.
    error: bool,
    /// `input` may be read.
    input: bool,
    /// It is within a `finally`, which may outlive the run: nobody can send that a signal any more, and there is nothing to terminate.
    finally: bool,
}

struct Maker<'r> {
    random: &'r mut StdRng,
    /// Nodes that may still be made.
    left: usize,
    count: usize,
    waits: usize,
}

impl Maker<'_> {
    fn one_of<T: Clone>(&mut self, of: &[T]) -> T {
        of.choose(self.random).cloned().unwrap_or_else(|| of[0].clone())
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_ratio(percent, 100)
    }

    fn body(&mut self, depth: usize, around: &Sight, catches: bool) -> Body {
        let size = self.random.random_range(1..=4).min(self.left.max(1));
        self.left = self.left.saturating_sub(size);
        let mut body = Body::default();
        let mut seen: Vec<BTreeSet<String>> = Vec::new();
        for place in 0..size {
            let mut edges: Vec<Edge> = Vec::new();
            for from in 0..place {
                if matches!(body.nodes[from].kind, Kind::Terminate(_))
                    || !self.chance(if from + 1 == place { 60 } else { 30 })
                {
                    continue;
                }
                let waits = matches!(body.nodes[from].kind, Kind::Wait(..)) && body.nodes[from].timeout.is_some();
                let fails = matches!(body.nodes[from].kind, Kind::Fail(_));
                let on = match self.random.random_range(0..10) {
                    0..2 => On::Failure,
                    2..4 => On::Always,
                    4 | 5 if waits => On::Timeout,
                    _ if fails => On::Failure,
                    _ => On::Success,
                };
                edges.push(Edge { from, to: place, on, when: None });
                if on == On::Success && self.chance(10) && !fails {
                    edges.push(Edge { from, to: place, on: On::Failure, when: None });
                }
            }
            let need = if edges.len() > 1 && self.chance(40) { self.random.random_range(1..=edges.len()) } else { 0 };
            // an early join begins while others go on: only what was there before the body can be read
            let mut nodes = around.nodes.clone();
            if need == 0 {
                for edge in &edges {
                    nodes.insert(body.nodes[edge.from].id.clone());
                    nodes.extend(seen[edge.from].iter().cloned());
                }
            }
            let froms: BTreeSet<usize> = edges.iter().map(|edge| edge.from).collect();
            let caught = catches && edges.is_empty();
            let after_failure = froms.len() == 1 && edges.iter().any(|edge| edge.on != On::Success);
            let sight = Sight { nodes: nodes.clone(), error: caught || after_failure, input: false, ..around.clone() };
            for edge in &mut edges {
                if self.chance(20) {
                    let mut sight = around.clone();
                    sight.nodes.extend(seen[edge.from].iter().cloned());
                    sight.nodes.insert(body.nodes[edge.from].id.clone());
                    sight.error = edge.on != On::Success;
                    edge.when = Some(self.condition(&sight));
                }
            }
            let mut node = self.node(depth, &sight);
            node.need = need;
            let early = need > 0;
            if early {
                node.input = Some(self.giving(&Sight { error: false, ..sight.clone() }));
            }
            body.edges.extend(edges);
            body.nodes.push(node);
            seen.push(nodes);
        }
        for place in 0..size {
            let routed = body.edges.iter().any(|edge| edge.from == place && edge.on != On::Success);
            let sinks_or = body.edges.iter().any(|edge| edge.from == place);
            let node = &mut body.nodes[place];
            if matches!(node.kind, Kind::Terminate(_) | Kind::Fail(_)) {
                continue;
            }
            node.on_error = match self.random.random_range(0..20) {
                0 | 1 => OnError::Continue,
                2 | 3 => OnError::Fallback(Giving::Object(vec![
                    ("n".to_owned(), Giving::Const(json!(self.random.random_range(0..5)))),
                    ("of".to_owned(), Giving::Of(Path { root: Root::Error, field: Some("name".to_owned()) })),
                ])),
                4 | 5 => OnError::Skip,
                6 | 7 if routed && sinks_or => OnError::Route,
                _ => OnError::Fail,
            };
        }
        if self.chance(15) {
            let sight = Sight {
                nodes: body.nodes.iter().map(|node| node.id.clone()).chain(around.nodes.iter().cloned()).collect(),
                error: false,
                input: false,
                ..around.clone()
            };
            body.output = Some(Giving::Object(vec![
                ("n".to_owned(), Giving::Of(self.path(&sight))),
                ("v".to_owned(), Giving::Of(self.path(&sight))),
            ]));
        }
        body
    }

    fn node(&mut self, depth: usize, sight: &Sight) -> Node {
        self.count += 1;
        let number = self.count;
        let mut node = Node {
            id: format!("n{number}"),
            kind: Kind::Task,
            input: None,
            need: 0,
            on_error: OnError::Fail,
            retry: Vec::new(),
            timeout: None,
        };
        if self.chance(40) {
            node.input = Some(self.giving(sight));
        }
        let own = Sight { input: true, ..sight.clone() };
        match self.random.random_range(0..100) {
            0..27 => self.task(&mut node),
            27..36 => node.kind = Kind::Set(self.giving(&own)),
            36..38 => node.kind = Kind::Fail(self.one_of(&NAMES).to_owned()),
            38 if (depth > 0 || self.chance(50)) && !sight.finally => {
                node.kind = Kind::Terminate(match self.random.random_range(0..3) {
                    0 => Termination::Completed(self.giving(&own)),
                    1 => Termination::Failed("ended".to_owned()),
                    _ => Termination::Canceled,
                });
            }
            39..47 => self.wait(&mut node, sight),
            _ if depth >= DEPTH || self.left == 0 => self.task(&mut node),
            _ => self.block(&mut node, depth, &own),
        }
        node
    }

    fn task(&mut self, node: &mut Node) {
        node.kind = Kind::Task;
        node.id.insert(0, 't');
        if self.chance(33) {
            let of = self.random.random_range(1..4);
            let how = match self.random.random_range(0..20) {
                0 => How::Hangs,
                1 | 2 => How::Panics,
                3..9 => How::Permanent(self.one_of(&NAMES).to_owned()),
                _ => How::Retryable(self.one_of(&NAMES).to_owned()),
            };
            let times = if self.chance(50) { ALWAYS } else { self.random.random_range(1..4) };
            let times = if how == How::Hangs { ALWAYS } else { times };
            let heals = self.chance(25);
            if how == How::Hangs {
                node.timeout = Some(1000);
            }
            node.id += &Script { of, rest: self.random.random_range(0..of), times, how, heals }.suffix();
        }
        let hangs = node.timeout.is_some();
        if hangs || self.chance(80) {
            let on = if self.chance(20) {
                vec![self.one_of(&["flop", "retryable", "panic"]).to_owned()]
            } else {
                Vec::new()
            };
            if !hangs && self.chance(25) {
                node.retry.push(self.first_policy());
            }
            node.retry.push(Retry { max_attempts: if hangs { 1 } else { self.random.random_range(1..4) }, on });
        }
    }

    /// A policy that stands before another.
    fn first_policy(&mut self) -> Retry {
        let on = vec![self.one_of(&["flop", "timeout", "panic"]).to_owned()];
        Retry { max_attempts: self.random.random_range(1..4), on }
    }

    fn wait(&mut self, node: &mut Node, sight: &Sight) {
        self.waits += 1;
        let mut names = Vec::new();
        for number in 0..self.random.random_range(1..3) {
            let text = format!("s{}.{number}", self.waits);
            let each = sight.blocks.iter().any(|(_, foreach)| *foreach) && self.chance(50);
            names.push(SignalName { text, of: each.then_some(Path { root: Root::Index, field: None }) });
        }
        let path = Path { root: Root::Payload, field: Some("n".to_owned()) };
        let when = self.chance(40).then(|| Condition::In(path, self.numbers(), true));
        node.kind = Kind::Wait(names, when);
        if self.chance(70) || sight.finally {
            node.timeout = Some(self.one_of(&[20, 200, 800]));
        }
    }

    fn block(&mut self, node: &mut Node, depth: usize, sight: &Sight) {
        let inside = |maker: &mut Self, id: &str, foreach: bool, catches: bool| {
            let mut inner = Sight { error: false, input: false, ..sight.clone() };
            inner.blocks.push((id.to_owned(), foreach));
            maker.body(depth + 1, &inner, catches)
        };
        let id = node.id.clone();
        node.kind = match self.random.random_range(0..6) {
            0 => {
                let count = self.random.random_range(1..4);
                let branches: Vec<(String, Body)> = (0..count)
                    .map(|number| (format!("b{}", count - number), inside(self, &id, false, false)))
                    .collect();
                let ends = if self.chance(40) { self.random.random_range(1..=count) } else { 0 };
                let concurrency = self.chance(30).then(|| self.random.random_range(1..3));
                Kind::Parallel { branches, ends, fail_fast: self.chance(60), concurrency }
            }
            1 => {
                let items = match self.random.random_range(0..10) {
                    0..4 => Giving::Const((0..self.random.random_range(0..4)).map(|_| item(self.random)).collect()),
                    4..7 => Giving::Of(Path { root: Root::RunInput, field: Some("items".to_owned()) }),
                    7 | 8 if sight.blocks.iter().any(|(_, foreach)| *foreach) => {
                        Giving::Of(Path { root: Root::Item, field: None })
                    }
                    _ => Giving::Of(self.path(sight)),
                };
                let tolerate = match self.random.random_range(0..4) {
                    0 => Some(Tolerate::Count(self.random.random_range(0..3))),
                    1 => Some(Tolerate::Percent(self.one_of(&[0, 25, 50, 75, 100]))),
                    _ => None,
                };
                let concurrency = self.chance(40).then(|| self.random.random_range(1..3));
                Kind::Foreach { items, body: inside(self, &id, true, false), concurrency, tolerate }
            }
            2 => {
                let when = if self.chance(70) {
                    Condition::In(Path { root: Root::Input, field: Some("n".to_owned()) }, self.numbers(), false)
                } else {
                    self.condition(sight)
                };
                let keep = self.chance(15).then(|| self.random.random_range(1..3));
                let (do_while, stops) = (self.chance(40), self.chance(50));
                Kind::While {
                    when,
                    do_while,
                    most: self.random.random_range(1..5),
                    stops,
                    keep,
                    body: inside(self, &id, false, false),
                }
            }
            3 | 4 => {
                let is_if = self.chance(50);
                let count = if is_if { 1 } else { self.random.random_range(1..4) };
                let cases = (0..count).map(|_| (self.condition(sight), inside(self, &id, false, false))).collect();
                let otherwise = self.chance(50).then(|| inside(self, &id, false, false));
                Kind::Choice { is_if, cases, otherwise }
            }
            _ => {
                let body = inside(self, &id, false, false);
                let mut catches = Vec::new();
                for _ in 0..self.random.random_range(0..3) {
                    let on: Vec<String> =
                        (0..self.random.random_range(1..3)).map(|_| self.one_of(&PATTERNS).to_owned()).collect();
                    catches.push((on, inside(self, &id, false, true)));
                }
                if self.chance(40) {
                    catches.push((Vec::new(), inside(self, &id, false, true)));
                }
                let finally = (catches.is_empty() || self.chance(40)).then(|| {
                    let mut last = Sight { error: false, input: false, finally: true, ..sight.clone() };
                    last.blocks.push((id.clone(), false));
                    self.body(depth + 1, &last, false)
                });
                Kind::Try { body, catches, finally }
            }
        };
        if self.chance(35) {
            if self.chance(30) {
                node.retry.push(self.first_policy());
            }
            node.retry.push(Retry { max_attempts: self.random.random_range(2..4), on: Vec::new() });
        }
        if self.chance(15) {
            node.timeout = Some(self.one_of(&[60, 500, 3_600_000]));
        }
    }

    fn numbers(&mut self) -> Vec<i64> {
        let mut numbers: Vec<i64> =
            (0..self.random.random_range(1..4)).map(|_| self.random.random_range(0..5)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Something to read: often a number.
    fn path(&mut self, sight: &Sight) -> Path {
        let n = || Some("n".to_owned());
        let mut of = vec![(Root::RunInput, Some("x".to_owned())), (Root::RunInput, n())];
        of.extend(sight.nodes.iter().flat_map(|id| vec![(Root::Output(id.clone()), n()); 2]));
        if let Some((last, _)) = sight.blocks.last() {
            let (any, _) = self.one_of(&sight.blocks);
            of.extend([
                (Root::FrameInput(None), n()),
                (Root::FrameInput(None), None),
                (Root::FrameIndex(None), None),
                (Root::FrameInput(Some(any.clone())), n()),
                (Root::FrameIndex(Some(any)), None),
                (Root::FrameIndex(Some(last.clone())), None),
            ]);
        }
        if sight.blocks.iter().any(|(_, foreach)| *foreach) {
            of.extend([(Root::Item, None), (Root::Item, n()), (Root::Index, None)]);
        }
        if sight.input {
            of.extend([(Root::Input, n()), (Root::Input, n())]);
        }
        let (root, field) = self.one_of(&of);
        Path { root, field }
    }

    fn condition(&mut self, sight: &Sight) -> Condition {
        let one = if sight.error && self.chance(50) {
            let name = self.one_of(&NAMES).to_owned();
            Condition::Is(Path { root: Root::Error, field: Some("name".to_owned()) }, name, self.chance(50))
        } else {
            let (path, numbers) = (self.path(sight), self.numbers());
            Condition::In(path, numbers, self.chance(50))
        };
        match self.random.random_range(0..10) {
            0 => Condition::And(Box::new(one), Box::new(self.condition(sight))),
            1 => Condition::Or(Box::new(one), Box::new(self.condition(sight))),
            _ => one,
        }
    }

    fn giving(&mut self, sight: &Sight) -> Giving {
        let mut fields = vec![("n".to_owned(), Giving::Of(self.path(sight)))];
        if self.chance(50) {
            fields.push(("v".to_owned(), Giving::Of(self.path(sight))));
        }
        if sight.error && self.chance(50) {
            fields.push(("of".to_owned(), Giving::Of(Path { root: Root::Error, field: Some("name".to_owned()) })));
        }
        match self.random.random_range(0..6) {
            0 => Giving::Of(self.path(sight)),
            1 => Giving::Const(json!({"n": self.random.random_range(0..5)})),
            _ => Giving::Object(fields),
        }
    }
}
