//! Routes of the live-store: `/flush` puts what is in memory into blocks, as the ingester's endpoint of Tempo 2.x does.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::any;
use serde::Deserialize;

use super::LiveStore;
use crate::model::ids::TenantId;

/// Paths served here.
pub const PATHS: [&str; 1] = ["/flush"];

pub fn router(store: Arc<LiveStore>) -> Router {
    Router::new().route("/flush", any(flush)).with_state(store)
}

#[derive(Deserialize)]
struct FlushParameters {
    tenant: Option<String>,
}

/// 204 when everything that was in memory is in blocks; 503 when the live-store stopped before; 404 for a tenant without live traces.
async fn flush(State(store): State<Arc<LiveStore>>, Query(parameters): Query<FlushParameters>) -> StatusCode {
    let is_flushed = match parameters.tenant.as_deref().map(TenantId::parse) {
        None => store.flush_now(None).await,
        Some(Ok(tenant)) if store.has_live_traces(&tenant) => store.flush_now(Some(&tenant)).await,
        Some(_) => return StatusCode::NOT_FOUND,
    };
    if is_flushed { StatusCode::NO_CONTENT } else { StatusCode::SERVICE_UNAVAILABLE }
}
