//! Programs that are smaller by a node, a body or a policy.

use super::program::{Body, Kind, OnError};

/// Each program that has one thing less.
pub fn smaller(body: &Body) -> Vec<Body> {
    let mut found = Vec::new();
    if body.nodes.len() > 1 {
        found.extend((0..body.nodes.len()).map(|place| without(body, place)));
    }
    let mut with = |change: &dyn Fn(&mut Body)| {
        let mut changed = body.clone();
        change(&mut changed);
        found.push(changed);
    };
    if body.output.is_some() {
        with(&|body| body.output = None);
    }
    for place in 0..body.edges.len() {
        with(&|body| _ = body.edges.remove(place));
        if body.edges[place].when.is_some() {
            with(&|body| body.edges[place].when = None);
        }
    }
    for (place, node) in body.nodes.iter().enumerate() {
        if !matches!(node.on_error, OnError::Fail) {
            with(&|body| body.nodes[place].on_error = OnError::Fail);
        }
        if node.kind.is_block() && !node.retry.is_empty() {
            with(&|body| body.nodes[place].retry.clear());
        }
        if node.input.is_some() {
            with(&|body| body.nodes[place].input = None);
        }
        match &node.kind {
            Kind::Parallel { branches, .. } if branches.len() > 1 => {
                for at in 0..branches.len() {
                    with(&|body| {
                        if let Kind::Parallel { branches, .. } = &mut body.nodes[place].kind {
                            branches.remove(at);
                        }
                    });
                }
            }
            Kind::Try { catches, finally, .. } => {
                if finally.is_some() {
                    with(&|body| {
                        if let Kind::Try { finally, .. } = &mut body.nodes[place].kind {
                            *finally = None;
                        }
                    });
                }
                for at in 0..catches.len() {
                    with(&|body| {
                        if let Kind::Try { catches, .. } = &mut body.nodes[place].kind {
                            catches.remove(at);
                        }
                    });
                }
            }
            _ => {}
        }
    }
    for (place, node) in body.nodes.iter().enumerate() {
        for (at, inner) in node.kind.bodies().into_iter().enumerate() {
            for less in smaller(inner) {
                let mut changed = body.clone();
                if let Some(inner) = changed.nodes[place].kind.bodies_mut().into_iter().nth(at) {
                    *inner = less;
                }
                found.push(changed);
            }
        }
    }
    found
}

fn without(body: &Body, place: usize) -> Body {
    let mut less = body.clone();
    less.nodes.remove(place);
    less.edges.retain(|edge| edge.from != place && edge.to != place);
    for edge in &mut less.edges {
        edge.from -= usize::from(edge.from > place);
        edge.to -= usize::from(edge.to > place);
    }
    for (place, node) in less.nodes.iter_mut().enumerate() {
        let edges = less.edges.iter().filter(|edge| edge.to == place).count();
        node.need = if edges > 1 { node.need.min(edges) } else { 0 };
    }
    less
}
