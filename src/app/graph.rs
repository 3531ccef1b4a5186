//! Which modules a target needs, in an order in which each comes after those it depends on.

use std::collections::HashMap;

/// What the graph knows of a module: its name and what it needs.
#[derive(Debug, Clone, Copy)]
pub struct Node {
    pub name: &'static str,
    pub needs: &'static [&'static str],
}

/// Why no order could be found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    #[error("unrecognised module name: {0}")]
    Unknown(String),
    #[error("module {module} needs {needed}, which does not exist")]
    MissingDependency { module: &'static str, needed: &'static str },
    #[error("modules depend on each other in a circle: {}", .0.join(" → "))]
    Cycle(Vec<&'static str>),
}

/// Returns the indices into `nodes` of `targets` and everything they need, dependencies first; ties in the order of `nodes`.
pub fn plan(nodes: &[Node], targets: &[String]) -> Result<Vec<usize>, GraphError> {
    let index: HashMap<_, _> = nodes.iter().enumerate().map(|(index, node)| (node.name, index)).collect();
    let mut walk = Walk { nodes, index, state: vec![State::Unseen; nodes.len()], path: Vec::new(), order: Vec::new() };
    for target in targets {
        let node = *walk.index.get(target.as_str()).ok_or_else(|| GraphError::Unknown(target.clone()))?;
        walk.visit(node)?;
    }
    Ok(walk.order)
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Unseen,
    OnPath,
    Done,
}

struct Walk<'a> {
    nodes: &'a [Node],
    index: HashMap<&'static str, usize>,
    state: Vec<State>,
    path: Vec<&'static str>,
    order: Vec<usize>,
}

impl Walk<'_> {
    fn visit(&mut self, at: usize) -> Result<(), GraphError> {
        let node = self.nodes[at];
        self.path.push(node.name);
        match self.state[at] {
            State::Done => {}
            State::OnPath => {
                let first = self.path.iter().position(|name| *name == node.name).unwrap_or(0);
                return Err(GraphError::Cycle(self.path.split_off(first)));
            }
            State::Unseen => {
                self.state[at] = State::OnPath;
                for needed in node.needs {
                    let next = *self.index.get(needed).ok_or(GraphError::MissingDependency { module: node.name, needed })?;
                    self.visit(next)?;
                }
                self.state[at] = State::Done;
                self.order.push(at);
            }
        }
        self.path.pop();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODES: &[Node] = &[
        Node { name: "all", needs: &["writer", "reader"] },
        Node { name: "writer", needs: &["store", "server"] },
        Node { name: "reader", needs: &["store"] },
        Node { name: "store", needs: &[] },
        Node { name: "server", needs: &[] },
    ];

    fn names(targets: &[&str]) -> Result<Vec<&'static str>, GraphError> {
        let targets: Vec<_> = targets.iter().map(|&target| target.to_owned()).collect();
        Ok(plan(NODES, &targets)?.into_iter().map(|index| NODES[index].name).collect())
    }

    #[test]
    fn dependencies_come_first_and_once() {
        assert_eq!(names(&["all"]).unwrap(), ["store", "server", "writer", "reader", "all"]);
        assert_eq!(names(&["reader", "reader"]).unwrap(), ["store", "reader"]);
    }

    #[test]
    fn unknown_names_and_circles_are_refused() {
        assert_eq!(names(&["nobody"]).unwrap_err().to_string(), "unrecognised module name: nobody");
        let circle = [Node { name: "a", needs: &["b"] }, Node { name: "b", needs: &["c"] }, Node { name: "c", needs: &["b"] }];
        assert_eq!(plan(&circle, &["a".to_owned()]), Err(GraphError::Cycle(vec!["b", "c", "b"])));
        let hole = [Node { name: "a", needs: &["b"] }];
        assert_eq!(plan(&hole, &["a".to_owned()]), Err(GraphError::MissingDependency { module: "a", needed: "b" }));
    }
}
