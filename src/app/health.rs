//! `grpc.health.v1`: one answer for every service name (config §6.6).

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::ops::Ops;

/// How often a watched status is looked at.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct HealthService(pub(super) Arc<Ops>);

fn status(ops: &Ops) -> ServingStatus {
    if ops.is_serving() { ServingStatus::Serving } else { ServingStatus::NotServing }
}

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(&self, _request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        Ok(Response::new(HealthCheckResponse { status: status(&self.0).into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    /// Sends the status, and again whenever it has changed.
    async fn watch(&self, _request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let changes = stream::unfold((Arc::clone(&self.0), None), |(ops, last)| async move {
            loop {
                let now = status(&ops);
                if last != Some(now) {
                    return Some((Ok(HealthCheckResponse { status: now.into() }), (ops, Some(now))));
                }
                tokio::time::sleep(WATCH_INTERVAL).await;
            }
        });
        Ok(Response::new(Box::pin(changes)))
    }
}
