//! Answers of jobs over blocks that were asked before (read-path, frontend cache).
//!
//! Invariants
//! * Only jobs whose block lies wholly within the time range are answered from here, so the range does not matter for what is kept.
//! * An entry says which question it answers, in full, and of which build: a collision of hashes or another version reads as a miss.
//! * Only complete answers are kept: none that left a broken block out.

use metrics::counter;

use super::cached_reply::CachedReply;
use super::jobs::Job;
use super::metrics::{JOB_CACHE_REFUSED, JOB_CACHE_UNREADABLE};
use crate::model::wire::{Fields, put_bytes};
use crate::services::rpc::metrics_query::MetricsRequest;
use crate::services::rpc::querier::SearchPart;
use crate::services::rpc::search::{SearchReply, TagNamesRequest, TagValuesRequest, TimeRange};
use crate::services::rpc::status::CallError;
use crate::tempodb::cache::{CacheRole, Caches};
use crate::traceql::ast::Query;
use crate::traceql::metrics::Window;
use crate::traceql::result::{SearchRequest, TraceHit};

/// Changes whenever entries of the same build number could not be read any more.
const FORMAT: u8 = 2;
/// What an entry begins with; nobody else's values do.
const MAGIC: [u8; 4] = [0, b't', b'r', FORMAT];
/// Larger answers are not kept.
const MAX_ENTRY_BYTES: usize = 4 << 20;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// The cached answers.
#[derive(Debug, Clone)]
pub(super) struct JobCache(Caches);

/// A question, whatever part of the data it is put to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    prefix: &'static str,
    text: String,
}

/// The place of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct EntryKey<'a> {
    key: String,
    question: &'a Question,
}

impl Question {
    pub(super) fn search(query: &Query, request: &SearchRequest) -> Self {
        let SearchRequest {
            query: _,
            limit,
            spans_per_span_set,
            start_unix_seconds: _,
            end_unix_seconds: _,
            min_duration_nanos,
            max_duration_nanos,
        } = request;
        Self::new("sj:", format!("{limit} {spans_per_span_set} {min_duration_nanos:?} {max_duration_nanos:?} {query}"))
    }

    pub(super) fn tag_names(request: &TagNamesRequest) -> Self {
        let TagNamesRequest { scopes, filter, range: _, limits } = request;
        Self::new("st:", format!("{scopes:?} {limits:?} {filter}"))
    }

    pub(super) fn tag_values(request: &TagValuesRequest) -> Self {
        let TagValuesRequest { attribute, filter, range: _, limits } = request;
        Self::new("stv:", format!("{attribute} {limits:?} {filter}"))
    }

    /// The text is that of the request: the canonical one leaves out arguments of `compare()`. A range answer is a value per step at times that are
    /// multiples of it, whatever the window; an instant one depends on it.
    pub(super) fn metrics(request: &MetricsRequest) -> Self {
        let MetricsRequest { query, window: Window { start, end, step, instant }, exemplars, max_series } = request;
        let window = instant.then_some((start, end));
        Self::new("qr:", format!("{step} {window:?} {exemplars} {max_series} {query}"))
    }

    fn new(prefix: &'static str, text: String) -> Self {
        Self { prefix, text: format!("{} {text}", env!("CARGO_PKG_VERSION")) }
    }

    /// FNV-1a, 64 bits.
    fn hash(&self) -> u64 {
        self.text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
    }
}

impl JobCache {
    pub(super) fn new(caches: Caches) -> Self {
        Self(caches)
    }

    /// Returns the place of the answer to `question` for `job`; `None` when it must not be cached.
    pub(super) fn key<'a>(&self, question: &'a Question, job: &Job, range: TimeRange) -> Option<EntryKey<'a>> {
        let SearchPart::Block { meta, row_groups } = &job.part else { return None };
        let (start, end) = (meta.start_time.as_second(), meta.end_time.as_second());
        let is_within = i64::from(range.start_unix_seconds) < start && end < i64::from(range.end_unix_seconds) && start <= end;
        let hash = question.hash();
        if !self.0.has(CacheRole::FrontendSearch) || !is_within || hash == 0 {
            return None;
        }
        // The last job of a block has no end.
        let pages = row_groups.end.min(meta.total_records.max(1) as usize).saturating_sub(row_groups.start);
        let Question { prefix, .. } = question;
        Some(EntryKey { key: format!("{prefix}{}:{hash}:{}:{}:{pages}", job.tenant, meta.block_id, row_groups.start), question })
    }

    pub(super) async fn get<R: CachedReply>(&self, key: &EntryKey<'_>) -> Option<R> {
        let entry = self.0.get(CacheRole::FrontendSearch, key.key.clone()).await?;
        let reply = decode(&entry, &key.question.text);
        if reply.is_none() {
            counter!(JOB_CACHE_UNREADABLE).increment(1);
        }
        reply
    }

    /// Returns the answer to `question` for `job`, kept or fresh.
    pub(super) async fn get_or_ask<R, F>(
        &self,
        question: &Question,
        job: &Job,
        range: TimeRange,
        ask: impl FnOnce() -> F,
    ) -> Result<R, CallError>
    where
        R: CachedReply,
        F: Future<Output = Result<R, CallError>>,
    {
        let Some(key) = self.key(question, job, range) else { return ask().await };
        if let Some(reply) = self.get(&key).await {
            return Ok(reply);
        }
        let reply = ask().await?;
        self.put(&key, &reply);
        Ok(reply)
    }

    pub(super) fn put<R: CachedReply>(&self, key: &EntryKey<'_>, reply: &R) {
        if !reply.is_complete() {
            return;
        }
        let entry = encode(reply, &key.question.text);
        if entry.len() > MAX_ENTRY_BYTES {
            counter!(JOB_CACHE_REFUSED).increment(1);
            return;
        }
        self.0.put(CacheRole::FrontendSearch, key.key.clone(), &entry);
    }
}

/// ```text
/// magic [4]  crc32 of the rest [4, little endian]  protobuf: 1 question, 2 reply
/// ```
fn encode<R: CachedReply>(reply: &R, question: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_bytes(&mut body, 1, question.as_bytes());
    put_bytes(&mut body, 2, &reply.encode());
    let mut entry = MAGIC.to_vec();
    entry.extend(crc32fast::hash(&body).to_le_bytes());
    entry.extend(body);
    entry
}

fn decode<R: CachedReply>(entry: &[u8], question: &str) -> Option<R> {
    let (checksum, body) = entry.strip_prefix(&MAGIC)?.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*checksum) != crc32fast::hash(body) {
        return None;
    }
    let mut fields = Fields::new(body);
    let (asked, reply) = (fields.next_field().ok()??, fields.next_field().ok()??);
    if (asked.number, reply.number) != (1, 2) || asked.bytes().ok()? != question.as_bytes() {
        return None;
    }
    R::decode(reply.bytes().ok()?)
}

/// Takes the hits within the time range of `request` out of a search without one; `None` when these may not be all.
///
/// A block may hold traces older than it says: those that came late. An answer for one range must not hide them from another.
pub(super) fn within_range(mut reply: SearchReply, request: &SearchRequest) -> Option<SearchReply> {
    let found = reply.hits.len();
    let mut is_sure = true;
    reply.hits.retain(|hit| {
        let is_inside = is_inside(hit, request);
        is_sure &= is_inside.is_some();
        is_inside != Some(false)
    });
    // A search that ended at its limit may have left out hits of the range for those that are not in it.
    let is_cut = found >= request.limit.max(1) && reply.hits.len() < found;
    (is_sure && !is_cut).then_some(reply)
}

/// Whether a hit lies in the range; `None` when its start is not known.
fn is_inside(hit: &TraceHit, request: &SearchRequest) -> Option<bool> {
    let start = u64::from(request.start_unix_seconds) * NANOS_PER_SECOND;
    let end = u64::from(request.end_unix_seconds) * NANOS_PER_SECOND;
    if hit.start_unix_nanos == 0 {
        return None;
    }
    Some(hit.start_unix_nanos <= end && hit.start_unix_nanos.saturating_add(hit.duration_nanos) >= start)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::model::ids::{TenantId, TraceId};
    use crate::tempodb::block::meta::BlockMeta;
    use crate::tempodb::cache::testing::caches_of;
    use crate::traceql::tags::{TagLimits, TagScope};

    const START: u32 = 1_795_305_600;

    /// A block of 60 seconds with 4 row groups.
    fn job(row_groups: std::ops::Range<usize>) -> Job {
        let json = r#"{"format":"vParquet5","blockID":"b1a76807-e24a-4b98-bcfd-0e2a55737f75","tenantID":"t","totalRecords":4,
            "startTime":"2026-11-22T00:00:00Z","endTime":"2026-11-22T00:01:00Z"}"#;
        let meta = BlockMeta::from_json(json.as_bytes()).unwrap();
        assert_eq!(meta.start_time.as_second(), i64::from(START));
        Job { tenant: TenantId::parse("t").unwrap(), part: SearchPart::Block { meta: Arc::new(meta), row_groups }, newest_unix_seconds: 0 }
    }

    fn search(query: &str, request: &SearchRequest) -> Question {
        Question::search(&crate::traceql::compile(query).unwrap(), request)
    }

    fn request() -> SearchRequest {
        SearchRequest { limit: 2, start_unix_seconds: START - 1, end_unix_seconds: START + 61, ..SearchRequest::default() }
    }

    #[test]
    fn keys_name_question_block_and_pages() {
        let (caches, _maps) = caches_of(&[CacheRole::FrontendSearch]);
        let cache = JobCache::new(caches);
        let question = Question { prefix: "sj:", text: "a".to_owned() };
        let range = |start: u32, end: u32| TimeRange { start_unix_seconds: START + start - 10, end_unix_seconds: START + end };
        let key = |job: Job, range| cache.key(&question, &job, range).map(|key| key.key);
        // The published FNV-1a of "a".
        let expected = format!("sj:t:{}:b1a76807-e24a-4b98-bcfd-0e2a55737f75:1:2", 0xaf63_dc4c_8601_ec8c_u64);
        assert_eq!(key(job(1..3), range(9, 61)), Some(expected));
        assert!(key(job(1..usize::MAX), range(9, 61)).unwrap().ends_with(":1:3"));
        assert_eq!(key(job(1..3), range(10, 61)), None, "starts with the block");
        assert_eq!(key(job(1..3), range(9, 60)), None, "ends with the block");
        assert_eq!(key(Job { part: SearchPart::Recent, ..job(0..1) }, range(0, 1000)), None);
        assert!(JobCache::new(Caches::default()).key(&question, &job(1..3), range(9, 61)).is_none());
    }

    #[test]
    fn questions_differ_in_all_that_changes_the_answer() {
        let base = request();
        let same = SearchRequest { start_unix_seconds: 7, query: "other text".to_owned(), ..base.clone() };
        assert_eq!(search("{ .a=1 }", &base), search("{.a = 1}", &same));
        let limit = SearchRequest { limit: 3, ..base.clone() };
        let duration = SearchRequest { min_duration_nanos: Some(1), ..base.clone() };
        let names = |filter: &str, scopes: &[TagScope], max_items: usize| {
            let limits = TagLimits { max_items, ..TagLimits::default() };
            Question::tag_names(&TagNamesRequest {
                scopes: scopes.to_vec(),
                filter: filter.to_owned(),
                range: TimeRange::default(),
                limits,
            })
        };
        let metrics = |query: &str, window: Window, exemplars: u32| {
            Question::metrics(&MetricsRequest { query: query.to_owned(), window, exemplars, max_series: 0 })
        };
        assert_eq!(metrics("{} | rate()", Window::range(10, 20, 5), 0), metrics("{} | rate()", Window::range(5, 40, 5), 0));
        let questions = [
            metrics("{} | rate()", Window::range(10, 20, 5), 0),
            metrics("{} | rate()", Window::range(10, 20, 10), 0),
            metrics("{} | rate()", Window::range(10, 20, 10), 1),
            metrics("{} | rate()", Window::instant(10, 20), 0),
            metrics("{} | rate()", Window::instant(15, 25), 0),
            metrics("{} | compare({status = error}, 5)", Window::range(10, 20, 5), 0),
            metrics("{} | compare({status = error}, 6)", Window::range(10, 20, 5), 0),
            search("{ .a = 1 }", &base),
            search("{ .a = 2 }", &base),
            search("{ .a = 1 } with (most_recent=true)", &base),
            search("{ .a = 1 } with (order_by=\"start\")", &base),
            search("{ .a = 1 } with (order_by=\"start\", desc=true)", &base),
            search("{ .a = 1 } with (order_by=\"duration\")", &base),
            search("{ .a = 1 }", &limit),
            search("{ .a = 1 }", &duration),
            names("", &[TagScope::Span], 0),
            names("{}", &[TagScope::Span], 0),
            names("", &[TagScope::Link], 0),
            names("", &[TagScope::Span], 1),
        ];
        for (i, a) in questions.iter().enumerate() {
            for (j, b) in questions.iter().enumerate() {
                assert_eq!(a == b, i == j, "{a:?} {b:?}");
                assert_eq!((a.prefix, a.hash()) == (b.prefix, b.hash()), i == j, "{a:?} {b:?}");
            }
        }
    }

    #[tokio::test]
    async fn entries_of_others_are_misses() {
        let (caches, maps) = caches_of(&[CacheRole::FrontendSearch]);
        let cache = JobCache::new(caches);
        let (question, range) = (search("{}", &request()), TimeRange { start_unix_seconds: 1, end_unix_seconds: u32::MAX });
        let job = job(0..4);
        let key = cache.key(&question, &job, range).unwrap();
        assert!(cache.get::<SearchReply>(&key).await.is_none());
        cache.put(&key, &SearchReply::default());
        assert!(cache.get::<SearchReply>(&key).await.is_some());
        let entry = maps[&CacheRole::FrontendSearch].0.lock()[&key.key].clone();
        for at in 0..entry.len() {
            let mut broken = entry.to_vec();
            broken[at] ^= 1;
            assert!(decode::<SearchReply>(&broken, &question.text).is_none(), "{at}");
            assert!(decode::<SearchReply>(&entry[..at], &question.text).is_none(), "{at}");
        }
        assert!(decode::<SearchReply>(&entry, "another question").is_none());
        let incomplete = EntryKey { key: "other".to_owned(), question: &question };
        let mut reply = SearchReply::default();
        reply.inspection.skipped_jobs = 1;
        cache.put(&incomplete, &reply);
        assert_eq!(maps[&CacheRole::FrontendSearch].keys(), [key.key]);
    }

    #[test]
    fn late_traces_are_left_out_or_make_the_answer_uncertain() {
        let second = |second: u32| u64::from(START + second) * NANOS_PER_SECOND;
        let hit = |start_unix_nanos: u64, duration_nanos: u64| TraceHit {
            trace_id: TraceId([1; 16]),
            root_service_name: "".into(),
            root_trace_name: "".into(),
            start_unix_nanos,
            duration_nanos,
            service_stats: BTreeMap::new(),
            span_sets: Vec::new(),
        };
        let count = |hits: Vec<TraceHit>, limit: usize| {
            let request = SearchRequest { limit, start_unix_seconds: START, end_unix_seconds: START + 61, ..SearchRequest::default() };
            within_range(SearchReply { hits, ..SearchReply::default() }, &request).map(|reply| reply.hits.len())
        };
        let late = second(0) - 10 * NANOS_PER_SECOND;
        let until_start = 10 * NANOS_PER_SECOND;
        assert_eq!(count(vec![hit(second(0), 0), hit(second(61), 0), hit(late, until_start)], 3), Some(3));
        assert_eq!(count(vec![hit(second(0), 0), hit(late, until_start - 1)], 3), Some(1));
        assert_eq!(count(vec![hit(second(0), 0), hit(late, until_start - 1)], 2), None, "cut at the limit");
        assert_eq!(count(vec![hit(0, 5)], 3), None);
        assert_eq!(count(vec![hit(second(62), 5)], 3), Some(0));
    }
}
