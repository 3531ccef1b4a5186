//! Tag names and tag values, both versions of each (read-path §7, http-api §6.4–6.7).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::stream::{self, StreamExt as _};

use super::job_cache::Question;
use super::jobs::{self, JobPlan};
use super::limits::QueryLimits;
use super::request::{ListLimits, TagScopeParam, TagValuesParams, TagsParams};
use super::respond::{Answer, Format, WriteMessage};
use super::search::SearchTotals;
use super::{QueryFrontend, Reply};
use crate::base::error_class::ErrorClass;
use crate::model::ids::TenantId;
use crate::services::rpc::message::{Field, MessageWriter, field};
use crate::services::rpc::querier::SearchPart;
use crate::services::rpc::search::{Inspection, TagNamesRequest, TagValuesRequest, TimeRange};
use crate::services::rpc::status::CallError;
use crate::services::span_search::tag_selection;
use crate::tempodb::block::meta::BlockMeta;
use crate::traceql::ast::{Attribute, AttributeScope};
use crate::traceql::autocomplete::{extract_conditions, parse_tag};
use crate::traceql::tags::{INTRINSIC_TAGS, TagLimits, TagNames, TagScope, TagValue, TagValues, fixed_values};

/// The two shapes of tag answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TagApi {
    /// Flat lists of texts.
    V1,
    /// Names by scope, values with types; narrowed by `q`.
    V2,
}

impl QueryFrontend {
    pub(super) async fn tag_names(
        &self,
        tenants: &[TenantId],
        limits: QueryLimits,
        api: TagApi,
        params: TagsParams,
        format: Format,
    ) -> Result<Reply, CallError> {
        let filter = if api == TagApi::V2 { params.query.clone().unwrap_or_default() } else { String::new() };
        check_filter(&filter, limits.max_condition_groups_per_tag_query)?;
        let with_intrinsics = match params.scope {
            TagScopeParam::Intrinsic => true,
            TagScopeParam::All => api == TagApi::V2,
            _ => false,
        };
        let tag_limits = tag_limits(params.limits, limits);
        let mut request = TagNamesRequest { scopes: scopes_of(params.scope), filter, range: TimeRange::default(), limits: tag_limits };
        let mut names = TagNames::new(tag_limits);
        let (mut totals, mut truncated) = (SearchTotals::default(), false);
        if !request.scopes.is_empty() {
            let mut plan = self.job_plan(tenants, params.window, limits.max_blocks_per_tag_values_query);
            request.range = self.block_range(params.window);
            for (tenant, blocks) in listable_blocks(tenants, &plan, &request.filter) {
                let listed = || self.querier.listed_tag_names(tenant, &request, &blocks);
                let listed = jobs::with_retries(self.config.max_retries, listed).await?;
                plan.keep_blocks(tenant, &listed.left);
                totals.add_listed(listed.reply.inspection);
                truncated |= listed.reply.truncated;
                listed.reply.names.iter().for_each(|(scope, found)| found.iter().for_each(|name| names.add(*scope, name)));
            }
            totals.add_plan(&plan);
            let unbounded =
                TagNamesRequest { range: if params.window.is_some() { request.range } else { TimeRange::default() }, ..request.clone() };
            let (in_blocks, recent, question) = (&request, &unbounded, &Question::tag_names(&request));
            let mut replies = stream::iter(plan.jobs)
                .map(|job| async move {
                    let _slot = self.slots.take(&job.tenant)?;
                    let request = if matches!(job.part, SearchPart::Recent) { recent } else { in_blocks };
                    let ask = || jobs::with_retries(self.config.max_retries, || self.querier.tag_names(&job.tenant, request, &job.part));
                    self.job_cache.get_or_ask(question, &job, request.range, ask).await
                })
                .buffer_unordered(self.config.search.concurrent_jobs.max(1));
            while let Some(reply) = replies.next().await {
                let reply = reply?;
                totals.completed_jobs += 1;
                totals.inspection.add(reply.inspection);
                truncated |= reply.truncated;
                reply.names.iter().for_each(|(scope, found)| found.iter().for_each(|name| names.add(*scope, name)));
                if names.is_exhausted() {
                    truncated = true;
                    break;
                }
            }
        }
        let body = match api {
            TagApi::V1 => {
                let mut flat = names.into_flat();
                if with_intrinsics {
                    flat.extend(INTRINSIC_TAGS.iter().map(|name| Arc::from(*name)));
                }
                let mut flat: Vec<Arc<str>> = flat.into_iter().collect();
                if params.limits.max_items > 0 {
                    flat.truncate(params.limits.max_items as usize);
                }
                format.encode(&NamesMessage { names: flat, totals })
            }
            TagApi::V2 => format.encode(&ScopesMessage { scopes: names.into_scopes().collect(), with_intrinsics, totals }),
        };
        let answer = Answer { truncated, ..Answer::ok(format, body) };
        Ok(Reply { answer, inspection: totals.inspection, jobs: totals.jobs })
    }

    pub(super) async fn tag_values(
        &self,
        tenants: &[TenantId],
        limits: QueryLimits,
        api: TagApi,
        params: TagValuesParams,
        format: Format,
    ) -> Result<Reply, CallError> {
        let filter = if api == TagApi::V2 { params.query.clone().unwrap_or_default() } else { String::new() };
        let attribute = match api {
            TagApi::V1 => match legacy_tag(&params.tag_name) {
                LegacyTag::Attribute(attribute) => attribute,
                LegacyTag::Fixed(texts) => {
                    let values = texts.iter().map(|text| TagValue { kind: "string", text: (*text).into() }).collect();
                    return Ok(values_reply(api, format, values, SearchTotals::default(), false));
                }
            },
            TagApi::V2 => parse_tag(&params.tag_name).map_err(|error| {
                let text = format!("please provide a valid tagName: failed to parse identifier {}: {error}", params.tag_name);
                CallError::new(ErrorClass::Invalid, text)
            })?,
        };
        // An unscoped name stands for two alternatives of each group, one per scope (traceql §11.1).
        let is_unscoped = matches!(&attribute, Attribute::Named(named) if named.scope == AttributeScope::Unscoped);
        let max_groups = limits.max_condition_groups_per_tag_query;
        check_filter(&filter, if is_unscoped { max_groups.div_ceil(2) } else { max_groups })?;
        if let Some(values) = fixed_values(&attribute) {
            return Ok(values_reply(api, format, values.into_iter().collect(), SearchTotals::default(), false));
        }
        let tag_limits = tag_limits(params.limits, limits);
        let mut plan = self.job_plan(tenants, params.window, limits.max_blocks_per_tag_values_query);
        let in_blocks = TagValuesRequest { attribute, filter, range: self.block_range(params.window), limits: tag_limits };
        let mut values = TagValues::new(tag_limits);
        let (mut totals, mut truncated) = (SearchTotals::default(), false);
        for (tenant, blocks) in listable_blocks(tenants, &plan, &in_blocks.filter) {
            let listed = || self.querier.listed_tag_values(tenant, &in_blocks, &blocks);
            let listed = jobs::with_retries(self.config.max_retries, listed).await?;
            plan.keep_blocks(tenant, &listed.left);
            totals.add_listed(listed.reply.inspection);
            truncated |= listed.reply.truncated;
            listed.reply.values.into_iter().for_each(|value| values.add(value));
        }
        totals.add_plan(&plan);
        let recent =
            TagValuesRequest { range: if params.window.is_some() { in_blocks.range } else { TimeRange::default() }, ..in_blocks.clone() };
        let (in_blocks, recent, question) = (&in_blocks, &recent, &Question::tag_values(&in_blocks));
        let mut replies = stream::iter(plan.jobs)
            .map(|job| async move {
                let _slot = self.slots.take(&job.tenant)?;
                let request = if matches!(job.part, SearchPart::Recent) { recent } else { in_blocks };
                let ask = || jobs::with_retries(self.config.max_retries, || self.querier.tag_values(&job.tenant, request, &job.part));
                self.job_cache.get_or_ask(question, &job, request.range, ask).await
            })
            .buffer_unordered(self.config.search.concurrent_jobs.max(1));
        while let Some(reply) = replies.next().await {
            let reply = reply?;
            totals.completed_jobs += 1;
            totals.inspection.add(reply.inspection);
            truncated |= reply.truncated;
            reply.values.into_iter().for_each(|value| values.add(value));
            if values.is_exhausted() {
                truncated = true;
                break;
            }
        }
        Ok(values_reply(api, format, values.into_values(), totals, truncated))
    }
}

/// Refuses a filter with too many alternatives before any job runs.
fn check_filter(filter: &str, max_groups: usize) -> Result<(), CallError> {
    let max_groups = if max_groups == 0 { usize::MAX } else { max_groups };
    match extract_conditions(filter, max_groups) {
        Ok(_) => Ok(()),
        Err(error) => Err(CallError::new(ErrorClass::Invalid, error.to_string())),
    }
}

fn scopes_of(param: TagScopeParam) -> Vec<TagScope> {
    match param {
        TagScopeParam::All => TagScope::ALL.to_vec(),
        TagScopeParam::Resource => vec![TagScope::Resource],
        TagScopeParam::Span => vec![TagScope::Span],
        TagScopeParam::Event => vec![TagScope::Event],
        TagScopeParam::Link => vec![TagScope::Link],
        TagScopeParam::Instrumentation => vec![TagScope::Instrumentation],
        TagScopeParam::Trace | TagScopeParam::Intrinsic => Vec::new(),
    }
}

fn tag_limits(list: ListLimits, limits: QueryLimits) -> TagLimits {
    TagLimits {
        max_bytes: usize::try_from(limits.max_bytes_per_tag_values_query).unwrap_or(usize::MAX),
        max_items: list.max_items as usize,
        max_stale: list.max_stale_items as usize,
    }
}

/// Returns the tenants that have stored blocks, with these, when every span counts: then tag lists may answer for them.
fn listable_blocks<'a>(tenants: &'a [TenantId], plan: &JobPlan, filter: &str) -> Vec<(&'a TenantId, Vec<Arc<BlockMeta>>)> {
    if !tag_selection(filter).is_all() {
        return Vec::new();
    }
    let blocks = tenants.iter().map(|tenant| (tenant, plan.blocks_of(tenant)));
    blocks.filter(|(_, blocks)| !blocks.is_empty()).collect()
}

impl SearchTotals {
    fn add_plan(&mut self, plan: &JobPlan) {
        self.blocks += plan.blocks;
        self.block_bytes += plan.block_bytes;
        self.jobs += plan.jobs.len();
    }

    /// Adds a job over tag lists, which is done.
    fn add_listed(&mut self, inspection: Inspection) {
        self.jobs += 1;
        self.completed_jobs += 1;
        self.inspection.add(inspection);
    }
}

/// What the tag name of a v1 request stands for.
enum LegacyTag {
    Attribute(Attribute),
    /// Virtual tags with known values.
    Fixed(&'static [&'static str]),
}

fn legacy_tag(name: &str) -> LegacyTag {
    match name {
        "status.code" => return LegacyTag::Fixed(&["error", "ok", "unset"]),
        "error" => return LegacyTag::Fixed(&["true"]),
        _ => {}
    }
    match parse_tag(name) {
        Ok(attribute @ Attribute::Intrinsic(_)) => LegacyTag::Attribute(attribute),
        _ => LegacyTag::Attribute(Attribute::named(AttributeScope::Unscoped, name)),
    }
}

fn values_reply(api: TagApi, format: Format, values: BTreeSet<TagValue>, totals: SearchTotals, truncated: bool) -> Reply {
    let body = match api {
        TagApi::V1 => {
            let texts: BTreeSet<Arc<str>> = values.into_iter().map(|value| value.text).collect();
            format.encode(&TextsMessage { texts, totals })
        }
        TagApi::V2 => format.encode(&ValuesMessage { values, totals }),
    };
    let answer = Answer { truncated, ..Answer::ok(format, body) };
    Reply { answer, inspection: totals.inspection, jobs: totals.jobs }
}

const METRICS: Field = field(2, "metrics");

/// `MetadataMetrics`
fn write_metrics(out: &mut impl MessageWriter, totals: &SearchTotals) {
    out.message(METRICS, |out| {
        out.uint64(field(1, "inspectedBytes"), totals.inspection.bytes);
        out.uint32(field(2, "totalJobs"), u32::try_from(totals.jobs).unwrap_or(u32::MAX));
        out.uint32(field(3, "completedJobs"), totals.completed_jobs);
        out.uint32(field(4, "totalBlocks"), totals.blocks);
        out.uint64(field(5, "totalBlockBytes"), totals.block_bytes);
        out.uint64(field(6, "backendReads"), totals.inspection.backend_reads);
        out.uint64(field(7, "backendBytes"), totals.inspection.backend_bytes);
    });
}

/// `SearchTagsResponse`
struct NamesMessage {
    names: Vec<Arc<str>>,
    totals: SearchTotals,
}

impl WriteMessage for NamesMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        out.texts_or_empty(field(1, "tagNames"), self.names.iter().map(|name| name.as_bytes()));
        write_metrics(out, &self.totals);
    }
}

/// `SearchTagsV2Response`
struct ScopesMessage {
    scopes: BTreeMap<TagScope, BTreeSet<Arc<str>>>,
    with_intrinsics: bool,
    totals: SearchTotals,
}

impl WriteMessage for ScopesMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        let found = self.scopes.iter().map(|(scope, names)| (scope.as_str(), names.iter().map(|name| &**name).collect::<Vec<_>>()));
        let intrinsics = self.with_intrinsics.then(|| ("intrinsic", INTRINSIC_TAGS.to_vec()));
        out.messages_or_empty(field(1, "scopes"), found.chain(intrinsics), |out, (scope, names)| {
            out.text(field(1, "name"), scope.as_bytes());
            out.texts_or_empty(field(2, "tags"), names.iter().map(|name| name.as_bytes()));
        });
        write_metrics(out, &self.totals);
    }
}

/// `SearchTagValuesResponse`
struct TextsMessage {
    texts: BTreeSet<Arc<str>>,
    totals: SearchTotals,
}

impl WriteMessage for TextsMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        out.texts_or_empty(field(1, "tagValues"), self.texts.iter().map(|text| text.as_bytes()));
        write_metrics(out, &self.totals);
    }
}

/// `SearchTagValuesV2Response`
struct ValuesMessage {
    values: BTreeSet<TagValue>,
    totals: SearchTotals,
}

impl WriteMessage for ValuesMessage {
    fn write(&self, out: &mut impl MessageWriter) {
        out.messages_or_empty(field(1, "tagValues"), &self.values, |out, value| {
            out.text(field(1, "type"), value.kind.as_bytes());
            out.text(field(2, "value"), value.text.as_bytes());
        });
        write_metrics(out, &self.totals);
    }
}
