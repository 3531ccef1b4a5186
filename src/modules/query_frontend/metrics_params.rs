//! What a client asks of the metrics endpoints: query, time window, step, exemplars, series (http-api §4.1 B, §6.8; traceql-metrics §2).
//!
//! Pure: the time of day and the limits come in as arguments. Texts are those of the compatible system; clients show and match them.

use super::params::{ParamError, Params, parse_go_duration, parse_prom_duration, parse_time_nanos};
use super::request::{RequestLimits, check_query_size};
use crate::traceql::ast::{Query, QueryBody};
use crate::traceql::error::{QueryError, QueryErrorKind};
use crate::traceql::metrics::{Window, default_step};
use crate::traceql::types::Static;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// How far a request looks back that names no start.
const DEFAULT_SINCE_SECONDS: u64 = 3600;

/// The two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MetricsApi {
    /// A value per step.
    Range,
    /// One value for the whole window.
    Instant,
}

/// Limits that metrics requests are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MetricsLimits {
    /// Longest window; 0: no limit.
    pub(super) max_duration_nanos: u64,
    /// Most steps in a window; 0: no limit.
    pub(super) max_intervals: u64,
    pub(super) max_exemplars: u32,
    /// Most series of an answer; 0: no limit.
    pub(super) max_series: usize,
    /// Youngest data that no answer covers.
    pub(super) query_end_cutoff_nanos: u64,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct MetricsParams {
    /// As sent.
    pub(super) text: String,
    pub(super) query: Query,
    /// The grid of the answer.
    pub(super) window: Window,
    pub(super) exemplars: u32,
    /// 0: no limit.
    pub(super) max_series: usize,
}

impl MetricsParams {
    pub(super) fn parse(
        api: MetricsApi,
        params: &Params,
        request_limits: &RequestLimits,
        limits: &MetricsLimits,
        now: u64,
    ) -> Result<Self, ParamError> {
        check_query_size(params, request_limits)?;
        let requested = requested_window(api, params, now)?;
        let number = |name: &str| params.u32(name).map(Option::unwrap_or_default);
        let (exemplars, max_series) = (number("exemplars")?, number("maxSeries")?);
        let text = params.get("q").or_else(|| params.get("query")).unwrap_or_default();
        let query = compile(api, text)?;
        let window = checked_window(requested, limits, now)?;
        let exemplars = if api == MetricsApi::Instant { 0 } else { wanted_exemplars(&query, exemplars, limits.max_exemplars) };
        let max_series = match (max_series as usize, limits.max_series) {
            (0, most) | (most, 0) => most,
            (wanted, most) => wanted.min(most),
        };
        Ok(Self { text: text.to_owned(), query, window, exemplars, max_series })
    }
}

/// Returns the window as asked for, with what the request leaves open filled in.
fn requested_window(api: MetricsApi, params: &Params, now: u64) -> Result<Window, ParamError> {
    let failed = |name: &str, reason: String| ParamError(format!("could not parse '{name}' parameter: {reason}"));
    let time = |name: &str| params.get(name).map(|text| parse_time_nanos(text).map_err(|reason| failed(name, reason))).transpose();
    let since = params.get("since").map(|text| parse_prom_duration(text).map_err(|reason| failed("since", reason))).transpose()?;
    let end = time("end")?.unwrap_or(now);
    let start = match time("start")? {
        Some(start) => start,
        None => end.min(now).saturating_sub(since.unwrap_or(DEFAULT_SINCE_SECONDS).saturating_mul(NANOS_PER_SECOND)),
    };
    if start >= end {
        return Err(ParamError::new("end must be greater than start"));
    }
    if api == MetricsApi::Instant {
        return Ok(Window::instant(start, end));
    }
    let step = match params.get("step") {
        Some(text) => parse_step(text)?,
        None => default_step(start, end),
    };
    Ok(Window::range(start, end, step))
}

/// Parses seconds with or without fraction, or a duration with units, into nanoseconds.
fn parse_step(text: &str) -> Result<u64, ParamError> {
    let invalid = || ParamError(format!("cannot parse {text:?} to a valid duration"));
    let unsigned = text.strip_prefix('-');
    let magnitude = unsigned.unwrap_or(text);
    let is_number = magnitude.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E' | b'+' | b'-'));
    let nanos = if is_number {
        let nanos = magnitude.parse::<f64>().map_err(|_| invalid())? * NANOS_PER_SECOND as f64;
        if nanos > i64::MAX as f64 {
            return Err(ParamError(format!("cannot parse {text:?} to a valid duration. It overflows int64")));
        }
        nanos.round() as u64
    } else {
        match parse_go_duration(magnitude) {
            Ok(nanos) => nanos,
            Err(_) => parse_prom_duration(magnitude).map_err(|_| invalid())?.checked_mul(NANOS_PER_SECOND).ok_or_else(invalid)?,
        }
    };
    match (unsigned, nanos) {
        (Some(_), 1..) => Err(ParamError(format!("cannot parse {text:?}: step must be positive"))),
        (_, 0) => Err(ParamError::new("step must be greater than 0")),
        (None, nanos) => Ok(nanos),
    }
}

/// Checks the window against the limits and returns the one that is answered.
fn checked_window(requested: Window, limits: &MetricsLimits, now: u64) -> Result<Window, ParamError> {
    let cutoff = limits.query_end_cutoff_nanos;
    let checked = requested
        .clamped_to_cutoff(now, cutoff)
        .and_then(|clamped| clamped.check_length(limits.max_duration_nanos).map(|()| clamped))
        .and_then(|clamped| clamped.check_step(limits.max_intervals).map(|()| clamped))
        .and_then(|clamped| clamped.for_response(now, cutoff));
    checked.map_err(|error| ParamError::new(error.to_string()))
}

/// Parses and validates, with the prefixes that each endpoint puts in front of errors (traceql-metrics §1.3).
fn compile(api: MetricsApi, text: &str) -> Result<Query, ParamError> {
    let refused = |error: QueryError| match (api, &error.kind) {
        (MetricsApi::Range, QueryErrorKind::Syntax(_)) => ParamError::new(error.to_string()),
        (MetricsApi::Range, QueryErrorKind::Invalid | QueryErrorKind::Unsupported) | (MetricsApi::Instant, _) => {
            ParamError(format!("compiling query: {error}"))
        }
    };
    let query = crate::traceql::parse(text).map_err(refused)?;
    if !matches!(query.body, QueryBody::Metrics(_)) {
        return Err(ParamError::new("not a metrics query"));
    }
    crate::traceql::validate(&query).map_err(refused)?;
    Ok(query)
}

/// The hint decides before the parameter; none or 0 of both: as many as allowed.
fn wanted_exemplars(query: &Query, parameter: u32, most: u32) -> u32 {
    let hinted = match query.hint("exemplars") {
        Some(Static::Int(count)) if *count >= 0 => return u32::try_from(*count).unwrap_or(u32::MAX).min(most),
        Some(Static::Bool(false)) => return 0,
        Some(Static::Bool(true)) => 0,
        _ => parameter,
    };
    if hinted == 0 { most } else { hinted.min(most) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = NANOS_PER_SECOND;
    const NOW: u64 = 1_795_308_858 * S;

    fn limits() -> MetricsLimits {
        MetricsLimits {
            max_duration_nanos: 24 * 3600 * S,
            max_intervals: 10_000,
            max_exemplars: 100,
            max_series: 0,
            query_end_cutoff_nanos: 30 * S,
        }
    }

    fn request_limits() -> RequestLimits {
        RequestLimits {
            default_result_limit: 20,
            max_result_limit: 0,
            default_spans_per_span_set: 3,
            max_spans_per_span_set: 0,
            max_duration_seconds: 0,
            max_query_bytes: 64,
            query_end_cutoff_seconds: None,
        }
    }

    fn parse(api: MetricsApi, url: &str) -> Result<MetricsParams, String> {
        MetricsParams::parse(api, &Params::parse(Some(url)), &request_limits(), &limits(), NOW).map_err(|error| error.0)
    }

    fn range(url: &str) -> Result<MetricsParams, String> {
        parse(MetricsApi::Range, url)
    }

    const RATE: &str = "q=%7B%7D%7Crate()";

    #[test]
    fn errors_have_the_known_texts() {
        for (url, error) in [
            ("start=x&q={}", "could not parse 'start' parameter: parsing time \"x\" as RFC 3339: invalid syntax"),
            ("end=1.x&q={}", "could not parse 'end' parameter: strconv.ParseFloat: parsing \"1.x\": invalid syntax"),
            ("since=1.5h&q={}", "could not parse 'since' parameter: not a valid duration string: \"1.5h\""),
            ("start=20&end=10&q={}", "end must be greater than start"),
            ("start=10&end=10&q={}", "end must be greater than start"),
            ("step=-1&q={}", "cannot parse \"-1\": step must be positive"),
            ("step=-1m&q={}", "cannot parse \"-1m\": step must be positive"),
            ("step=x&q={}", "cannot parse \"x\" to a valid duration"),
            ("step=1..2&q={}", "cannot parse \"1..2\" to a valid duration"),
            ("step=0&q={}", "step must be greater than 0"),
            ("exemplars=x&q={}", "invalid exemplars: strconv.ParseUint: parsing \"x\": invalid syntax"),
            ("maxSeries=-1&q={}", "invalid maxSeries: strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("", "parse error : syntax error: unexpected $end"),
            ("q={}", "not a metrics query"),
            ("q={}|rate()%2B1", "parse error at line 1, col 10: syntax error: unexpected +"),
            ("q={}|quantile_over_time(duration,2)", "compiling query: quantile must be between 0 and 1: 2"),
            ("q={}|rate()|topk(0)", "compiling query: limit must be greater than 0"),
            ("q={}|rate()&start=1795308830&end=1795308858", "query window falls entirely within query_end_cutoff"),
            ("q={}|rate()&since=2d", "metrics query time range exceeds the maximum allowed duration of 24h0m0s"),
            ("q={}|rate()&start=1795200000&end=1795286400&step=1", "step of 1s is too small, minimum step for given range is 8.64s"),
        ] {
            let found = range(url).unwrap_err();
            assert_eq!(found.split(", expecting").next(), Some(error), "{url}");
        }
        let long = format!("q={}", "x".repeat(65));
        assert!(range(&long).unwrap_err().starts_with("TraceQL expression exceeds the configured maximum size of 64 bytes"));
        for (url, error) in [
            ("q={}|rate(", "compiling query: parse error at line 1, col 9: syntax error: unexpected $end"),
            ("q={}|quantile_over_time(duration,2)", "compiling query: quantile must be between 0 and 1: 2"),
            ("q={}", "not a metrics query"),
        ] {
            let found = parse(MetricsApi::Instant, url).unwrap_err();
            assert_eq!(found.split(", col").next(), error.split(", col").next(), "{url}");
        }
    }

    #[test]
    fn windows_are_completed_and_aligned() {
        let window = |url: &str| range(&format!("{RATE}&{url}")).unwrap().window;
        assert_eq!(window("start=1795300001&end=1795300047&step=10"), Window::range(1_795_299_990 * S, 1_795_300_050 * S, 10 * S));
        let nanos = "start=1795300001000000000&end=1795300047000000000&step=10s";
        assert_eq!(window(nanos), window("start=1795300001&end=1795300047&step=10"));
        assert_eq!(window("start=1795300001000&end=1795300047.0&step=10000ms"), window(nanos), "milliseconds are known by their length");
        assert_eq!(window("start=2026-11-22T00:00:01Z&end=2026-11-22T00:00:59Z&step=60").intervals(), 2);
        // The last hour by steps of 15 seconds, as far as the cutoff lets see.
        let default = window("");
        assert_eq!((default.step, default.end), (15 * S, NOW - 30 * S - (NOW - 30 * S) % (15 * S)));
        assert_eq!(default.start % (15 * S), 0);
        assert!(NOW - default.start >= 3600 * S && NOW - default.start < 3700 * S);
        assert_eq!(window("since=10m&step=0.5").step, S / 2);
        let instant = parse(MetricsApi::Instant, &format!("{RATE}&start=1795300001&end=1795300047&exemplars=5")).unwrap();
        assert_eq!((instant.window, instant.exemplars), (Window::instant(1_795_300_001 * S, 1_795_300_047 * S), 0));
    }

    #[test]
    fn the_first_of_q_and_query_counts_and_hints_overrule_parameters() {
        assert_eq!(range("query=nonsense&q={}|rate()").unwrap().text, "{}|rate()");
        assert_eq!(range("query={}|rate()").unwrap().text, "{}|rate()");
        let exemplars = |url: &str| range(url).unwrap().exemplars;
        for (url, expected) in [
            ("q={}|rate()", 100),
            ("q={}|rate()&exemplars=0", 100),
            ("q={}|rate()&exemplars=7", 7),
            ("q={}|rate()&exemplars=700", 100),
            ("q={}|rate() with(exemplars=3)&exemplars=7", 3),
            ("q={}|rate() with(exemplars=false)&exemplars=7", 0),
            ("q={}|rate() with(exemplars=true)&exemplars=7", 100),
        ] {
            assert_eq!(exemplars(url), expected, "{url}");
        }
        assert_eq!(range("q={}|rate()&maxSeries=5").unwrap().max_series, 5);
    }
}
