//! `query api …`: asks the HTTP API of a running process and prints its JSON.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use jiff::Timestamp;
use serde_json::Value;

use super::output::Output;
use super::storage::{parse_time, parse_trace_id};
use crate::model::ids::TraceId;

/// Longest part of an answer that is no JSON shown in an error.
const MAX_SHOWN_ERROR: usize = 1000;

#[derive(Debug, Subcommand)]
pub(super) enum ApiCommand {
    /// A trace.
    TraceId {
        #[command(flatten)]
        target: Target,
        #[arg(value_parser = parse_trace_id)]
        trace_id: TraceId,
        /// The first version of the endpoint.
        #[arg(long)]
        v1: bool,
        #[command(flatten)]
        range: Range,
    },
    /// Traces that match a TraceQL query.
    Search {
        #[command(flatten)]
        target: Target,
        query: String,
        #[command(flatten)]
        range: Range,
        #[arg(long, default_value_t = 20)]
        limit: u32,
        /// Spans shown of each span set.
        #[arg(long)]
        spss: Option<u32>,
    },
    /// Names of attributes.
    SearchTags {
        #[command(flatten)]
        target: Target,
        #[command(flatten)]
        range: Range,
        /// resource, span, event, link, instrumentation, intrinsic.
        #[arg(long)]
        scope: Option<String>,
    },
    /// Values of an attribute.
    SearchTagValues {
        #[command(flatten)]
        target: Target,
        /// With its scope, such as span.http.route.
        tag: String,
        #[command(flatten)]
        range: Range,
        /// TraceQL that narrows the spans looked at.
        #[arg(long)]
        query: Option<String>,
    },
    /// A TraceQL metrics query.
    Metrics {
        #[command(flatten)]
        target: Target,
        query: String,
        #[command(flatten)]
        range: Range,
        /// One value for the whole range instead of a series.
        #[arg(long)]
        instant: bool,
        #[arg(long)]
        step: Option<String>,
    },
}

/// The process to ask.
#[derive(Debug, Args)]
pub(super) struct Target {
    /// `host:port` or a URL.
    endpoint: String,
    /// Tenant.
    #[arg(long, default_value = "")]
    org_id: String,
    /// HTTPS, if the endpoint does not say.
    #[arg(long)]
    secure: bool,
    /// Prefix of the API's paths.
    #[arg(long, default_value = "")]
    path_prefix: String,
}

#[derive(Debug, Args)]
pub(super) struct Range {
    /// RFC 3339, seconds since 1970, `now`, or `now-1h`.
    #[arg(value_parser = parse_time, requires = "end")]
    start: Option<Timestamp>,
    #[arg(value_parser = parse_time)]
    end: Option<Timestamp>,
}

impl Range {
    fn parameters(&self) -> Vec<(&'static str, String)> {
        let second = |time: Option<Timestamp>| time.map(|time| time.as_second().to_string());
        [("start", second(self.start)), ("end", second(self.end))].into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl ApiCommand {
    pub(super) async fn run(self, out: &mut Output) -> anyhow::Result<()> {
        let (target, path, parameters) = self.request();
        let answer = target.get(&path, &parameters).await?;
        out.json(&answer)
    }

    fn request(self) -> (Target, String, Vec<(&'static str, String)>) {
        match self {
            Self::TraceId { target, trace_id, v1, range } => {
                let version = if v1 { "" } else { "v2/" };
                (target, format!("/api/{version}traces/{trace_id}"), range.parameters())
            }
            Self::Search { target, query, range, limit, spss } => {
                let mut parameters = range.parameters();
                parameters.extend([("q", query), ("limit", limit.to_string())]);
                parameters.extend(spss.map(|spss| ("spss", spss.to_string())));
                (target, "/api/search".to_owned(), parameters)
            }
            Self::SearchTags { target, range, scope } => {
                let mut parameters = range.parameters();
                parameters.extend(scope.map(|scope| ("scope", scope)));
                (target, "/api/v2/search/tags".to_owned(), parameters)
            }
            Self::SearchTagValues { target, tag, range, query } => {
                let mut parameters = range.parameters();
                parameters.extend(query.map(|query| ("q", query)));
                let tag = percent_encoding::utf8_percent_encode(&tag, percent_encoding::NON_ALPHANUMERIC);
                (target, format!("/api/v2/search/tag/{tag}/values"), parameters)
            }
            Self::Metrics { target, query, range, instant, step } => {
                let mut parameters = range.parameters();
                parameters.push(("q", query));
                parameters.extend(step.map(|step| ("step", step)));
                (target, if instant { "/api/metrics/query" } else { "/api/metrics/query_range" }.to_owned(), parameters)
            }
        }
    }
}

impl Target {
    fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let base = if self.endpoint.contains("://") { self.endpoint.clone() } else { format!("{scheme}://{}", self.endpoint) };
        let prefix = self.path_prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("/{prefix}") };
        format!("{}{prefix}{path}", base.trim_end_matches('/'))
    }

    async fn get(&self, path: &str, parameters: &[(&str, String)]) -> anyhow::Result<Value> {
        let url = self.url(path);
        let mut request = reqwest::Client::builder().build()?.get(&url).query(parameters).header("Accept", "application/json");
        if !self.org_id.is_empty() {
            request = request.header("X-Scope-OrgID", &self.org_id);
        }
        let answer = request.send().await.with_context(|| format!("cannot ask {url}"))?;
        let status = answer.status();
        if answer.headers().contains_key("x-tempo-truncated") {
            crate::app::complain("the answer is partial");
        }
        let body = answer.text().await?;
        anyhow::ensure!(
            status.is_success(),
            "{url} answers {status}: {}",
            body.trim_end().chars().take(MAX_SHOWN_ERROR).collect::<String>()
        );
        serde_json::from_str(&body).with_context(|| format!("{url} does not answer JSON"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_may_be_addresses_or_urls() {
        let url = |endpoint: &str, secure, prefix: &str| {
            let target = Target { endpoint: endpoint.to_owned(), org_id: String::new(), secure, path_prefix: prefix.to_owned() };
            target.url("/api/search")
        };
        assert_eq!(url("localhost:3200", false, ""), "http://localhost:3200/api/search");
        assert_eq!(url("tempo:443", true, "/tempo/"), "https://tempo:443/tempo/api/search");
        assert_eq!(url("https://tempo/", false, "x"), "https://tempo/x/api/search");
    }
}
