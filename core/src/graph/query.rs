//! What may be asked of a run: named expressions over its input, context, states and outputs.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::compile::Found;
use super::{Extra, Graph, Needs, NodeNumber, Values};
use crate::error::StepError;
use crate::expression::{self, Expression, Reference, Scope};
use crate::payload::Payload;

/// A query of a compiled version.
#[derive(Debug)]
pub struct Query {
    expression: Expression,
    needs: Needs,
    states: BTreeSet<NodeNumber>,
}

impl Query {
    pub(super) fn new(expression: Expression, numbers: &HashMap<Arc<str>, NodeNumber>) -> Self {
        let mut found = Found::new(numbers);
        found.references(expression.references(), &[]);
        let states = expression.references().iter().filter_map(|reference| match reference {
            Reference::State(id) => numbers.get(id.as_str()).copied(),
            _ => None,
        });
        Self { states: states.collect(), needs: found.needs(), expression }
    }

    /// What must be at hand to answer it.
    pub fn needs(&self) -> &Needs {
        &self.needs
    }

    /// The nodes whose states must be known.
    pub fn states(&self) -> &BTreeSet<NodeNumber> {
        &self.states
    }

    /// The answer. `run_state` and `states` are words; a node without one has not begun.
    pub fn answer(
        &self,
        graph: &Graph,
        values: &Values,
        run_state: &str,
        states: &BTreeMap<NodeNumber, String>,
    ) -> Result<Payload, StepError> {
        let find = |reference: &Reference| match reference {
            Reference::RunState => expression::Found::Text(run_state.to_owned()),
            Reference::State(id) => {
                let state = graph.number(id).and_then(|number| states.get(&number));
                state.cloned().map_or(expression::Found::Null, expression::Found::Text)
            }
            reference => graph.find(reference, values, Extra::default()),
        };
        self.expression.payload(&Scope::new(&find))
    }
}
