//! TraceQL metrics from outside: counts are those of the spans that were pushed, whether these are in memory, in blocks or on their way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use prost::Message as _;
use serde_json::Value;
use tempo_rs::proto::tempopb;
use tempo_rs::proto::tempopb::common::v1::any_value::Value as Any;
use tempo_rs::proto::tempopb::trace::v1::ResourceSpans;
use tempo_rs::proto::tempopb::trace::v1::Status;
use tempo_rs::proto::tempopb::trace::v1::span::SpanKind;
use tempo_rs::proto::tempopb::trace::v1::status::StatusCode;

use crate::client::Client;
use crate::otlp;
use crate::process::{Place, Tempo, Wishes};
use crate::wait::{SOON, eventually};

const SECOND: u64 = 1_000_000_000;
/// Time between the traces of a corpus.
const TRACE_EVERY: u64 = 10 * SECOND;
const TRACES: u64 = 60;
/// Interval of the answers.
const STEP: u64 = 60 * SECOND;

fn place(change: impl FnOnce(&mut Wishes)) -> Place {
    let place = Place::with(change);
    // What the tests push is younger than the default cutoff.
    place.append_config("query_frontend: {query_end_cutoff: 0s}\n");
    place
}

/// What a test knows of a span it has pushed.
#[derive(Debug, Clone, Copy)]
struct Fact {
    service: &'static str,
    start: u64,
    duration: u64,
    is_error: bool,
}

/// Traces of three spans in two services, one trace every ten seconds, and what is known of the spans.
struct Corpus {
    /// Start of the first minute.
    start: u64,
    traces: Vec<Vec<ResourceSpans>>,
    facts: Vec<Fact>,
}

impl Corpus {
    fn new() -> Self {
        let start = otlp::start_within_a_window(19 * STEP, (TRACES + 1) * TRACE_EVERY) / STEP * STEP;
        let (mut traces, mut facts) = (Vec::new(), Vec::new());
        for number in 0..TRACES {
            let id = otlp::id::<16>(70_000 + number);
            let begin = start + number * TRACE_EVERY + 1_000_000;
            let is_error = number % 5 == 0;
            let mut root = otlp::span(&id, 1, if number % 2 == 0 { "GET /a" } else { "GET /b" });
            root.kind = SpanKind::Server.into();
            (root.start_time_unix_nano, root.end_time_unix_nano) = (begin, begin + (number % 7 + 1) * 100_000_000);
            root.attributes = vec![otlp::attribute("http.status_code", Any::IntValue(if is_error { 500 } else { 200 }))];
            if is_error {
                root.status = Some(Status { message: "boom".to_owned(), code: StatusCode::Error.into() });
            }
            let children = [2, 3].map(|seed| {
                let mut child = otlp::span(&id, seed, "SELECT");
                child.kind = SpanKind::Client.into();
                child.parent_span_id.clone_from(&root.span_id);
                child.start_time_unix_nano = begin + seed * 10_000_000;
                child.end_time_unix_nano = child.start_time_unix_nano + (number % 3 + 1) * 50_000_000;
                child
            });
            let fact = |service, span: &tempopb::trace::v1::Span, is_error| Fact {
                service,
                start: span.start_time_unix_nano,
                duration: span.end_time_unix_nano - span.start_time_unix_nano,
                is_error,
            };
            facts.push(fact("shop", &root, is_error));
            facts.extend(children.iter().map(|child| fact("stock", child, false)));
            traces.push(vec![otlp::batch("shop", vec![root]), otlp::batch("stock", children.to_vec())]);
        }
        Self { start, traces, facts }
    }

    fn end(&self) -> u64 {
        self.start + TRACES * TRACE_EVERY
    }

    fn push(&self, client: &Client, numbers: std::ops::Range<usize>) {
        self.traces[numbers].iter().for_each(|trace| client.push(trace));
    }

    /// Asks for the whole corpus.
    fn ask(&self, client: &Client, query: &str) -> Value {
        let (start, end) = ((self.start / SECOND).to_string(), (self.end() / SECOND).to_string());
        client.ask("/api/metrics/query_range", &[("q", query), ("start", &start), ("end", &end), ("step", "60s")]).json()
    }

    fn ask_instant(&self, client: &Client, query: &str) -> Value {
        let (start, end) = ((self.start / SECOND).to_string(), (self.end() / SECOND).to_string());
        client.ask("/api/metrics/query", &[("q", query), ("start", &start), ("end", &end)]).json()
    }

    fn total(&self, client: &Client) -> f64 {
        let answer = self.ask(client, "{} | count_over_time()");
        series_of(&answer).values().flat_map(BTreeMap::values).sum()
    }

    fn wait_until_counted(&self, client: &Client, spans: usize) {
        eventually("all spans are counted", SOON, || {
            let total = self.total(client);
            assert!(total <= spans as f64, "{total} of {spans}");
            total == spans as f64
        });
    }

    /// Expected values by interval: those of the spans that count.
    fn expect(&self, is_counted: impl Fn(&Fact) -> bool, value: impl Fn(&[Fact]) -> f64) -> BTreeMap<u64, f64> {
        let edges = (0..=(self.end() - self.start) / STEP).map(|interval| self.start + interval * STEP);
        let of_edge = |edge: u64| {
            let facts: Vec<_> =
                self.facts.iter().filter(|fact| is_counted(fact) && fact.start + STEP > edge && fact.start <= edge).copied().collect();
            (edge / 1_000_000, value(&facts))
        };
        edges.map(of_edge).filter(|(_, value)| !value.is_nan()).collect()
    }
}

/// Values by time in milliseconds, of each series by its labels.
type Answer = BTreeMap<String, BTreeMap<u64, f64>>;

fn series_of(answer: &Value) -> Answer {
    let series = answer["series"].as_array().unwrap_or_else(|| panic!("{answer}"));
    let of = |series: &Value| {
        let samples = series["samples"].as_array().cloned().unwrap_or_default();
        let values = samples.iter().map(|sample| (sample["timestampMs"].as_str().unwrap().parse().unwrap(), number(&sample["value"])));
        (labels_of(series), values.collect())
    };
    let found: Answer = series.iter().map(of).collect();
    assert_eq!(found.len(), series.len(), "a series occurs twice in {answer}");
    found
}

fn values_of(answer: &Value) -> BTreeMap<String, f64> {
    answer["series"].as_array().unwrap().iter().map(|series| (labels_of(series), number(&series["value"]))).collect()
}

/// A value that is left out is zero.
fn number(value: &Value) -> f64 {
    match value {
        Value::Null => 0.0,
        Value::String(text) => text.parse().unwrap(),
        value => value.as_f64().unwrap(),
    }
}

fn labels_of(series: &Value) -> String {
    let labels = series["labels"].as_array().cloned().unwrap_or_default();
    let text = |label: &Value| {
        let value = label["value"].as_object().unwrap().values().next().unwrap();
        format!("{}={}", label["key"].as_str().unwrap(), value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    labels.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Sums of floats depend on the order in the last digits.
fn assert_same(what: &str, found: &Answer, expected: &Answer) {
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (labels, expected) in expected {
        let found = &found[labels];
        assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what} {labels}");
        for (time, expected) in expected {
            assert!((found[time] - expected).abs() <= 1e-9 * expected.abs().max(1.0), "{what} {labels} {time}: {} {expected}", found[time]);
        }
    }
}

/// Queries of every kind.
const QUERIES: [&str; 22] = [
    "{} | rate()",
    "{} | count_over_time() by (resource.service.name)",
    "{ status = error } | count_over_time() by (resource.service.name, kind)",
    "{ span.http.status_code >= 200 } | count_over_time() by (span.http.status_code)",
    "{} | min_over_time(duration) by (resource.service.name)",
    "{} | max_over_time(duration) by (name)",
    "{} | sum_over_time(duration) by (kind)",
    "{} | avg_over_time(duration) by (resource.service.name)",
    "{} | avg_over_time(span.http.status_code)",
    "{} | histogram_over_time(duration) by (resource.service.name)",
    "{} | quantile_over_time(duration, .5, .9, .99) by (resource.service.name)",
    "{} | compare({ status = error })",
    "{} | compare({ resource.service.name = \"shop\" }, 2)",
    "{} | count_over_time() by (name) | topk(1)",
    "{} | count_over_time() by (name) | bottomk(1) > 1",
    "({ status = error } | rate()) / ({} | rate())",
    "100 * (({ status = error } | count_over_time() by (kind)) / ({} | count_over_time() by (kind)))",
    "{ resource.service.name = \"shop\" } && { resource.service.name = \"stock\" } | count_over_time()",
    "{} | count() > 2 | count_over_time()",
    "{ status = error } >> { kind = client } | count_over_time() by (name)",
    "{ kind = client } < { name = \"GET /a\" } | rate()",
    "{ false } | rate()",
];

fn all_answers(corpus: &Corpus, client: &Client) -> BTreeMap<&'static str, (Answer, BTreeMap<String, f64>)> {
    let ask = |query| (query, (series_of(&corpus.ask(client, query)), values_of(&corpus.ask_instant(client, query))));
    QUERIES.iter().map(|query| ask(*query)).collect()
}

#[test]
fn answers_are_the_same_from_memory_blocks_and_both() {
    let place = place(|_| ());
    let tempo = place.start();
    let client = tempo.client();
    let corpus = Corpus::new();
    corpus.push(&client, 0..TRACES as usize);
    corpus.wait_until_counted(&client, corpus.facts.len());
    check_counts(&corpus, &client);
    let live = all_answers(&corpus, &client);
    assert!(live.iter().filter(|(_, (series, values))| !series.is_empty() && !values.is_empty()).count() >= QUERIES.len() - 2);

    tempo.flush();
    let stored = all_answers(&corpus, &client);
    check_counts(&corpus, &client);
    for (query, (series, values)) in &live {
        assert_same(query, &stored[query].0, series);
        let as_series =
            |values: &BTreeMap<String, f64>| values.iter().map(|(labels, value)| (labels.clone(), [(0, *value)].into())).collect();
        assert_same(query, &as_series(&stored[query].1), &as_series(values));
    }
    drop(tempo);

    // The same spans again: some in one block, some in another, the rest in memory.
    let place = self::place(|wishes| wishes.eager_blocks = false);
    let tempo = place.start();
    let client = tempo.client();
    for numbers in [0..13, 13..40] {
        corpus.push(&client, numbers.clone());
        corpus.wait_until_counted(&client, numbers.end * 3);
        tempo.flush();
    }
    corpus.push(&client, 40..TRACES as usize);
    corpus.wait_until_counted(&client, corpus.facts.len());
    check_counts(&corpus, &client);
    let mixed = all_answers(&corpus, &client);
    for (query, (series, _)) in &live {
        assert_same(query, &mixed[query].0, series);
    }
}

/// Checks counts and sums against what was pushed.
fn check_counts(corpus: &Corpus, client: &Client) {
    let count = |facts: &[Fact]| facts.len() as f64;
    let by_service = series_of(&corpus.ask(client, "{} | count_over_time() by (resource.service.name)"));
    let expected: Answer = ["shop", "stock"]
        .map(|service| (format!("resource.service.name={service}"), corpus.expect(|fact| fact.service == service, count)))
        .into();
    assert_same("counts by service", &by_service, &expected);
    let rate = series_of(&corpus.ask(client, "{ status = error } | rate()"));
    let expected = [("__name__=rate".to_owned(), corpus.expect(|fact| fact.is_error, |facts| count(facts) / 60.0))].into();
    assert_same("rate of errors", &rate, &expected);
    let sum = series_of(&corpus.ask(client, "{} | sum_over_time(duration)"));
    let seconds = |facts: &[Fact]| if facts.is_empty() { f64::NAN } else { facts.iter().map(|fact| fact.duration as f64 / 1e9).sum() };
    assert_same("sum of durations", &sum, &[("__name__=sum_over_time".to_owned(), corpus.expect(|_| true, seconds))].into());
    let most = series_of(&corpus.ask(client, "{ resource.service.name = \"shop\" } | max_over_time(duration)"));
    let longest = |facts: &[Fact]| facts.iter().map(|fact| fact.duration as f64 / 1e9).fold(f64::NAN, f64::max);
    let expected = [("__name__=max_over_time".to_owned(), corpus.expect(|fact| fact.service == "shop", longest))].into();
    assert_same("longest", &most, &expected);
    let instant = values_of(&corpus.ask_instant(client, "{} | count_over_time() by (kind)"));
    assert_eq!(instant, [("kind=client".to_owned(), 120.0), ("kind=server".to_owned(), 60.0)].into());
}

#[test]
fn answers_stay_the_same_when_blocks_are_merged() {
    let place = place(|wishes| wishes.compaction = true);
    let tempo = place.start();
    let client = tempo.client();
    let corpus = Corpus::new();
    for first in (0..TRACES as usize).step_by(6) {
        corpus.push(&client, first..first + 6);
        tempo.flush();
    }
    corpus.wait_until_counted(&client, corpus.facts.len());
    check_counts(&corpus, &client);
    let before = all_answers(&corpus, &client);
    eventually("blocks are merged", Duration::from_secs(120), || {
        // Whatever is merged at the moment, every span counts once.
        assert_eq!(corpus.total(&client), corpus.facts.len() as f64);
        place.blocks_of("single-tenant").len() <= 3
    });
    check_counts(&corpus, &client);
    let after = all_answers(&corpus, &client);
    for (query, (series, _)) in &before {
        assert_same(query, &after[query].0, series);
    }
}

#[test]
fn spans_count_once_while_they_are_written_and_merged() {
    /// Spans of a batch, all within one second of their own.
    const SPANS: u64 = 40;
    const BATCHES: usize = 60;
    let place = place(|wishes| {
        wishes.compaction = true;
        wishes.eager_blocks = true;
    });
    let tempo = place.start();
    let start = otlp::start_within_a_window(3600 * SECOND, (BATCHES as u64 + 1) * SECOND) / SECOND;
    let (pushed, is_done) = (AtomicUsize::new(0), AtomicBool::new(false));
    let counts = |client: &Client| -> Vec<f64> {
        let (first, last) = (start.to_string(), (start + BATCHES as u64).to_string());
        let answer =
            client.ask("/api/metrics/query_range", &[("q", "{} | count_over_time()"), ("start", &first), ("end", &last), ("step", "1s")]);
        let series = series_of(&answer.json());
        let values = series.into_values().next().unwrap_or_default();
        (1..=BATCHES as u64).map(|batch| values.get(&((start + batch) * 1000)).copied().unwrap_or(0.0)).collect()
    };
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let client = tempo.client();
            let (mut complete, mut looks) = ([false; BATCHES], 0);
            while !is_done.load(Ordering::SeqCst) {
                let sent = pushed.load(Ordering::SeqCst);
                let counts = counts(&client);
                for (batch, count) in counts.iter().enumerate() {
                    assert!(*count <= SPANS as f64, "batch {batch} of {sent} counts {count}");
                    assert!(!complete[batch] || *count == SPANS as f64, "batch {batch} of {sent} was complete and counts {count}");
                    complete[batch] = *count == SPANS as f64;
                }
                looks += 1;
            }
            looks
        });
        let client = tempo.client();
        for batch in 0..BATCHES as u64 {
            let spans = (0..SPANS).map(|number| {
                // Four traces, of which every batch has a part: they are split over segments and blocks.
                let mut span = otlp::span(&otlp::id::<16>(80_000 + number % 4), 81_000 + batch * SPANS + number, "work");
                span.start_time_unix_nano = (start + batch) * SECOND + 1 + number * (SECOND / SPANS - 1);
                span.end_time_unix_nano = span.start_time_unix_nano + 1000;
                span
            });
            client.push(&[otlp::batch("worker", spans.collect())]);
            pushed.fetch_add(1, Ordering::SeqCst);
            if batch % 7 == 0 {
                tempo.flush();
            }
        }
        eventually("all batches are complete", SOON, || counts(&client).iter().all(|count| *count == SPANS as f64));
        eventually("blocks are merged", Duration::from_secs(60), || place.blocks_of("single-tenant").len() <= 3);
        is_done.store(true, Ordering::SeqCst);
        let looks = watcher.join().unwrap();
        assert!(looks > 5, "{looks}");
    });
}

#[test]
fn requests_are_refused_with_known_texts() {
    let place = Place::new();
    let tempo = place.start();
    let client = tempo.client();
    for (path, status, text) in [
        ("query_range", 400, "parse error : syntax error: unexpected $end"),
        ("query_range?q={}", 400, "not a metrics query"),
        ("query?q={}", 400, "not a metrics query"),
        ("query_range?q={}|rate()&step=-1", 400, "cannot parse \"-1\": step must be positive"),
        ("query_range?q={}|rate()&step=x", 400, "cannot parse \"x\" to a valid duration"),
        ("query_range?q={}|rate()&start=20&end=10", 400, "end must be greater than start"),
        (
            "query_range?q={}|rate()&start=1795200000&end=1795286400&step=1",
            400,
            "step of 1s is too small, minimum step for given range is 8.64s",
        ),
        (
            "query_range?q={}|rate()&start=1795200000&end=1795290000",
            400,
            "metrics query time range exceeds the maximum allowed duration of 24h0m0s",
        ),
        ("query_range?q={}|rate()&since=10s", 400, "query window falls entirely within query_end_cutoff"),
        ("query_range?q={}|rate()&start=x", 400, "could not parse 'start' parameter: "),
        ("query?q={}|rate(", 400, "compiling query: parse error at line 1, "),
        ("query_range?q={}|rate()|topk(0)", 400, "compiling query: limit must be greater than 0"),
        ("summary?q={}", 404, "404 page not found\n"),
    ] {
        let encoded = path.replace('{', "%7B").replace('}', "%7D").replace('|', "%7C");
        let answer = client.get(&format!("/api/metrics/{encoded}"));
        assert_eq!(answer.status, status, "{path}: {}", answer.text());
        let is_known = if text.ends_with(' ') { answer.text().starts_with(text) } else { answer.text() == text };
        assert!(is_known, "{path}: {}", answer.text());
    }
    let empty = client.get("/api/metrics/query_range?q=%7B%7D%7Crate()").json();
    assert_eq!(empty["series"].as_array().unwrap().len(), 1, "an ungrouped rate exists without spans: {empty}");
    assert_eq!(client.get("/api/metrics/query_range?q=%7B%7D%7Crate()+by+(name)").json()["series"], serde_json::json!([]));
    assert!(client.metric("tempo_query_frontend_queries_total", "{tenant=\"single-tenant\",op=\"metrics\"") >= 14.0);
}

#[test]
fn answers_are_cut_at_the_series_limit_and_say_so() {
    let place = place(|_| ());
    let tempo = place.start();
    let client = tempo.client();
    let corpus = Corpus::new();
    corpus.push(&client, 0..TRACES as usize);
    corpus.wait_until_counted(&client, corpus.facts.len());
    let (start, end) = ((corpus.start / SECOND).to_string(), (corpus.end() / SECOND).to_string());
    let ask = |query: &str, most: &str| {
        client
            .ask("/api/metrics/query_range", &[("q", query), ("start", &start), ("end", &end), ("step", "60s"), ("maxSeries", most)])
            .json()
    };
    let whole = ask("{} | count_over_time() by (name)", "3");
    assert_eq!((series_of(&whole).len(), &whole["status"]), (3, &Value::Null));
    let cut = ask("{} | count_over_time() by (name)", "2");
    assert_eq!((series_of(&cut).len(), cut["status"].as_str()), (2, Some("PARTIAL")), "{cut}");
    let message = "Response exceeds maximum series limit of 2, a partial response is returned. Warning: the accuracy of each individual value is not guaranteed.";
    assert_eq!(cut["message"], message);
    // What is left is right.
    series_of(&cut).iter().for_each(|(labels, values)| assert_eq!(values, &series_of(&whole)[labels]));
}

#[test]
fn grafana_is_understood() {
    let place = place(|_| ());
    let tempo: Tempo<'_> = place.start();
    let client = tempo.client();
    let corpus = Corpus::new();
    corpus.push(&client, 0..TRACES as usize);
    corpus.wait_until_counted(&client, corpus.facts.len());
    tempo.flush();
    let (start, end) = (corpus.start / SECOND, corpus.end() / SECOND);
    let query = "%7B+status+%3D+error+%7D+%7C+rate%28%29+by+%28resource.service.name%29";
    let answer = client.get(&format!("/api/metrics/query_range?end={end}&exemplars=100&q={query}&start={start}&step=15s"));
    assert_eq!(answer.content_type, "application/json");
    let json = answer.json();
    let series = &json["series"][0];
    assert_eq!(labels_of(series), "resource.service.name=shop");
    let times: Vec<u64> =
        series["samples"].as_array().unwrap().iter().map(|sample| sample["timestampMs"].as_str().unwrap().parse().unwrap()).collect();
    assert_eq!(times.first(), Some(&(start * 1000)), "the first sample stands at the start");
    assert_eq!(times.last(), Some(&(end * 1000)));
    assert!(times.windows(2).all(|pair| pair[1] - pair[0] == 15_000));
    let exemplars = series["exemplars"].as_array().unwrap();
    assert!(!exemplars.is_empty() && exemplars.len() <= 100, "{json}");
    for exemplar in exemplars {
        let labels = labels_of(exemplar);
        let id = labels.split("trace:id=").nth(1).unwrap_or_else(|| panic!("{labels}")).split(',').next().unwrap();
        assert_eq!(client.get(&format!("/api/traces/{id}")).status, 200, "{labels}");
    }
    // The query may be called `query`, and times may be nanoseconds.
    let same = client.get(&format!("/api/metrics/query_range?query={query}&start={}&end={}&step=15", corpus.start, corpus.end())).json();
    assert_eq!(series_of(&same), series_of(&json));
    let metrics = &json["metrics"];
    assert!(metrics["inspectedBytes"].as_str().unwrap().parse::<u64>().unwrap() > 0 && metrics["totalBlocks"] == 1, "{metrics}");
    assert_eq!((&metrics["completedJobs"], &metrics["totalJobs"]), (&Value::from(2), &Value::from(2)));

    let message = client.get_protobuf(&format!("/api/metrics/query_range?q={query}&start={start}&end={end}&step=15s"));
    let decoded = tempopb::QueryRangeResponse::decode(&*message.body).unwrap();
    assert_eq!((message.content_type.as_str(), decoded.series.len()), ("application/protobuf", 1));
    assert_eq!(decoded.series[0].samples.len(), times.len());
}
