//! Parents as spans name them, and the numbers that storage derives (traceql, tree numbering).

use crate::traceql::ast::Relation;
use crate::traceql::testing::TestTrace;
use crate::traceql::types::Kind;

pub(super) struct Tree {
    parents: Vec<Option<usize>>,
    is_root: Vec<bool>,
    /// No root, or an id that more than two spans share: nothing is related.
    is_unrelated: bool,
}

#[derive(Default, Clone, Copy)]
pub(super) struct Numbers {
    pub(super) left: i64,
    pub(super) right: i64,
    /// Left number of the parent.
    pub(super) parent: i64,
}

impl Tree {
    pub(super) fn new(trace: &TestTrace) -> Self {
        let spans = &trace.spans;
        let with_id = |id| spans.iter().enumerate().filter(move |(_, span)| span.id == id);
        let is_root: Vec<bool> = spans.iter().map(|span| span.parent.is_none()).collect();
        let is_crowded = spans.iter().any(|span| with_id(span.id).count() > 2);
        let parent_of = |index: usize| {
            let candidates: Vec<_> = with_id(spans[index].parent).collect();
            match candidates.as_slice() {
                [] => None,
                [(only, _)] => Some(*only),
                several => {
                    let is_server = spans[index].kind == Kind::Server.to_otlp();
                    let wanted = if is_server { Kind::Client } else { Kind::Server };
                    several.iter().find(|(_, span)| span.kind == wanted.to_otlp()).map(|(parent, _)| *parent)
                }
            }
        };
        let parents = (0..spans.len()).map(|index| if is_root[index] { None } else { parent_of(index) }).collect();
        Self { parents, is_unrelated: is_crowded || !is_root.contains(&true), is_root }
    }

    /// The span and its ancestors up to a root; empty if it leads to none.
    pub(super) fn path(&self, span: usize) -> Vec<usize> {
        let mut path = vec![span];
        while let Some(parent) = self.parents[path[path.len() - 1]] {
            if path.contains(&parent) {
                return Vec::new();
            }
            path.push(parent);
        }
        if self.is_unrelated || !self.is_root[path[path.len() - 1]] { Vec::new() } else { path }
    }

    /// Whether `l RELATION r`, as in `{ l } > { r }`.
    pub(super) fn relates(&self, relation: Relation, l: usize, r: usize) -> bool {
        match relation {
            Relation::Child => self.path(r).get(1) == Some(&l),
            Relation::Parent => self.relates(Relation::Child, r, l),
            Relation::Descendant => self.path(r).iter().skip(1).any(|ancestor| *ancestor == l),
            Relation::Ancestor => self.relates(Relation::Descendant, r, l),
            Relation::Sibling => {
                l != r && !self.path(l).is_empty() && !self.path(r).is_empty() && self.path(l).get(1) == self.path(r).get(1)
            }
        }
    }

    pub(super) fn child_count(&self, span: usize) -> i64 {
        if self.is_unrelated { 0 } else { self.parents.iter().filter(|parent| **parent == Some(span)).count() as i64 }
    }

    pub(super) fn numbers(&self, span: usize) -> Numbers {
        let mut numbers = vec![Numbers::default(); self.parents.len()];
        let mut counter = 1;
        if !self.is_unrelated {
            (0..self.parents.len()).filter(|root| self.is_root[*root]).for_each(|root| self.enter(root, -1, &mut counter, &mut numbers));
        }
        numbers[span]
    }

    fn enter(&self, span: usize, parent: i64, counter: &mut i64, numbers: &mut [Numbers]) {
        let left = *counter;
        *counter += 1;
        for child in (0..self.parents.len()).filter(|child| self.parents[*child] == Some(span)) {
            self.enter(child, left, counter, numbers);
        }
        numbers[span] = Numbers { left, right: *counter, parent };
        *counter += 1;
    }
}
