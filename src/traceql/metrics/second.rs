//! What is done with the series of a query in the end: quantiles, second stages, and arithmetic (metrics, combination).

use std::collections::HashMap;

use foldhash::fast::FixedState;

use super::accumulate::Accumulator;
use super::exemplars::Exemplars;
use super::series::{BUCKET_LABEL, Exemplar, Label, Labels, NAME_LABEL, QUANTILE_LABEL};
use super::window::{NANOS_PER_MILLI, Window};
use crate::traceql::ast::{ArithmeticOp, ComparisonOp, SecondStage};
use crate::traceql::types::{Static, float_arithmetic};

/// A series with a value for each interval, NaN for none.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) labels: Labels,
    pub(super) values: Vec<f64>,
    pub(super) exemplars: Vec<Exemplar>,
}

impl Row {
    fn has_values(&self) -> bool {
        self.values.iter().any(|value| !value.is_nan())
    }

    /// Gives exemplars without a value that of their interval; those in intervals without one, or outside of the window, go.
    pub(super) fn place_exemplars(&mut self, window: &Window) {
        let values = &self.values;
        self.exemplars.retain_mut(|exemplar| {
            let nanos = u64::try_from(exemplar.timestamp_ms).unwrap_or(0).saturating_mul(NANOS_PER_MILLI);
            // the time of an exemplar is cut to milliseconds
            if nanos.saturating_add(NANOS_PER_MILLI - 1) <= window.start || nanos > window.end {
                return false;
            }
            let nanos = nanos.max(window.start.saturating_add(1));
            let value = window.interval_of(nanos).map_or(f64::NAN, |interval| values[interval]);
            if exemplar.value.is_nan() {
                exemplar.value = value;
            }
            !value.is_nan() && !exemplar.value.is_nan()
        });
    }
}

pub(super) fn apply(stage: &SecondStage, rows: &mut Vec<Row>) {
    match stage {
        SecondStage::TopK(limit) => keep_extremes(rows, usize::try_from(*limit).unwrap_or(0), true),
        SecondStage::BottomK(limit) => keep_extremes(rows, usize::try_from(*limit).unwrap_or(0), false),
        SecondStage::Filter { op, scalar } => {
            for row in rows.iter_mut() {
                row.values.iter_mut().filter(|value| !holds(*op, **value, *scalar)).for_each(|value| *value = f64::NAN);
                row.exemplars.retain(|exemplar| holds(*op, exemplar.value, *scalar));
            }
        }
    }
    rows.retain(Row::has_values);
}

/// NaN compares with nothing, not even as unequal.
fn holds(op: ComparisonOp, value: f64, scalar: f64) -> bool {
    match op {
        ComparisonOp::Eq => value == scalar,
        ComparisonOp::Ne => value != scalar && !value.is_nan(),
        ComparisonOp::Lt => value < scalar,
        ComparisonOp::Le => value <= scalar,
        ComparisonOp::Gt => value > scalar,
        ComparisonOp::Ge => value >= scalar,
    }
}

/// Keeps the `limit` largest or smallest points of each interval; the key of the series decides between equal ones.
fn keep_extremes(rows: &mut [Row], limit: usize, largest: bool) {
    if rows.len() <= limit {
        return;
    }
    let mut by_key: Vec<usize> = (0..rows.len()).collect();
    let keys: Vec<Labels> = rows.iter().map(|row| row.labels.key()).collect();
    by_key.sort_by(|a, b| keys[*a].tie_order(&keys[*b]));
    let mut rank = vec![0; rows.len()];
    by_key.iter().enumerate().for_each(|(at, row)| rank[*row] = at);
    let intervals = rows.first().map_or(0, |row| row.values.len());
    let mut points: Vec<(f64, usize)> = Vec::with_capacity(rows.len());
    for interval in 0..intervals {
        points.clear();
        points.extend(rows.iter().enumerate().map(|(at, row)| (row.values[interval], at)).filter(|(value, _)| !value.is_nan()));
        if points.len() <= limit {
            continue;
        }
        points.select_nth_unstable_by(limit, |(a, a_row), (b, b_row)| {
            // zeros of both signs are equal
            let order = (a + 0.0).total_cmp(&(b + 0.0)).then(rank[*a_row].cmp(&rank[*b_row]));
            if largest { order.reverse() } else { order }
        });
        points[limit..].iter().for_each(|(_, row)| rows[*row].values[interval] = f64::NAN);
    }
}

/// Applies `value OP scalar`, or `scalar OP value`, to all points and exemplars.
pub(super) fn with_scalar(rows: &mut Vec<Row>, compute: impl Fn(f64) -> f64) {
    for row in rows.iter_mut() {
        row.values.iter_mut().for_each(|value| *value = compute(*value));
        row.exemplars.iter_mut().for_each(|exemplar| exemplar.value = compute(exemplar.value));
        row.exemplars.retain(|exemplar| !exemplar.value.is_nan());
    }
    rows.retain(Row::has_values);
}

/// Division by zero has no value.
pub(super) fn arithmetic(op: ArithmeticOp, a: f64, b: f64) -> f64 {
    if op == ArithmeticOp::Div && b == 0.0 { f64::NAN } else { float_arithmetic(op, a, b) }
}

/// Combines series of equal keys; one without grouping on either side meets all of the other.
pub(super) fn combine(op: ArithmeticOp, left: Vec<Row>, right: Vec<Row>) -> Vec<Row> {
    let index = |rows: &[Row]| {
        let mut index: HashMap<Labels, usize, FixedState> = HashMap::default();
        rows.iter().enumerate().for_each(|(at, row)| {
            index.entry(row.labels.key()).or_insert(at);
        });
        index
    };
    let (of_left, of_right) = (index(&left), index(&right));
    let everywhere = Labels::new();
    let driving = if of_right.contains_key(&everywhere) { &of_left } else { &of_right };
    let mut keys: Vec<(&Labels, usize)> = driving.iter().map(|(key, at)| (key, *at)).collect();
    keys.sort_unstable_by_key(|(_, at)| *at);
    let mut combined = Vec::with_capacity(keys.len());
    for (key, _) in keys {
        let side = |index: &HashMap<Labels, usize, FixedState>| match index.get(key) {
            Some(at) => Some((*at, false)),
            None => index.get(&everywhere).map(|at| (*at, true)),
        };
        if let (Some((l, l_fans_out)), Some((r, r_fans_out))) = (side(&of_left), side(&of_right)) {
            let (l, r) = (&left[l], &right[r]);
            let values = l.values.iter().zip(&r.values).map(|(a, b)| arithmetic(op, *a, *b)).collect();
            let from = |row: &Row, fans_out: bool, other: bool| if fans_out && !other { Vec::new() } else { row.exemplars.clone() };
            let mut exemplars = from(l, l_fans_out, r_fans_out);
            exemplars.extend(from(r, r_fans_out, l_fans_out));
            combined.push(Row { labels: combined_labels(op, &l.labels, &r.labels), values, exemplars });
        }
    }
    combined.retain(Row::has_values);
    combined
}

/// All labels of the left side, then those that only the right has. The names of functions become an expression if both sides have one.
fn combined_labels(op: ArithmeticOp, left: &Labels, right: &Labels) -> Labels {
    let name = match (left.get(NAME_LABEL), right.get(NAME_LABEL)) {
        (Some(Static::String(left)), Some(Static::String(right))) => Some(Static::string(format!("({left} {op} {right})"))),
        _ => None,
    };
    let is_new = |label: &&Label| left.get(&label.name).is_none();
    let all = left.iter().chain(right.iter().filter(is_new));
    let rename = |label: &Label| match (&*label.name, &name) {
        (NAME_LABEL, Some(name)) => Some(Label { name: label.name.clone(), value: name.clone() }),
        (NAME_LABEL, None) => None,
        _ => Some(label.clone()),
    };
    all.filter_map(rename).collect()
}

/// Bounds of the buckets of a group with their rows, ascending.
type Buckets = Vec<(f64, u32)>;

/// Returns a series per group and quantile. Groups that do not fit into `max_rows` series are left out, the first in the order of responses
/// stay; says whether any was.
pub(super) fn quantiles(series: &Accumulator, exemplars: &Exemplars, quantiles: &[f64], max_rows: usize) -> (Vec<Row>, bool) {
    let mut groups: Vec<(Labels, Buckets)> = Vec::new();
    let mut group_of: HashMap<Labels, usize, FixedState> = HashMap::default();
    for (labels, row) in series.sorted() {
        let mut labels = labels.clone();
        let Some(bound) = labels.remove(BUCKET_LABEL).and_then(|bound| bound.as_f64()) else { continue };
        let group = *group_of.entry(labels).or_insert_with_key(|labels| {
            groups.push((labels.clone(), Buckets::new()));
            groups.len() - 1
        });
        groups[group].1.push((bound, row));
    }
    groups.sort_by(|(a, _), (b, _)| a.response_order(b));
    let kept = groups.len().min(max_rows / quantiles.len().max(1));
    let is_cut = kept < groups.len();
    groups.truncate(kept);
    let mut places: HashMap<u32, usize, FixedState> = HashMap::default();
    let mut rows = Vec::with_capacity(kept * quantiles.len());
    for (labels, buckets) in &mut groups {
        buckets.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        buckets.iter().for_each(|(_, row)| {
            places.insert(*row, rows.len());
        });
        rows.extend(quantiles.iter().map(|quantile| quantile_row(series, labels, buckets, *quantile)));
    }
    place_by_quantile(series, exemplars, quantiles, &places, &mut rows);
    (rows, is_cut)
}

fn quantile_row(series: &Accumulator, labels: &Labels, buckets: &Buckets, quantile: f64) -> Row {
    let mut is_used = vec![false; series.window().intervals()];
    for (_, row) in buckets {
        series.used_intervals(*row).for_each(|interval| is_used[interval] = true);
    }
    let mut counts = Vec::with_capacity(buckets.len());
    let mut value = |interval: usize| {
        counts.clear();
        counts.extend(buckets.iter().map(|(bound, row)| (*bound, series.value(*row, interval))));
        quantile_of(&counts, quantile)
    };
    let values = is_used.iter().enumerate().map(|(interval, is_used)| if *is_used { value(interval) } else { 0.0 }).collect();
    let mut labels = labels.clone();
    labels.push(QUANTILE_LABEL, Static::Float(quantile));
    Row { labels, values, exemplars: Vec::new() }
}

/// Gives each exemplar to the quantile of its group whose value over the whole window, and all groups, is closest to its own.
fn place_by_quantile(
    series: &Accumulator,
    exemplars: &Exemplars,
    quantiles: &[f64],
    places: &HashMap<u32, usize, FixedState>,
    rows: &mut [Row],
) {
    let mut totals: Vec<(f64, f64)> = Vec::new();
    for (labels, row) in series.sorted() {
        if let Some(bound) = labels.get(BUCKET_LABEL).and_then(Static::as_f64) {
            match totals.iter_mut().find(|(known, _)| *known == bound) {
                Some((_, count)) => *count += series.total(row),
                None => totals.push((bound, series.total(row))),
            }
        }
    }
    totals.sort_by(|(a, _), (b, _)| a.total_cmp(b));
    let overall: Vec<f64> = quantiles.iter().map(|quantile| quantile_of(&totals, *quantile)).collect();
    for (row, exemplar) in exemplars.iter() {
        let distance = |quantile: &usize| (overall[*quantile] - exemplar.value).abs();
        let closest = (0..quantiles.len()).min_by(|a, b| distance(a).total_cmp(&distance(b)));
        if let (Some(place), Some(closest)) = (places.get(row), closest) {
            rows[place + closest].exemplars.push(exemplar.clone());
        }
    }
    rows.iter_mut().for_each(|row| row.exemplars.sort_by_key(|exemplar| exemplar.timestamp_ms));
}

/// Returns the quantile of a histogram of ascending buckets, interpolated between powers of two; 0 when it is empty.
fn quantile_of(buckets: &[(f64, f64)], quantile: f64) -> f64 {
    let buckets = || buckets.iter().map(|(bound, count)| (*bound, count.trunc())).filter(|(_, count)| *count > 0.0);
    let total: f64 = buckets().map(|(_, count)| count).sum();
    if total == 0.0 {
        return 0.0;
    }
    let wanted = (quantile * total).ceil().max(1.0);
    let (mut before, mut previous) = (0.0, None);
    for (bound, count) in buckets() {
        if before + count == wanted {
            return bound;
        }
        if before + count > wanted {
            let high = bound.log2();
            let low = previous.map_or(high - 1.0, f64::log2);
            return (low + (high - low) * ((wanted - before) / count)).exp2();
        }
        before += count;
        previous = Some(bound);
    }
    previous.unwrap_or(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_interpolate_within_powers_of_two() {
        let buckets = [(2.0, 1.0), (4.0, 2.0), (16.0, 1.0)];
        assert_eq!(quantile_of(&buckets, 0.0), 2.0);
        assert_eq!(quantile_of(&buckets, 0.5), 2_f64.powf(1.5));
        assert_eq!(quantile_of(&buckets, 0.75), 4.0);
        assert_eq!(quantile_of(&buckets, 1.0), 16.0);
        assert_eq!(quantile_of(&[(4.0, 2.0)], 0.1), 2_f64.powf(1.5));
        assert_eq!(quantile_of(&[], 0.5), 0.0);
    }

    #[test]
    fn extremes_are_chosen_per_interval() {
        let row = |name: &str, values: &[f64]| Row {
            labels: Labels::single("a", Static::string(name)),
            values: values.to_vec(),
            exemplars: Vec::new(),
        };
        let rows = || vec![row("x", &[1.0, f64::NAN]), row("y", &[1.0, 5.0]), row("z", &[0.0, -0.0])];
        let after = |stage: SecondStage| {
            let mut rows = rows();
            apply(&stage, &mut rows);
            rows.iter().map(|row| format!("{}{:?}", row.labels, row.values)).collect::<Vec<_>>()
        };
        assert_eq!(after(SecondStage::TopK(1)), [r#"{a="x"}[1.0, NaN]"#, r#"{a="y"}[NaN, 5.0]"#]);
        assert_eq!(after(SecondStage::BottomK(1)), [r#"{a="z"}[0.0, -0.0]"#]);
        assert_eq!(after(SecondStage::BottomK(9)).len(), 3);
        assert_eq!(after(SecondStage::Filter { op: ComparisonOp::Ne, scalar: 1.0 }), [r#"{a="y"}[NaN, 5.0]"#, r#"{a="z"}[0.0, -0.0]"#]);
    }
}
