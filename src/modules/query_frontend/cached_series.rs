//! The series of metrics jobs as bytes, for the cache; read with the care of [`super::cached_reply`].
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects))]

use super::cached_reply::{CachedReply, attribute_of, each_field, put_attribute, put_message, put_uint, uint_of};
use crate::model::wire::{Field, put_bytes};
use crate::services::rpc::metrics_query::MetricsReply;
use crate::traceql::metrics::{Exemplar, Label, Labels, Sample, Series};

/// Bytes of a sample: time and value.
const SAMPLE_BYTES: usize = 16;

impl CachedReply for MetricsReply {
    fn is_complete(&self) -> bool {
        self.inspection.skipped_jobs == 0 && self.is_whole && !self.series.partial
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for series in &self.series.series {
            put_message(&mut out, 1, |out| put_series(out, series));
        }
        put_uint(&mut out, 2, self.inspection.traces);
        put_uint(&mut out, 3, self.inspection.spans);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reply = Self { is_whole: true, ..Self::default() };
        each_field(bytes, |field| {
            match field.number {
                1 => reply.series.series.push(series_of(field)?),
                2 => reply.inspection.traces = uint_of(field)?,
                3 => reply.inspection.spans = uint_of(field)?,
                _ => {}
            }
            Some(())
        })?;
        Some(reply)
    }
}

fn put_series(out: &mut Vec<u8>, series: &Series) {
    put_labels(out, &series.labels);
    put_bytes(out, 2, &series.samples.iter().flat_map(|sample| sample_bytes(*sample)).collect::<Vec<_>>());
    for exemplar in &series.exemplars {
        put_message(out, 3, |out| {
            put_labels(out, &exemplar.labels);
            put_bytes(out, 2, &sample_bytes(Sample { timestamp_ms: exemplar.timestamp_ms, value: exemplar.value }));
        });
    }
}

fn put_labels(out: &mut Vec<u8>, labels: &Labels) {
    labels.iter().for_each(|label| put_attribute(out, 1, &label.name, &label.value));
}

fn sample_bytes(sample: Sample) -> [u8; SAMPLE_BYTES] {
    (u128::from(sample.timestamp_ms.cast_unsigned()) | u128::from(sample.value.to_bits()) << 64).to_le_bytes()
}

fn series_of(field: &Field<'_>) -> Option<Series> {
    let (mut labels, mut samples, mut exemplars) = (Vec::new(), Vec::new(), Vec::new());
    each_field(field.bytes().ok()?, |field| {
        match field.number {
            1 => labels.push(label_of(field)?),
            2 => samples.extend(samples_of(field)?),
            3 => exemplars.push(exemplar_of(field)?),
            _ => {}
        }
        Some(())
    })?;
    Some(Series { labels: labels.into_iter().collect(), samples, exemplars })
}

fn exemplar_of(field: &Field<'_>) -> Option<Exemplar> {
    let (mut labels, mut at) = (Vec::new(), None);
    each_field(field.bytes().ok()?, |field| {
        match field.number {
            1 => labels.push(label_of(field)?),
            2 => at = samples_of(field)?.first().copied(),
            _ => {}
        }
        Some(())
    })?;
    let Sample { timestamp_ms, value } = at?;
    Some(Exemplar { labels: labels.into_iter().collect(), timestamp_ms, value })
}

fn label_of(field: &Field<'_>) -> Option<Label> {
    attribute_of(field).map(|(name, value)| Label { name, value })
}

fn samples_of(field: &Field<'_>) -> Option<Vec<Sample>> {
    let (samples, rest) = field.bytes().ok()?.as_chunks::<SAMPLE_BYTES>();
    let sample = |bytes: &[u8; SAMPLE_BYTES]| {
        let bits = u128::from_le_bytes(*bytes);
        Sample { timestamp_ms: (bits as u64).cast_signed(), value: f64::from_bits((bits >> 64) as u64) }
    };
    rest.is_empty().then(|| samples.iter().map(sample).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::modules::query_frontend::cached_reply::testing::{arb_static, arb_text};
    use crate::services::rpc::search::Inspection;
    use crate::traceql::metrics::SeriesSet;

    fn arb_labels() -> impl Strategy<Value = Labels> {
        prop::collection::vec((arb_text(), arb_static()), 0..4)
            .prop_map(|labels| labels.into_iter().map(|(name, value)| Label { name, value }).collect())
    }

    fn arb_sample() -> impl Strategy<Value = Sample> {
        (any::<i64>(), any::<i32>()).prop_map(|(timestamp_ms, value)| Sample { timestamp_ms, value: f64::from(value) / 7.0 })
    }

    fn arb_series() -> impl Strategy<Value = Series> {
        let exemplar =
            (arb_labels(), arb_sample()).prop_map(|(labels, at)| Exemplar { labels, timestamp_ms: at.timestamp_ms, value: at.value });
        (arb_labels(), prop::collection::vec(arb_sample(), 0..5), prop::collection::vec(exemplar, 0..3))
            .prop_map(|(labels, samples, exemplars)| Series { labels, samples, exemplars })
    }

    fn reply(series: Vec<Series>) -> MetricsReply {
        MetricsReply { series: SeriesSet { series, partial: false }, is_whole: true, ..MetricsReply::default() }
    }

    proptest! {
        #[test]
        fn series_round_trip(series in prop::collection::vec(arb_series(), 0..4), traces: u64, spans: u64) {
            let inspection = Inspection { traces, spans, bytes: 7, ..Inspection::default() };
            let read = MetricsReply::decode(&MetricsReply { inspection, ..reply(series.clone()) }.encode()).unwrap();
            prop_assert_eq!(read.series.series, series);
            prop_assert_eq!(read.inspection, Inspection { traces, spans, ..Inspection::default() }, "a hit costs nothing");
            prop_assert!(read.is_whole);
        }

        #[test]
        fn any_bytes_are_series_or_none(bytes: Vec<u8>, at: prop::sample::Index, series in arb_series()) {
            let _either = MetricsReply::decode(&bytes);
            let mut encoded = reply(vec![series]).encode();
            let at = at.index(encoded.len());
            encoded[at] ^= 0x55;
            let _either = MetricsReply::decode(&encoded);
        }
    }

    #[test]
    fn only_answers_that_hold_for_other_windows_are_kept() {
        assert!(reply(Vec::new()).is_complete());
        assert!(!MetricsReply { is_whole: false, ..reply(Vec::new()) }.is_complete());
        assert!(!MetricsReply { inspection: Inspection::SKIPPED, ..reply(Vec::new()) }.is_complete());
        let partial = SeriesSet { series: Vec::new(), partial: true };
        assert!(!MetricsReply { series: partial, ..reply(Vec::new()) }.is_complete());
    }

    #[test]
    fn values_that_are_no_numbers_survive() {
        let exemplar = Exemplar { labels: Labels::new(), timestamp_ms: -5, value: f64::NAN };
        let read = MetricsReply::decode(&reply(vec![Series { exemplars: vec![exemplar], ..Series::default() }]).encode()).unwrap();
        let read = &read.series.series[0].exemplars[0];
        assert!(read.value.is_nan() && read.timestamp_ms == -5);
    }
}
