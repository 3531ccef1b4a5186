//! Series: what metrics evaluation gives, and what travels between its stages.
//!
//! Between stages a missing sample of a count is 0 and any other missing sample is "no value"; [`super::FinalStage`] fills in the zeros.
//! Values of labels are strings, ints, floats, booleans or nil: other values become text where series are made, so a series means the same
//! before and after it was sent. On the wire nil is the string `nil`.

use std::cmp::Ordering;
use std::fmt::{self, Display, Formatter, Write};
use std::sync::Arc;

use crate::traceql::print::go_float;
use crate::traceql::types::Static;

/// Function name, of series without grouping.
pub const NAME_LABEL: &str = "__name__";
/// Upper bound of a histogram bucket.
pub const BUCKET_LABEL: &str = "__bucket";
/// The quantile of a `quantile_over_time` series.
pub const QUANTILE_LABEL: &str = "p";
/// What kind of helper series this is: [`COUNT_META`] or one of those of `compare()`.
pub const META_LABEL: &str = "__meta_type";
/// [`META_LABEL`] of the weights that belong to the series of `avg_over_time` without it.
pub const COUNT_META: &str = "__count";
/// Which sub-query of an arithmetic expression this belongs to.
pub const FRAGMENT_LABEL: &str = "__query_fragment";
/// The trace an exemplar was taken from.
pub const TRACE_ID_LABEL: &str = "trace:id";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Label {
    pub name: Arc<str>,
    pub value: Static,
}

/// Labels of a series in the order of the grouping, which is part of the identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Labels(Vec<Label>);

impl Labels {
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the only label `name`.
    pub fn single(name: &str, value: Static) -> Self {
        Self(vec![Label { name: name.into(), value }])
    }

    pub fn push(&mut self, name: impl Into<Arc<str>>, value: Static) {
        self.0.push(Label { name: name.into(), value });
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Label> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the value of label `name`.
    pub fn get(&self, name: &str) -> Option<&Static> {
        self.0.iter().find(|label| &*label.name == name).map(|label| &label.value)
    }

    /// Removes label `name` and returns its value.
    pub fn remove(&mut self, name: &str) -> Option<Static> {
        let at = self.0.iter().position(|label| &*label.name == name)?;
        Some(self.0.remove(at).value)
    }

    /// Returns what identifies the series in arithmetic and ties: all labels but [`NAME_LABEL`] and [`FRAGMENT_LABEL`].
    pub fn key(&self) -> Self {
        let is_part = |label: &&Label| &*label.name != NAME_LABEL && &*label.name != FRAGMENT_LABEL;
        Self(self.0.iter().filter(is_part).cloned().collect())
    }

    /// Orders series of a response: by number of labels, then label by label by name and by the textual form of the typed value.
    pub fn response_order(&self, other: &Self) -> Ordering {
        let by_label = |(a, b): (&Label, &Label)| a.name.as_bytes().cmp(b.name.as_bytes()).then_with(|| by_text(&a.value, &b.value));
        let by_labels = || self.0.iter().zip(&other.0).map(by_label).find(|order| order.is_ne()).unwrap_or(Ordering::Equal);
        self.len().cmp(&other.len()).then_with(by_labels)
    }

    /// Orders keys for ties of `topk` and `bottomk`: the greater one counts as the larger series. Label by label the earlier text and then the
    /// earlier name is greater, then decide the type and the number.
    pub fn tie_order(&self, other: &Self) -> Ordering {
        fn at(labels: &Labels, index: usize) -> (&str, &Static) {
            labels.0.get(index).map_or(("", &Static::Nil), |label| (&label.name, &label.value))
        }
        for index in 0..self.len().max(other.len()) {
            let ((left_name, left), (right_name, right)) = (at(self, index), at(other, index));
            let by_text = text_of(right).as_bytes().cmp(text_of(left).as_bytes());
            let by_name = || right_name.as_bytes().cmp(left_name.as_bytes());
            let order = by_text.then_with(by_name).then_with(|| type_and_code(left).cmp(&type_and_code(right)));
            if order.is_ne() {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Heap bytes held, texts included although they may be shared.
    pub fn memory_bytes(&self) -> usize {
        self.0.capacity() * size_of::<Label>() + self.0.iter().map(|label| text_of(&label.value).len()).sum::<usize>()
    }
}

impl FromIterator<Label> for Labels {
    fn from_iter<I: IntoIterator<Item = Label>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

impl Display for Labels {
    /// Sorted by name, as Prometheus writes them: `{kind="client", "span.foo"="int(7)"}`.
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut labels: Vec<&Label> = self.0.iter().collect();
        labels.sort_by(|a, b| a.name.cmp(&b.name));
        f.write_char('{')?;
        for (at, label) in labels.iter().enumerate() {
            if at > 0 {
                f.write_str(", ")?;
            }
            if is_plain(&label.name) {
                f.write_str(&label.name)?;
            } else {
                write_quoted(f, &label.name)?;
            }
            f.write_char('=')?;
            match &label.value {
                Static::Nil => f.write_str("\"<nil>\"")?,
                Static::String(text) => match &**text {
                    "" => f.write_str("\"<empty>\"")?,
                    "nil" => f.write_str("\"<nil>\"")?,
                    text => write_quoted(f, text)?,
                },
                Static::Int(value) => write!(f, "\"int({value})\"")?,
                value => write!(f, "\"{value}\"")?,
            }
        }
        f.write_char('}')
    }
}

fn is_plain(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.is_empty()
}

fn write_quoted(f: &mut Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => f.write_str("\\\"")?,
            '\\' => f.write_str("\\\\")?,
            '\n' => f.write_str("\\n")?,
            _ => f.write_char(c)?,
        }
    }
    f.write_char('"')
}

/// Returns the value a label has once it was sent: durations, statuses and kinds are text, arrays nil. The text `nil` cannot be told from nil.
pub(super) fn label_value(value: Static) -> Static {
    match value {
        Static::Duration(_) | Static::Status(_) | Static::Kind(_) => Static::string(value.to_string()),
        Static::String(text) if &*text == "nil" => Static::Nil,
        Static::IntArray(_) | Static::FloatArray(_) | Static::StringArray(_) | Static::BoolArray(_) => Static::Nil,
        Static::Nil | Static::Int(_) | Static::Float(_) | Static::String(_) | Static::Bool(_) => value,
    }
}

/// Orders values as their protobuf texts: the name of the field first.
fn by_text(a: &Static, b: &Static) -> Ordering {
    fn rank(value: &Static) -> u8 {
        match value {
            Static::Bool(_) => 0,
            Static::Float(_) => 1,
            Static::Int(_) => 2,
            _ => 3,
        }
    }
    rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
        (Static::String(a), Static::String(b)) => a.as_bytes().cmp(b.as_bytes()),
        (Static::Float(a), Static::Float(b)) => go_float(*a).cmp(&go_float(*b)),
        (Static::String(a), b) => a.as_bytes().cmp(b.to_string().as_bytes()),
        (a, Static::String(b)) => a.to_string().as_bytes().cmp(b.as_bytes()),
        (a, b) => a.to_string().cmp(&b.to_string()),
    })
}

fn text_of(value: &Static) -> &str {
    if let Static::String(text) = value { text } else { "" }
}

/// The compatible system's numbers of types, in order, and of values.
fn type_and_code(value: &Static) -> (u8, u64) {
    match value {
        Static::Int(value) => (1, *value as u64),
        Static::Float(value) => (2, value.to_bits()),
        Static::String(_) => (3, 0),
        Static::Bool(value) => (4, u64::from(*value)),
        _ => (0, 0),
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    pub timestamp_ms: i64,
    pub value: f64,
}

/// A span that stands for the samples around it.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// Attributes of the span by their canonical names, and [`TRACE_ID_LABEL`].
    pub labels: Labels,
    /// Start of the span.
    pub timestamp_ms: i64,
    /// NaN: take the value of the sample of the same interval.
    pub value: f64,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Series {
    pub labels: Labels,
    /// In order of time; no value is NaN.
    pub samples: Vec<Sample>,
    /// In order of time.
    pub exemplars: Vec<Exemplar>,
}

/// What one stage hands to the next.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct SeriesSet {
    pub series: Vec<Series>,
    /// A limit was reached, so that series or spans are missing.
    pub partial: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, Static)]) -> Labels {
        pairs.iter().map(|(name, value)| Label { name: (*name).into(), value: value.clone() }).collect()
    }

    #[test]
    fn prints_as_prometheus_does() {
        let all = labels(&[
            ("span.\"a b\"", Static::string("x\"y")),
            ("kind", Static::string("client")),
            ("n", Static::Int(7)),
            ("e", Static::string("")),
            ("z", Static::Nil),
            ("p", Static::Float(2.0)),
        ]);
        assert_eq!(all.to_string(), r#"{e="<empty>", kind="client", n="int(7)", p="2.0", "span.\"a b\""="x\"y", z="<nil>"}"#);
    }

    #[test]
    fn responses_order_by_count_name_and_text() {
        let mut all = [
            labels(&[("b", Static::Int(10))]),
            labels(&[("b", Static::Int(9))]),
            labels(&[("b", Static::string("a"))]),
            labels(&[("b", Static::Bool(true))]),
            labels(&[("a", Static::string("x")), ("b", Static::Nil)]),
            labels(&[("b", Static::Float(0.5))]),
            labels(&[("a", Static::string("z"))]),
        ];
        all.sort_by(Labels::response_order);
        let texts: Vec<String> = all.iter().map(Labels::to_string).collect();
        assert_eq!(
            texts,
            [r#"{a="z"}"#, r#"{b="true"}"#, r#"{b="0.5"}"#, r#"{b="int(10)"}"#, r#"{b="int(9)"}"#, r#"{b="a"}"#, r#"{a="x", b="<nil>"}"#]
        );
    }

    #[test]
    fn earlier_texts_win_ties() {
        let of = |value: Static| labels(&[("a", value)]);
        assert!(of(Static::string("client")).tie_order(&of(Static::string("server"))).is_gt());
        assert!(of(Static::Int(7)).tie_order(&of(Static::Int(3))).is_gt());
        assert!(of(Static::Int(7)).tie_order(&of(Static::string("x"))).is_gt());
        assert!(labels(&[("b", Static::Int(1))]).tie_order(&of(Static::Int(1))).is_lt());
    }
}
