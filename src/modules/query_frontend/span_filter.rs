//! Which spans of a trace to show around the matches of a filter (http-api §6.2: `keep_hierarchy`, `match_depth`, `ancestor_depth`).

use std::collections::HashMap;
use std::ops::Range;

use crate::model::ids::SpanId;
use crate::model::span_table::SpanTable;

use super::request::SpanFilterParams;

/// Returns for each span of `range` whether it is shown, given which ones `matched`. Cost is linear in the number of spans.
pub(super) fn shown_spans(table: &SpanTable, range: Range<usize>, matched: &[bool], params: &SpanFilterParams) -> Vec<bool> {
    let parents = parent_indexes(table, range);
    let mut shown = matched.to_vec();
    if params.match_depth != Some(0) {
        keep_descendants(&parents, matched, params.match_depth, &mut shown);
    }
    if params.keep_hierarchy {
        keep_ancestors(&parents, matched, params.ancestor_depth, &mut shown);
    }
    shown
}

/// Index of each span's parent within the range, if it is there.
fn parent_indexes(table: &SpanTable, range: Range<usize>) -> Vec<Option<usize>> {
    let by_id: HashMap<SpanId, usize> = range.clone().enumerate().map(|(index, span)| (table.spans.span_id[span], index)).collect();
    let parent = |(index, span): (usize, usize)| {
        let id = table.spans.parent_span_id[span];
        if id.is_none() { None } else { by_id.get(&id).copied().filter(|parent| *parent != index) }
    };
    range.enumerate().map(parent).collect()
}

/// Walks up from each match until a walk that came at least as far from there; cycles end at the same rule.
fn keep_ancestors(parents: &[Option<usize>], matched: &[bool], depth: Option<u32>, shown: &mut [bool]) {
    // Levels above a span that an earlier walk has already covered, plus one.
    let mut covered = vec![0u64; parents.len()];
    for start in (0..parents.len()).filter(|index| matched[*index]) {
        let mut left = depth.map_or(u64::from(u32::MAX), u64::from);
        let mut at = start;
        while covered[at] <= left {
            covered[at] = left + 1;
            shown[at] = true;
            let Some(parent) = parents[at] else { break };
            if left == 0 {
                break;
            }
            left -= if depth.is_some() { 1 } else { 0 };
            at = parent;
        }
    }
}

fn keep_descendants(parents: &[Option<usize>], matched: &[bool], depth: Option<u32>, shown: &mut [bool]) {
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); parents.len()];
    for (index, parent) in parents.iter().enumerate() {
        if let Some(parent) = parent {
            children[*parent].push(index);
        }
    }
    // Breadth first from all matches at once, so each span is met first at its smallest distance.
    let mut seen = matched.to_vec();
    let mut level: Vec<usize> = (0..parents.len()).filter(|index| matched[*index]).collect();
    let mut left = depth;
    while !level.is_empty() && left != Some(0) {
        left = left.map(|left| left - 1);
        let mut next = Vec::new();
        for child in level.into_iter().flat_map(|parent| std::mem::take(&mut children[parent])) {
            if !std::mem::replace(&mut seen[child], true) {
                shown[child] = true;
                next.push(child);
            }
        }
        level = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chain 1 > 2 > 3 > 4 > 5 and a second child 6 of 3; the match is 3. Spans 7 and 8 are each other's parent.
    fn shown(keep_hierarchy: bool, ancestor_depth: Option<u32>, match_depth: Option<u32>, matches: &[u64]) -> Vec<u64> {
        let rows = [(1, 0), (2, 1), (3, 2), (4, 3), (5, 4), (6, 3), (7, 8), (8, 7)];
        let mut table = SpanTable::default();
        for (span, parent) in rows {
            table.spans.span_id.push(SpanId(u64::to_be_bytes(span)));
            table.spans.parent_span_id.push(SpanId(u64::to_be_bytes(parent)));
        }
        let matched: Vec<bool> = rows.iter().map(|(span, _)| matches.contains(span)).collect();
        let params = SpanFilterParams { query: String::new(), keep_hierarchy, match_depth, ancestor_depth };
        let shown = shown_spans(&table, 0..rows.len(), &matched, &params);
        rows.iter().zip(shown).filter(|(_, shown)| *shown).map(|((span, _), _)| *span).collect()
    }

    #[test]
    fn hierarchy_is_kept_as_far_as_asked() {
        assert_eq!(shown(false, None, Some(0), &[3]), [3]);
        assert_eq!(shown(true, None, Some(0), &[3]), [1, 2, 3]);
        assert_eq!(shown(true, Some(1), Some(0), &[3]), [2, 3]);
        assert_eq!(shown(false, None, Some(1), &[3]), [3, 4, 6]);
        assert_eq!(shown(true, Some(0), None, &[3]), [3, 4, 5, 6]);
        assert_eq!(shown(true, Some(1), Some(0), &[3, 5]), [2, 3, 4, 5]);
        assert_eq!(shown(true, None, None, &[7]), [7, 8]);
    }
}
