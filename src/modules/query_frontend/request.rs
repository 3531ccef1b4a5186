//! What a client asks: the query parameters of each endpoint, checked and completed (http-api §4.1, §6).
//!
//! Pure: the time of day and the limits come in as arguments.

use crate::model::ids::TraceId;

use super::params::{ParamError, Params, go_duration_text, parse_i64, parse_prom_duration, parse_time_seconds, parse_u32};
use super::tags_param::{parse_logfmt, tags_to_traceql};

/// Seconds since the epoch, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// Limits that requests are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RequestLimits {
    pub(super) default_result_limit: u32,
    /// 0: no limit.
    pub(super) max_result_limit: u32,
    pub(super) default_spans_per_span_set: u32,
    /// 0: no limit.
    pub(super) max_spans_per_span_set: u32,
    /// Longest window of search, tags and tag values in seconds. 0: no limit.
    pub(super) max_duration_seconds: u64,
    pub(super) max_query_bytes: usize,
    /// Youngest seconds that search, tags and tag values leave out. `None`: nothing is left out.
    pub(super) query_end_cutoff_seconds: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SearchParams {
    /// TraceQL text; a tag search is translated.
    pub(super) query: String,
    /// A tag search is answered without span sets and service statistics.
    pub(super) is_tag_search: bool,
    pub(super) limit: u32,
    pub(super) spans_per_span_set: u32,
    /// `None`: recent data, whatever its time stamps.
    pub(super) window: Option<Window>,
}

/// Spans per span set when neither the request nor the configuration says.
const FALLBACK_SPANS_PER_SPAN_SET: u32 = 3;

/// Parameters of search that are never taken as tags.
const SEARCH_PARAMS: [&str; 10] =
    ["q", "tags", "minDuration", "maxDuration", "limit", "spss", "start", "end", "since", "skip_ast_transformations"];

impl SearchParams {
    pub(super) fn parse(params: &Params, limits: &RequestLimits, now: u64) -> Result<Self, ParamError> {
        check_query_size(params, limits)?;
        let start = params.u32("start")?;
        let end = params.u32("end")?;
        if start.is_some() && start.unwrap_or(0) >= end.unwrap_or(0) || (end.is_some() && end == Some(0)) {
            return Err(start_not_before_end(u64::from(start.unwrap_or(0)), u64::from(end.unwrap_or(0))));
        }
        let (query, is_tag_search) = Self::parse_query(params)?;
        let limit = match params.u32("limit")? {
            Some(0) => return Err(ParamError::of("limit", "must be a positive number")),
            Some(limit) => limit,
            None => limits.default_result_limit,
        };
        if limits.max_result_limit > 0 && limit > limits.max_result_limit {
            return Err(ParamError(format!("limit {limit} exceeds max limit {}", limits.max_result_limit)));
        }
        let spss = params.u32("spss")?.filter(|spss| *spss > 0).unwrap_or(limits.default_spans_per_span_set);
        let spss = if spss == 0 { FALLBACK_SPANS_PER_SPAN_SET } else { spss };
        let max_spss = limits.max_spans_per_span_set;
        if max_spss > 0 && spss > max_spss {
            return Err(ParamError(format!("spans per span set exceeds {max_spss}. received {spss}")));
        }
        let window = parse_window(params, limits, now)?;
        Ok(Self { query, is_tag_search, limit, spans_per_span_set: spss, window })
    }

    fn parse_query(params: &Params) -> Result<(String, bool), ParamError> {
        let (q, tags) = (params.get("q"), params.get("tags"));
        let min = params.duration_nanos("minDuration")?.map(|nanos| nanos / 1_000_000).filter(|millis| *millis > 0);
        let max = params.duration_nanos("maxDuration")?.map(|nanos| nanos / 1_000_000).filter(|millis| *millis > 0);
        if max.is_some_and(|max| max < min.unwrap_or(0)) {
            return Err(ParamError::of("maxDuration", "must be greater than minDuration"));
        }
        if let Some(q) = q {
            if tags.is_some() {
                return Err(ParamError::of("request", "can't specify tags and q in the same query"));
            }
            return Ok((q.to_owned(), false));
        }
        let tags = match tags {
            Some(tags) => parse_logfmt(tags)?,
            None if params.get("start").is_none() && params.get("end").is_none() => other_params(params),
            None => Vec::new(),
        };
        Ok((tags_to_traceql(&tags, min, max), true))
    }
}

/// Without query, tags and time, every other parameter of a search is a tag.
fn other_params(params: &Params) -> Vec<(String, String)> {
    let others = params.pairs().filter(|(key, value)| !SEARCH_PARAMS.contains(key) && !value.trim().is_empty());
    others.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Returns the window of a search, tags or tag values request; `None` when it names no time (http-api §4.1 A).
pub(super) fn parse_window(params: &Params, limits: &RequestLimits, now: u64) -> Result<Option<Window>, ParamError> {
    let date_error =
        |name: &str, reason: String| ParamError(format!("error parsing date range: could not parse '{name}' parameter: {reason}"));
    let newest = limits.query_end_cutoff_seconds.map(|cutoff| now.saturating_sub(cutoff));
    let window = if let Some(since) = params.get("since") {
        let since = parse_prom_duration(since).map_err(|reason| date_error("since", reason))?;
        let end = newest.unwrap_or(now);
        Window { start: end.saturating_sub(since), end }
    } else {
        let (start, end) = match (params.get("start"), params.get("end")) {
            (None, None) => return Ok(None),
            (Some(start), Some(end)) => (start, end),
            _ => return Err(ParamError::new("error parsing date range: only one of start and end provided: must provide both or neither")),
        };
        let start = parse_time_seconds(start).map_err(|reason| date_error("start", reason))?;
        let end = parse_time_seconds(end).map_err(|reason| date_error("end", reason))?;
        if start > end {
            return Err(start_not_before_end(start, end));
        }
        let end = newest.map_or(end, |newest| end.min(newest));
        Window { start: if start > end { end.saturating_sub(RECENT_SECONDS) } else { start }, end }
    };
    let max = limits.max_duration_seconds;
    if max > 0 && window.end - window.start > max {
        return Err(ParamError(format!(
            "range specified by start and end exceeds {}. received start={} end={}",
            go_duration_text(max),
            window.start,
            window.end
        )));
    }
    Ok(Some(window))
}

/// How far back data counts as recent, in seconds.
pub(super) const RECENT_SECONDS: u64 = 15 * 60;

fn start_not_before_end(start: u64, end: u64) -> ParamError {
    ParamError(format!("http parameter start must be before end. received start={start} end={end}"))
}

/// Refuses over-long queries before anything parses them.
pub(super) fn check_query_size(params: &Params, limits: &RequestLimits) -> Result<(), ParamError> {
    let max = limits.max_query_bytes;
    let too_long = |(key, value): (&str, &str)| matches!(key, "q" | "query") && value.len() > max;
    if max > 0 && params.pairs().any(too_long) {
        return Err(ParamError(format!(
            "TraceQL expression exceeds the configured maximum size of {max} bytes, reduce the query expression size or contact your system administrator"
        )));
    }
    Ok(())
}

/// Where a trace is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TraceMode {
    All,
    Recent,
    Blocks,
    External,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TraceParams {
    pub(super) trace_id: TraceId,
    pub(super) mode: TraceMode,
    /// `None`: all times.
    pub(super) window: Option<Window>,
}

impl TraceParams {
    pub(super) fn parse(id: &str, params: &Params) -> Result<Self, ParamError> {
        let trace_id = parse_trace_id(id)?;
        let mode = match params.get("mode") {
            None | Some("all") => TraceMode::All,
            Some("ingesters") => TraceMode::Recent,
            Some("blocks") => TraceMode::Blocks,
            Some("external") => TraceMode::External,
            Some(other) => return Err(ParamError(format!("invalid value for mode {other}"))),
        };
        if mode == TraceMode::Recent {
            return Ok(Self { trace_id, mode, window: None });
        }
        for (name, shown) in [("blockStart", "blockstart"), ("blockEnd", "blockEnd")] {
            if let Some(text) = params.get(name) {
                text.parse::<uuid::Uuid>().map_err(|error| ParamError(format!("invalid value for {shown}: {error}")))?;
            }
        }
        let seconds = |name: &str| params.get(name).map(|text| parse_i64(text).map_err(|reason| ParamError::of(name, reason))).transpose();
        let (start, end) = (seconds("start")?.unwrap_or(0), seconds("end")?.unwrap_or(0));
        if start != 0 && end != 0 && end <= start {
            return Err(ParamError(format!("http parameter start must be before end. received start={start} end={end}")));
        }
        let unsigned = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        let window = (start > 0 || end > 0).then(|| Window { start: unsigned(start), end: if end > 0 { unsigned(end) } else { u64::MAX } });
        Ok(Self { trace_id, mode, window })
    }
}

/// Parses a trace id of 1 to 32 hex digits (http-api §4.2).
fn parse_trace_id(text: &str) -> Result<TraceId, ParamError> {
    if let Some((at, character)) = text.chars().enumerate().find(|(_, character)| !character.is_ascii_hexdigit()) {
        return Err(ParamError(format!(
            "trace IDs can only contain hex characters: invalid character '{character}' at position {}",
            at + 1
        )));
    }
    if text.len() > 32 {
        return Err(ParamError::new("trace IDs can't be larger than 128 bits"));
    }
    TraceId::from_hex(text).ok_or_else(|| ParamError::new("please provide a traceID"))
}

/// What narrows a trace by id v2 answer to some of its spans.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SpanFilterParams {
    pub(super) query: String,
    pub(super) keep_hierarchy: bool,
    /// Levels of descendants of matches to keep; `None`: all.
    pub(super) match_depth: Option<u32>,
    /// Levels of ancestors to keep with `keep_hierarchy`; `None`: all.
    pub(super) ancestor_depth: Option<u32>,
}

impl SpanFilterParams {
    /// `None` when the request has no filter.
    pub(super) fn parse(params: &Params) -> Result<Option<Self>, ParamError> {
        let Some(query) = params.get("q") else { return Ok(None) };
        let depth = |name: &str, default: i64| -> Result<Option<u32>, ParamError> {
            let of = |reason: String| ParamError(format!("invalid value for {name}: {reason}"));
            let depth = params.get(name).map(|text| parse_i64(text).map_err(of)).transpose()?.unwrap_or(default);
            if depth < -1 {
                return Err(of("must be >= -1".to_owned()));
            }
            Ok(if depth == -1 { None } else { Some(u32::try_from(depth).unwrap_or(u32::MAX)) })
        };
        let keep_hierarchy = params.flag("keep_hierarchy")?.unwrap_or(false);
        let ancestor_depth = if keep_hierarchy { depth("ancestor_depth", -1)? } else { None };
        Ok(Some(Self { query: query.to_owned(), keep_hierarchy, match_depth: depth("match_depth", 0)?, ancestor_depth }))
    }
}

/// Which attribute levels a tag names request asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagScopeParam {
    All,
    Resource,
    Span,
    Event,
    Link,
    Instrumentation,
    /// Known, but nothing is stored there.
    Trace,
    Intrinsic,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagsParams {
    pub(super) scope: TagScopeParam,
    pub(super) query: Option<String>,
    pub(super) limits: ListLimits,
    pub(super) window: Option<Window>,
}

/// 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ListLimits {
    pub(super) max_items: u32,
    pub(super) max_stale_items: u32,
}

impl TagsParams {
    pub(super) fn parse(params: &Params, limits: &RequestLimits, now: u64) -> Result<Self, ParamError> {
        check_query_size(params, limits)?;
        let scope = match params.get("scope") {
            None | Some("none") => TagScopeParam::All,
            Some("resource") => TagScopeParam::Resource,
            Some("span") => TagScopeParam::Span,
            Some("event") => TagScopeParam::Event,
            Some("link") => TagScopeParam::Link,
            Some("instrumentation") => TagScopeParam::Instrumentation,
            Some("trace") => TagScopeParam::Trace,
            Some("intrinsic") => TagScopeParam::Intrinsic,
            Some(other) => return Err(ParamError::of("scope", other)),
        };
        // A limit that is no number counts as none here, unlike for tag values (http-api §6.4).
        let number = |name: &str| params.get(name).and_then(|text| parse_u32(text).ok()).unwrap_or(0);
        let list_limits = ListLimits { max_items: number("limit"), max_stale_items: number("maxStaleValues") };
        let window = parse_window(params, limits, now)?;
        Ok(Self { scope, query: params.get("q").map(str::to_owned), limits: list_limits, window })
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TagValuesParams {
    pub(super) tag_name: String,
    pub(super) query: Option<String>,
    pub(super) limits: ListLimits,
    pub(super) window: Option<Window>,
}

impl TagValuesParams {
    pub(super) fn parse(tag_name: &str, params: &Params, limits: &RequestLimits, now: u64) -> Result<Self, ParamError> {
        check_query_size(params, limits)?;
        if tag_name.is_empty() {
            return Err(ParamError::new("please provide a non-empty tagName"));
        }
        let list_limits =
            ListLimits { max_items: params.u32("limit")?.unwrap_or(0), max_stale_items: params.u32("maxStaleValues")?.unwrap_or(0) };
        let window = parse_window(params, limits, now)?;
        Ok(Self { tag_name: tag_name.to_owned(), query: params.get("q").map(str::to_owned), limits: list_limits, window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_795_308_858;

    fn limits() -> RequestLimits {
        RequestLimits {
            default_result_limit: 20,
            max_result_limit: 262_144,
            default_spans_per_span_set: 3,
            max_spans_per_span_set: 100,
            max_duration_seconds: 168 * 3600,
            max_query_bytes: 64,
            query_end_cutoff_seconds: None,
        }
    }

    fn search(query: &str) -> Result<SearchParams, String> {
        SearchParams::parse(&Params::parse(Some(query)), &limits(), NOW).map_err(|error| error.0)
    }

    #[test]
    fn search_errors_have_the_known_texts() {
        for (query, error) in [
            ("start=x&end=5", "invalid start: strconv.ParseUint: parsing \"x\": invalid syntax"),
            ("start=10", "http parameter start must be before end. received start=10 end=0"),
            ("start=10&end=5", "http parameter start must be before end. received start=10 end=5"),
            ("end=10", "error parsing date range: only one of start and end provided: must provide both or neither"),
            ("q=%7B%7D&tags=a%3Db", "invalid request: can't specify tags and q in the same query"),
            ("tags=a%3Db%20a%3Dc", "invalid tags: tag a has been set twice"),
            ("minDuration=5", "invalid minDuration: time: missing unit in duration \"5\""),
            ("minDuration=5s&maxDuration=4s", "invalid maxDuration: must be greater than minDuration"),
            ("limit=0", "invalid limit: must be a positive number"),
            ("limit=-1", "invalid limit: strconv.ParseUint: parsing \"-1\": invalid syntax"),
            ("limit=262145", "limit 262145 exceeds max limit 262144"),
            ("spss=1000", "spans per span set exceeds 100. received 1000"),
            ("start=1&end=1795308858", "range specified by start and end exceeds 168h0m0s. received start=1 end=1795308858"),
            ("since=x", "error parsing date range: could not parse 'since' parameter: not a valid duration string: \"x\""),
            (
                "q=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                "TraceQL expression exceeds the configured maximum size of 64 bytes, reduce the query expression size or contact your system administrator",
            ),
        ] {
            assert_eq!(search(query), Err(error.to_owned()), "{query}");
        }
    }

    #[test]
    fn search_defaults() {
        let empty = search("").unwrap();
        assert_eq!(
            (empty.query.as_str(), empty.is_tag_search, empty.limit, empty.spans_per_span_set, empty.window),
            ("{ }", true, 20, 3, None)
        );
        assert_eq!(search("spss=0").unwrap().spans_per_span_set, 3);
        assert_eq!(search("since=1h").unwrap().window, Some(Window { start: NOW - 3600, end: NOW }));
        assert_eq!(search("foo=bar").unwrap().query, r#"{ ."foo" = "bar" }"#);
        assert_eq!(search("foo=bar&start=1&end=2").unwrap().query, "{ }");
        assert_eq!(search("q=%7B%7D&start=5&end=9").unwrap().window, Some(Window { start: 5, end: 9 }));
    }

    #[test]
    fn end_is_cut_only_when_a_cutoff_is_set() {
        let cut = RequestLimits { query_end_cutoff_seconds: Some(30), ..limits() };
        let window = |query: &str, limits: &RequestLimits| parse_window(&Params::parse(Some(query)), limits, NOW).unwrap().unwrap();
        let query = format!("start={}&end={NOW}", NOW - 100);
        assert_eq!(window(&query, &cut).end, NOW - 30);
        assert_eq!(window(&query, &limits()).end, NOW);
        let late = format!("start={}&end={NOW}", NOW - 10);
        assert_eq!(window(&late, &cut), Window { start: NOW - 30 - RECENT_SECONDS, end: NOW - 30 });
        assert_eq!(window("start=2026-11-22T00:00:00Z&end=2026-11-22T01:00:00Z", &limits()).start, 1_795_305_600);
    }

    #[test]
    fn trace_requests() {
        let parse = |id: &str, query: &str| TraceParams::parse(id, &Params::parse(Some(query))).map_err(|error| error.0);
        assert_eq!(parse("1fz", "").unwrap_err(), "trace IDs can only contain hex characters: invalid character 'z' at position 3");
        assert_eq!(parse(&"1".repeat(33), "").unwrap_err(), "trace IDs can't be larger than 128 bits");
        assert_eq!(parse("1F", "").unwrap().trace_id, TraceId::from_bytes(&[0x1f]));
        assert_eq!(parse("1", "start=10&end=5").unwrap_err(), "http parameter start must be before end. received start=10 end=5");
        assert_eq!(parse("1", "mode=x").unwrap_err(), "invalid value for mode x");
        assert_eq!(parse("1", "mode=ingesters&start=x").unwrap().mode, TraceMode::Recent);
        assert!(parse("1", "blockStart=x").unwrap_err().starts_with("invalid value for blockstart: "));
        assert_eq!(parse("1", "start=5").unwrap().window, Some(Window { start: 5, end: u64::MAX }));
    }

    #[test]
    fn span_filters() {
        let parse = |query: &str| SpanFilterParams::parse(&Params::parse(Some(query))).map_err(|error| error.0);
        assert_eq!(parse("keep_hierarchy=x"), Ok(None));
        assert!(parse("q=x&keep_hierarchy=x").unwrap_err().starts_with("invalid value for keep_hierarchy: "));
        assert_eq!(parse("q=x&match_depth=-2").unwrap_err(), "invalid value for match_depth: must be >= -1");
        let filter = parse("q=x&keep_hierarchy=1&ancestor_depth=2&match_depth=-1").unwrap().unwrap();
        assert_eq!((filter.keep_hierarchy, filter.match_depth, filter.ancestor_depth), (true, None, Some(2)));
    }

    #[test]
    fn tag_requests() {
        let tags = |query: &str| TagsParams::parse(&Params::parse(Some(query)), &limits(), NOW).map_err(|error| error.0);
        assert_eq!(tags("scope=foo").unwrap_err(), "invalid scope: foo");
        assert_eq!(tags("limit=x").unwrap().limits, ListLimits::default());
        assert_eq!(
            tags("start=5").unwrap_err(),
            "error parsing date range: only one of start and end provided: must provide both or neither"
        );
        let values =
            |name: &str, query: &str| TagValuesParams::parse(name, &Params::parse(Some(query)), &limits(), NOW).map_err(|error| error.0);
        assert_eq!(values("", "").unwrap_err(), "please provide a non-empty tagName");
        assert_eq!(values("a", "limit=x").unwrap_err(), "invalid limit: strconv.ParseUint: parsing \"x\": invalid syntax");
        assert_eq!(values("a", "limit=7&maxStaleValues=2").unwrap().limits, ListLimits { max_items: 7, max_stale_items: 2 });
    }
}
