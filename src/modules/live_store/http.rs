//! Routes of the live-store: `/flush` puts what is in memory into blocks, as the ingester's endpoint of Tempo 2.x does.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::any;
use serde::Deserialize;

use super::LiveStore;
use crate::model::ids::TenantId;

/// A flush that takes longer goes on, but is answered as unavailable: the backend may be full or away.
const ANSWER_LIMIT: Duration = Duration::from_secs(60);

/// Paths served here.
pub const PATHS: [&str; 1] = ["/flush"];

pub fn router(store: Arc<LiveStore>) -> Router {
    Router::new().route("/flush", any(flush)).with_state(store)
}

#[derive(Deserialize)]
struct FlushParameters {
    tenant: Option<String>,
}

/// 204 when everything acknowledged before is in blocks, 404 for a tenant without live traces, 503 when it takes too long or the process stops.
async fn flush(State(store): State<Arc<LiveStore>>, Query(parameters): Query<FlushParameters>) -> StatusCode {
    let tenant = match parameters.tenant.as_deref().map(TenantId::parse) {
        None => None,
        Some(Ok(tenant)) if store.has_live_traces(&tenant) => Some(tenant),
        Some(_) => return StatusCode::NOT_FOUND,
    };
    match tokio::time::timeout(ANSWER_LIMIT, store.flush_now(tenant.as_ref())).await {
        Ok(true) => StatusCode::NO_CONTENT,
        Ok(false) | Err(_) => StatusCode::SERVICE_UNAVAILABLE,
    }
}
