//! The answers of metrics queries: `QueryRangeResponse` and `QueryInstantResponse`.

use super::respond::WriteMessage;
use super::search::{SearchTotals, any_value};
use crate::services::rpc::any_value::write_key_value;
use crate::services::rpc::message::{Field, MessageWriter, field};
use crate::traceql::metrics::{Exemplar, FinalResult, Labels, Series};

const SERIES: Field = field(1, "series");
const METRICS: Field = field(2, "metrics");
const STATUS: Field = field(3, "status");
const MESSAGE: Field = field(4, "message");
const LABELS: Field = field(1, "labels");

/// `PartialStatus.PARTIAL`
const PARTIAL: i32 = 1;

/// Stored data that an answer does not cover.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct LeftOut {
    /// Jobs that were given up because their block is broken.
    pub(super) broken_jobs: u64,
    /// Blocks that were too many to be joined.
    pub(super) replica_blocks: usize,
}

/// `QueryRangeResponse`
pub(super) struct RangeMessage {
    series: Vec<Series>,
    totals: SearchTotals,
    is_partial: bool,
    message: String,
}

impl RangeMessage {
    /// What is left out makes the answer partial.
    pub(super) fn new(result: FinalResult, totals: SearchTotals, left_out: LeftOut) -> Self {
        let FinalResult { series, partial, message } = result;
        let LeftOut { broken_jobs, replica_blocks } = left_out;
        let broken =
            (broken_jobs > 0).then(|| format!("{broken_jobs} jobs over broken blocks were left out, a partial response is returned"));
        let replicas = (replica_blocks > 0)
            .then(|| format!("{replica_blocks} blocks with several replicas were left out, a partial response is returned"));
        let reasons: Vec<String> = message.into_iter().chain(broken).chain(replicas).collect();
        Self { series, totals, is_partial: partial || !reasons.is_empty(), message: reasons.join("; ") }
    }

    fn write_end(&self, out: &mut impl MessageWriter) {
        out.message(METRICS, |out| self.totals.write(out));
        if self.is_partial {
            out.enumeration(STATUS, PARTIAL, "PARTIAL");
        }
        out.text(MESSAGE, self.message.as_bytes());
    }
}

impl WriteMessage for RangeMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        out.messages_or_empty(SERIES, &self.series, write_time_series);
        self.write_end(out);
    }
}

/// `QueryInstantResponse`: of each series the first sample, which is the only one.
pub(super) struct InstantMessage(pub(super) RangeMessage);

impl WriteMessage for InstantMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        let values = self.0.series.iter().filter_map(|series| Some((&series.labels, series.samples.first()?.value)));
        out.messages_or_empty(SERIES, values, |out, (labels, value)| {
            write_labels(out, labels);
            out.double(field(2, "value"), value);
        });
        self.0.write_end(out);
    }
}

/// `TimeSeries`
fn write_time_series<W: MessageWriter>(out: &mut W, series: &Series) {
    write_labels(out, &series.labels);
    out.messages(field(2, "samples"), &series.samples, |out, sample| {
        // Declared in this order.
        out.int64(field(2, "timestampMs"), sample.timestamp_ms);
        out.double(field(1, "value"), sample.value);
    });
    out.messages(field(4, "exemplars"), &series.exemplars, write_exemplar);
}

fn write_exemplar<W: MessageWriter>(out: &mut W, exemplar: &Exemplar) {
    write_labels(out, &exemplar.labels);
    out.double(field(2, "value"), exemplar.value);
    out.int64(field(3, "timestampMs"), exemplar.timestamp_ms);
}

fn write_labels(out: &mut impl MessageWriter, labels: &Labels) {
    out.messages(LABELS, labels.iter(), |out, label| write_key_value(out, label.name.as_bytes(), &any_value(&label.value)));
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::modules::query_frontend::respond::Format;
    use crate::proto::tempopb;
    use crate::services::rpc::search::Inspection;
    use crate::traceql::metrics::Sample;
    use crate::traceql::types::Static;

    fn result() -> FinalResult {
        let labels = |value: Static| {
            let mut labels = Labels::single("kind", Static::string("client"));
            labels.push("n", value);
            labels
        };
        let samples =
            vec![Sample { timestamp_ms: 1_700_000_060_000, value: 0.0 }, Sample { timestamp_ms: 1_700_000_120_000, value: f64::INFINITY }];
        let trace = Labels::single("trace:id", Static::string("1f"));
        let exemplars = vec![Exemplar { labels: trace, timestamp_ms: 1_700_000_050_000, value: 3.0 }];
        FinalResult {
            series: vec![
                Series { labels: labels(Static::Int(200)), samples, exemplars },
                Series { labels: labels(Static::Nil), samples: vec![Sample { timestamp_ms: 1, value: 0.5 }], exemplars: Vec::new() },
            ],
            partial: false,
            message: None,
        }
    }

    fn totals() -> SearchTotals {
        SearchTotals {
            inspection: Inspection { bytes: 13_126, ..Inspection::default() },
            jobs: 1,
            completed_jobs: 1,
            ..SearchTotals::default()
        }
    }

    fn json(message: &impl WriteMessage) -> String {
        String::from_utf8(Format::Json.encode(message)).unwrap()
    }

    #[test]
    fn ranges_print_as_known() {
        assert_eq!(
            json(&RangeMessage::new(result(), totals(), LeftOut::default())),
            concat!(
                r#"{"series":[{"labels":[{"key":"kind","value":{"stringValue":"client"}},{"key":"n","value":{"intValue":"200"}}],"#,
                r#""samples":[{"timestampMs":"1700000060000"},{"timestampMs":"1700000120000","value":"Infinity"}],"#,
                r#""exemplars":[{"labels":[{"key":"trace:id","value":{"stringValue":"1f"}}],"value":3,"timestampMs":"1700000050000"}]},"#,
                r#"{"labels":[{"key":"kind","value":{"stringValue":"client"}},{"key":"n","value":{"stringValue":"nil"}}],"#,
                r#""samples":[{"timestampMs":"1","value":0.5}]}],"#,
                r#""metrics":{"inspectedBytes":"13126","completedJobs":1,"totalJobs":1}}"#
            )
        );
        assert_eq!(
            json(&RangeMessage::new(FinalResult::default(), SearchTotals::default(), LeftOut::default())),
            r#"{"series":[],"metrics":{}}"#
        );
    }

    #[test]
    fn instants_have_one_value_a_series() {
        assert_eq!(
            json(&InstantMessage(RangeMessage::new(result(), totals(), LeftOut::default()))),
            concat!(
                r#"{"series":[{"labels":[{"key":"kind","value":{"stringValue":"client"}},{"key":"n","value":{"intValue":"200"}}]},"#,
                r#"{"labels":[{"key":"kind","value":{"stringValue":"client"}},{"key":"n","value":{"stringValue":"nil"}}],"value":0.5}],"#,
                r#""metrics":{"inspectedBytes":"13126","completedJobs":1,"totalJobs":1}}"#
            )
        );
    }

    #[test]
    fn whatever_is_missing_makes_the_answer_partial() {
        let cut = FinalResult { partial: true, message: Some("too many".to_owned()), ..FinalResult::default() };
        assert_eq!(
            json(&RangeMessage::new(cut.clone(), SearchTotals::default(), LeftOut::default())),
            r#"{"series":[],"metrics":{},"status":"PARTIAL","message":"too many"}"#
        );
        let both = json(&RangeMessage::new(cut, SearchTotals::default(), LeftOut { broken_jobs: 2, replica_blocks: 3 }));
        let reasons = [
            "too many",
            "2 jobs over broken blocks were left out, a partial response is returned",
            "3 blocks with several replicas were left out, a partial response is returned",
        ];
        assert!(both.ends_with(&format!("\"message\":\"{}\"}}", reasons.join("; "))), "{both}");
    }

    #[test]
    fn protobuf_says_the_same() {
        let bytes = Format::Protobuf.encode(&RangeMessage::new(result(), totals(), LeftOut { broken_jobs: 1, ..LeftOut::default() }));
        let message = tempopb::QueryRangeResponse::decode(&*bytes).unwrap();
        let samples: Vec<_> = message.series[0].samples.iter().map(|sample| (sample.timestamp_ms, sample.value)).collect();
        assert_eq!(samples, [(1_700_000_060_000, 0.0), (1_700_000_120_000, f64::INFINITY)]);
        assert_eq!((message.series[0].exemplars[0].value, message.series[0].exemplars[0].timestamp_ms), (3.0, 1_700_000_050_000));
        assert_eq!((message.status, message.metrics.unwrap().inspected_bytes), (PARTIAL, 13_126));
        let bytes = Format::Protobuf.encode(&InstantMessage(RangeMessage::new(result(), totals(), LeftOut::default())));
        let message = tempopb::QueryInstantResponse::decode(&*bytes).unwrap();
        assert_eq!(message.series.iter().map(|series| series.value).collect::<Vec<_>>(), [0.0, 0.5]);
    }
}
