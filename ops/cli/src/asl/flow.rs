//! How states follow each other: edges, nodes where alternative ways meet, and loops.
//!
//! A machine is in one state at a time, so of the ways that meet in a state exactly one is taken. Where several meet, a
//! `set` node takes the document of the only predecessor that completed; so a way whose last node gives something
//! else than the document gets a node that gives it. A loop that is entered at one state becomes a `while`: a pass
//! ends where the loop would begin anew or be left, and gives the document and where it leads.

use std::collections::{BTreeMap, BTreeSet};

use longshore_core::definition::block::{MAX_DEPTH, MAX_ITERATIONS};
use serde_json::{Value, json};

use super::data::Stage;
use super::graph::{Graph, Way};
use super::machine::{Machine, State};
use super::path::Scope;
use super::{Translation, frame, literal, output, template};

/// What is around the states of a body.
#[derive(Clone)]
pub(super) struct Around {
    /// The document that its start is given.
    pub document: String,
    /// What an entry node of the body is given when it has no `input`.
    pub default: String,
    /// What tells one instance of the body from another within a run.
    pub indexes: Vec<String>,
    /// A Map is around.
    pub map: bool,
}

impl Around {
    /// The run's own graph.
    pub(super) fn run() -> Self {
        let document = "run.input".to_owned();
        Self { default: document.clone(), document, indexes: Vec::new(), map: false }
    }

    /// A body of this block; `index` when there may be several instances of it.
    pub(super) fn within(&self, block: &str, index: Option<String>) -> Self {
        let document = frame(block, "input");
        let indexes = self.indexes.iter().cloned().chain(index).collect();
        Self { default: document.clone(), document, indexes, map: self.map }
    }
}

/// What comes to a state.
pub(super) struct Arrival {
    pub scope: Scope,
    /// What its first node is given when it has no `input`.
    pub default: String,
}

/// A way that leaves a state.
#[derive(Clone)]
pub(super) struct Exit {
    /// The last node.
    pub from: String,
    pub way: Way,
    /// The document, as an expression to which `.a` may be added.
    pub document: String,
    /// The state it leads to; none at an end.
    pub to: Option<String>,
}

impl Exit {
    /// The way on from a state that is done.
    pub(super) fn of(state: &State<'_>, stage: Stage) -> Self {
        Self { from: stage.at, way: Way::default(), document: stage.document, to: state.next().map(str::to_owned) }
    }
}

/// States among which something is to be made of the ways: all of a machine, or those of a loop.
struct Region<'r, 'm> {
    machine: &'r Machine<'m>,
    states: BTreeSet<&'m str>,
    start: &'m str,
    /// A way to the start leaves it.
    repeats: bool,
}

impl<'m> Region<'_, 'm> {
    /// Where a state may lead within it.
    fn targets(&self, state: &str) -> impl Iterator<Item = &'m str> {
        let all = self.machine.states.get(state).into_iter().flat_map(State::targets);
        all.filter(|to| self.holds(to))
    }

    fn holds(&self, to: &str) -> bool {
        self.states.contains(to) && !(self.repeats && to == self.start)
    }

    /// The states that the start leads to, in groups that lead to each other in circles; a group comes after those
    /// that lead to it.
    fn groups(&self) -> Vec<Group<'m>> {
        let mut into: BTreeMap<&str, Vec<&'m str>> = BTreeMap::new();
        let mut seen = BTreeSet::from([self.start]);
        // each state with those that it leads to and that are still to be seen
        let mut open = vec![(self.start, self.targets(self.start).collect::<Vec<_>>())];
        let mut done = Vec::new();
        while let Some((state, left)) = open.last_mut() {
            let state = *state;
            match left.pop() {
                None => {
                    done.push(state);
                    open.pop();
                }
                Some(to) => {
                    into.entry(to).or_default().push(state);
                    if seen.insert(to) {
                        open.push((to, self.targets(to).collect()));
                    }
                }
            }
        }
        let before = |state: &str| into.get(state).into_iter().flatten().copied();
        let mut groups = Vec::new();
        let mut grouped = BTreeSet::new();
        for state in done.into_iter().rev() {
            let mut states = BTreeSet::new();
            let mut open = vec![state];
            while let Some(state) = open.pop() {
                if grouped.insert(state) {
                    states.insert(state);
                    open.extend(before(state));
                }
            }
            let entered = |state: &&&str| **state == self.start || before(state).any(|from| !states.contains(from));
            let entries = states.iter().filter(entered).copied().collect();
            let repeats = states.iter().any(|state| before(state).any(|from| states.contains(from)));
            if !states.is_empty() {
                groups.push(Group { states, entries, repeats });
            }
        }
        groups
    }
}

/// States that lead to each other, or one alone.
struct Group<'m> {
    states: BTreeSet<&'m str>,
    /// Those to which something else leads.
    entries: Vec<&'m str>,
    /// A state of it leads to another, or to itself.
    repeats: bool,
}

impl Translation {
    /// The graph of a machine. `first` is what its start is given, where that is not what its body is given: the
    /// node that makes it.
    pub(super) fn body(&mut self, machine: &Machine<'_>, around: &Around, first: Option<(String, Value)>) -> Graph {
        let states: BTreeSet<&str> = machine.states.keys().copied().collect();
        let region = Region { machine, states, start: machine.start, repeats: false };
        let reached: BTreeSet<&str> = region.groups().into_iter().flat_map(|group| group.states).collect();
        for state in machine.states.keys().filter(|state| !reached.contains(*state)) {
            self.refuse(state, "no state leads to it");
        }
        let mut graph = Graph::default();
        let mut begin = None;
        let mut around = around.clone();
        if let Some((id, made)) = first {
            graph.set(&id, made);
            around.document = output(&id);
            around.default.clone_from(&around.document);
            begin = Some(id);
        }
        let mut ends = self.region(&region, &around, begin.as_deref(), &mut graph);
        let document = match (ends.pop(), ends.is_empty()) {
            (None, _) => return graph, // all ways end in a Fail
            (Some(only), true) => {
                if graph.only_sink() == Some(&only.from) && only.document == output(&only.from) {
                    return graph;
                }
                only.document
            }
            (Some(last), false) => {
                ends.push(last);
                let id = self.id(&self.node(machine.start), "end");
                let end = self.meet(id, &ends, &mut graph);
                if graph.only_sink() == Some(&end) {
                    return graph;
                }
                output(&end)
            }
        };
        graph.output = Some(template(&document));
        graph
    }

    /// Adds the states of a region; the ways that leave it.
    fn region(
        &mut self,
        region: &Region<'_, '_>,
        around: &Around,
        begin: Option<&str>,
        graph: &mut Graph,
    ) -> Vec<Exit> {
        let mut leaving = Vec::new();
        let mut waiting: BTreeMap<String, Vec<Exit>> = BTreeMap::new();
        for group in region.groups() {
            let head = match group.entries.as_slice() {
                [state] => *state,
                entries => {
                    let states: Vec<_> = group.states.iter().take(20).map(|state| format!("\"{state}\"")).collect();
                    for entry in entries {
                        let reason = "is entered at several states: a loop here begins at one";
                        self.refuse(entry, format!("the loop of {} {reason}", states.join(", ")));
                    }
                    continue;
                }
            };
            let Some(state) = region.machine.states.get(head) else { continue };
            let ways = waiting.remove(head).unwrap_or_default();
            let (arrival, before) = self.arrive(state, ways, head == region.start, around, begin, graph);
            let (entry, exits) = match group.repeats {
                false => self.state(state, &arrival, around, graph),
                true => {
                    let region = Region { machine: region.machine, states: group.states, start: head, repeats: true };
                    self.repeat(&region, &arrival, around, graph)
                }
            };
            if let Some((from, way)) = before {
                graph.edge(&from, &way, &entry);
            }
            for exit in exits {
                match &exit.to {
                    Some(to) if region.holds(to) => waiting.entry(to.clone()).or_default().push(exit),
                    _ => leaving.push(exit),
                }
            }
        }
        leaving
    }

    /// What comes to a state or a loop, and what leads to its first node.
    fn arrive(
        &mut self,
        state: &State<'_>,
        mut ways: Vec<Exit>,
        starts: bool,
        around: &Around,
        begin: Option<&str>,
        graph: &mut Graph,
    ) -> (Arrival, Option<(String, Way)>) {
        let (document, default, before) = if starts {
            let before = begin.map(|begin| (begin.to_owned(), Way::default()));
            (around.document.clone(), around.default.clone(), before)
        } else if ways.len() > 1 {
            let id = self.id(&self.node(state.name), "input");
            let id = self.meet(id, &ways, graph);
            (output(&id), output(&id), Some((id, Way::default())))
        } else {
            match ways.pop() {
                Some(way) => (way.document, output(&way.from), Some((way.from, way.way))),
                None => ("none".to_owned(), String::new(), None), // refused already
            }
        };
        let scope =
            Scope { state: state.name.to_owned(), map: around.map, jsonata: state.jsonata, ..Scope::of(&document) };
        (Arrival { scope, default }, before)
    }

    /// The node of this id in which several ways meet, of which one is taken: it gives the document of that one.
    fn meet(&mut self, id: String, ways: &[Exit], graph: &mut Graph) -> String {
        for way in ways {
            if way.document == output(&way.from) {
                graph.edge(&way.from, &way.way, &id);
            } else {
                let through = self.id(&way.from, "to");
                graph.set(&through, template(&way.document));
                graph.edge(&way.from, &way.way, &through);
                graph.follow(&through, &id);
            }
        }
        // of an object of the completed predecessors' outputs by id, which has one
        graph.set(&id, template("(input|items|first)[1]"));
        id
    }

    /// A loop as a `while`.
    fn repeat(
        &mut self,
        region: &Region<'_, '_>,
        arrival: &Arrival,
        around: &Around,
        graph: &mut Graph,
    ) -> (String, Vec<Exit>) {
        let head = region.start;
        let id = self.id(&self.node(head), "loop");
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            self.refuse(head, format!("loops are nested more than {MAX_DEPTH} levels deep"));
            self.depth -= 1;
            return (id, Vec::new());
        }
        let inside = around.within(&id, Some(frame(&id, "index")));
        let inside = Around { document: format!("{}.document", frame(&id, "input")), ..inside };
        let mut body = Graph::default();
        let leaving = self.region(region, &inside, None, &mut body);
        let targets: BTreeSet<Option<String>> = leaving.iter().map(|exit| exit.to.clone()).collect();
        let mut ends = Vec::new();
        for exit in leaving {
            let end = self.id(&exit.from, "next");
            body.set(&end, json!({"next": exit.to, "document": template(&exit.document)}));
            body.edge(&exit.from, &exit.way, &end);
            ends.push(Exit { document: output(&end), from: end, way: Way::default(), to: None });
        }
        let end = match ends.as_slice() {
            [] => None,
            [only] => Some(only.from.clone()),
            several => {
                let end = self.id(&id, "end");
                Some(self.meet(end, several, &mut body))
            }
        };
        if let Some(end) = end.filter(|end| body.only_sink() != Some(end)) {
            body.output = Some(template(&output(&end)));
        }
        graph.nodes.push(json!({
            "id": id, "type": "while", "when": format!("input.next == {}", literal(head)), "max_iterations": MAX_ITERATIONS,
            "input": {"next": head, "document": template(&arrival.scope.document)}, "body": body.value()
        }));
        self.depth -= 1;
        let next = format!("{}.next", output(&id));
        let targets: Vec<_> = targets.into_iter().filter(|to| to.as_deref() != Some(head)).collect();
        let exit = |to: &Option<String>| {
            let when = match to {
                _ if targets.len() == 1 => None,
                Some(to) => Some(format!("{next} == {}", literal(to))),
                None => Some(format!("{next} is none")),
            };
            Exit {
                from: id.clone(),
                way: Way { failure: false, when },
                document: format!("{}.document", output(&id)),
                to: to.clone(),
            }
        };
        let exits = targets.iter().map(exit).collect();
        (id.clone(), exits)
    }
}
