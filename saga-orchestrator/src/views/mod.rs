//! What people and programs may see of sagas: lists, one saga with its history, streams of moves, figures, and what the
//! other services have stored about an order. Nothing in here changes anything.

pub mod events;
pub mod list;
pub mod saga;
pub mod services;
pub mod stats;
pub mod step_figures;
mod story;
pub mod streams;
mod summary;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use service_runtime::database::DatabaseClock;
use service_runtime::{CancellationToken, Fatal};
use sqlx::PgPool;
use utoipa::OpenApi;

use self::events::Feed;
use self::services::Participants;
use self::stats::Figures;
use self::step_figures::FlowFigures;
use self::streams::Places;
use crate::SagaSettings;
use crate::registry::Flows;

/// What the views read from. Clones share it.
#[derive(Clone)]
pub struct Views {
    pub pool: PgPool,
    pub clock: DatabaseClock,
    pub flows: Arc<Flows>,
    pub feed: Feed,
    pub figures: Arc<Figures>,
    pub flow_figures: Arc<FlowFigures>,
    pub participants: Participants,
}

impl Views {
    /// Prepares the clients of the other services, and the task that follows the moves until `stop`.
    pub fn open(
        pool: PgPool,
        clock: DatabaseClock,
        flows: Arc<Flows>,
        settings: &SagaSettings,
        streams: Places,
        stop: CancellationToken,
    ) -> Result<Self, Fatal> {
        Ok(Self {
            feed: Feed::start(pool.clone(), clock.clone(), streams, stop),
            figures: Arc::new(Figures::new(pool.clone(), clock.clone(), flows.clone())),
            flow_figures: Arc::new(FlowFigures::new(pool.clone(), clock.clone())),
            participants: Participants::new(settings)?,
            pool,
            clock,
            flows,
        })
    }
}

/// Describes these routes.
#[derive(OpenApi)]
#[openapi(paths(list::list, saga::saga, services::rows, stats::stats, events::of_saga, events::of_all))]
pub struct Described;

pub fn router(views: Views) -> Router {
    Router::new()
        .route("/sagas", get(list::list))
        .route("/sagas/{id}", get(saga::saga))
        .route("/sagas/{id}/events", get(events::of_saga))
        .route("/sagas/{id}/rows", get(services::rows))
        .route("/events", get(events::of_all))
        .route("/stats", get(stats::stats))
        .with_state(views)
}
