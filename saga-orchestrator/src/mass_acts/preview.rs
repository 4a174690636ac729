//! Which sagas an act is for: how many, where they stand, and the newest of them. Nothing is changed.

use serde::Serialize;
use service_runtime::database::again_if_lost;
use service_runtime::http::Problem;
use sqlx::PgPool;
use utoipa::ToSchema;

use super::MassAct;
use crate::described;
use crate::registry::Flows;
use crate::store::lists::{self, Place};
use crate::views::list::{self, ListQuery, ListedBody};

/// How many sagas a preview counts at most.
const COUNTED: i64 = 10_000;

/// How many sagas a preview shows.
const SHOWN: i64 = 10;

/// Which sagas an act is for.
#[derive(Serialize, ToSchema)]
pub struct PreviewBody {
    /// How many fit the query and may have use for the act. At most 10,000 are counted.
    #[schema(minimum = 0, maximum = 10_000)]
    pub sagas: i64,
    /// Of these, how many the act would be done on.
    #[schema(minimum = 0, maximum = 10_000)]
    pub permitted: i64,
    /// Whether there may be more than were counted.
    pub more: bool,
    /// Where they stand, most first.
    pub places: Vec<PlaceBody>,
    /// The newest of them, at most 10.
    pub first: Vec<ListedBody>,
}

/// The sagas of an act that stand at one place.
#[derive(Serialize, ToSchema)]
pub struct PlaceBody {
    /// The flow that they run by, with its version: `pay-first v1`.
    pub definition: String,
    #[schema(schema_with = described::statuses)]
    pub status: String,
    #[schema(schema_with = described::any_step)]
    pub step: String,
    #[schema(minimum = 1)]
    pub sagas: i64,
    /// Why the act is refused there. Absent where it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub refused: Option<String>,
}

/// Which of the sagas that `query` asks for an act is for.
///
/// # Errors
/// 400 naming the parameter that is wrong; 503 or 500 for the database's.
pub async fn preview(pool: &PgPool, flows: &Flows, act: MassAct, query: &ListQuery) -> Result<PreviewBody, Problem> {
    let filter = act.meant(query, flows)?.filter;
    list::limit(query)?;
    let places = again_if_lost(|| lists::places(pool, &filter, COUNTED)).await?;
    let first = again_if_lost(|| lists::list(pool, &filter, SHOWN)).await?;
    let sagas = places.iter().map(|place| place.sagas).sum();
    let place = |place: Place| PlaceBody {
        refused: act.refused(flows, (&place.definition, place.definition_version), &place.status, &place.step),
        definition: format!("{} v{}", place.definition, place.definition_version),
        status: place.status,
        step: place.step,
        sagas: place.sagas,
    };
    let places: Vec<PlaceBody> = places.into_iter().map(place).collect();
    let permitted = places.iter().filter(|place| place.refused.is_none()).map(|place| place.sagas).sum();
    let first = first.into_iter().map(ListedBody::from).collect();
    Ok(PreviewBody { sagas, permitted, more: sagas >= COUNTED, places, first })
}
