//! The metrics examples of `testdata/traceql/examples.yaml`: what each query counts over the traces of the search examples. Run on tables, and
//! on blocks by the querier's tests.

use serde_norway::Value as Yaml;

use super::examples::EXAMPLES;
use crate::traceql::metrics::{FinalResult, Series, Window};

/// Examples with a metrics verdict.
const METRICS_EXAMPLES: usize = 55;

/// Verdicts that are defects of the compatible system, with the answers given here.
const BETTER_ANSWERS: &[(&str, &str)] = &[
    // a span without the attribute leaves a sum alone
    ("metrics-340", r#"[{labels: "{__name__=\"sum_over_time\"}", samples: {20: 13}}]"#),
];

/// An attribute that a condition names is counted once: (example, label text, what the compatible system says, what is said here).
const COUNTED_TWICE: (&str, &str, f64, f64) = ("metrics-348", "name=", 2.0, 1.0);

/// A query and what it must count.
pub(crate) struct MetricsExample {
    pub(crate) id: String,
    pub(crate) query: String,
    pub(crate) window: Window,
    expected: SeriesTexts,
}

/// Labels and samples as text and (milliseconds, value).
pub(in crate::traceql) type SeriesTexts = Vec<(String, Vec<(i64, f64)>)>;

pub(crate) fn metrics_examples() -> Vec<MetricsExample> {
    let document: Yaml = serde_norway::from_str(EXAMPLES).unwrap();
    let t0: u64 = document["fixture"]["t0_unix_seconds"].as_u64().unwrap();
    let with_verdict = document["examples"].as_sequence().unwrap().iter().filter(|example| example.get("series").is_some());
    let examples: Vec<MetricsExample> = with_verdict.map(|example| MetricsExample::new(example, t0)).collect();
    assert_eq!(examples.len(), METRICS_EXAMPLES);
    examples
}

impl MetricsExample {
    fn new(example: &Yaml, t0: u64) -> Self {
        let text = |key: &str| example[key].as_str().unwrap().to_owned();
        let expected = verdict(&text("id"), example, t0);
        Self { id: text("id"), query: text("query"), window: window_of(example, t0), expected }
    }

    /// Says how an answer differs from the verdict.
    pub(crate) fn check(&self, found: &FinalResult) -> Result<(), String> {
        let Self { id, query, expected, .. } = self;
        if !found.series.is_sorted_by(|a, b| a.labels.response_order(&b.labels).is_lt()) {
            return Err(format!("{id} {query}: {:?} are not in order", found.series));
        }
        let mut texts = series_texts(&found.series);
        texts.sort_by(|a, b| a.0.cmp(&b.0));
        if found.partial || !same_to_twelve_digits(&texts, expected) {
            return Err(format!("{id} {query}\n   found {texts:?}\nexpected {expected:?}"));
        }
        Ok(())
    }
}

pub(in crate::traceql) fn series_texts(series: &[Series]) -> SeriesTexts {
    let samples = |series: &Series| series.samples.iter().map(|sample| (sample.timestamp_ms, sample.value)).collect();
    series.iter().map(|series| (series.labels.to_string(), samples(series))).collect()
}

/// Whether the series are the same but for rounding.
pub(in crate::traceql) fn same_series(a: &SeriesTexts, b: &SeriesTexts) -> bool {
    let near = |a: f64, b: f64| a == b || (a - b).abs() <= 1e-9 * a.abs().max(b.abs());
    let samples = |a: &[(i64, f64)], b: &[(i64, f64)]| {
        a.len() == b.len() && a.iter().zip(b).all(|((a_ms, a), (b_ms, b))| a_ms == b_ms && near(*a, *b))
    };
    a.len() == b.len() && a.iter().zip(b).all(|((a_labels, a), (b_labels, b))| a_labels == b_labels && samples(a, b))
}

/// The verdicts have that many.
fn same_to_twelve_digits(a: &SeriesTexts, b: &SeriesTexts) -> bool {
    let rounded = |all: &SeriesTexts| -> SeriesTexts {
        let round = |(ms, value): &(i64, f64)| (*ms, (value * 1e11).round() / 1e11);
        all.iter().map(|(labels, samples)| (labels.clone(), samples.iter().map(round).collect())).collect()
    };
    same_series(&rounded(a), &rounded(b))
}

fn window_of(example: &Yaml, t0: u64) -> Window {
    let seconds = |key: &str, default: u64| example.get("request").map_or(default, |request| request[key].as_u64().unwrap());
    let nanos = |seconds: u64| (t0 + seconds) * 1_000_000_000;
    let (start, end, step) = (nanos(seconds("start", 0)), nanos(seconds("end", 60)), seconds("step", 20) * 1_000_000_000);
    let instant = example.get("request").is_some_and(|request| request["type"] == "instant");
    Window { start, end, step, instant }
}

fn verdict(id: &str, example: &Yaml, t0: u64) -> SeriesTexts {
    let better = BETTER_ANSWERS.iter().find(|(better, _)| *better == id).map(|(_, answer)| serde_norway::from_str::<Yaml>(answer).unwrap());
    let series = better.as_ref().unwrap_or(&example["series"]);
    let (twice_id, twice_label, wrong, right) = COUNTED_TWICE;
    let mut expected = SeriesTexts::new();
    for series in series.as_sequence().unwrap() {
        let labels = series["labels"].as_str().unwrap().to_owned();
        let samples = series["samples"].as_mapping().unwrap().iter();
        let mut samples: Vec<(i64, f64)> =
            samples.map(|(second, value)| ((t0 + second.as_u64().unwrap()) as i64 * 1_000, value.as_f64().unwrap())).collect();
        if id == twice_id && labels.contains(&format!(", {twice_label}")) {
            samples.iter_mut().filter(|(_, value)| *value == wrong).for_each(|(_, value)| *value = right);
        }
        expected.push((labels, samples));
    }
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    expected
}
