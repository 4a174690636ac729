//! Which sagas an act is for: how many, where they stand, and the newest of them. Nothing is changed.

use serde::Serialize;
use service_runtime::database::again_if_lost;
use service_runtime::http::Problem;
use sqlx::PgPool;
use utoipa::ToSchema;
use uuid::Uuid;

use super::MassAct;
use crate::described;
use crate::registry::Flows;
use crate::store::lists::{self, Filter, Place};
use crate::views::list::{self, ListQuery, ListedBody};

/// A preview's sums go no higher. All sagas are counted all the same, since any ten thousand of them may be those that are
/// refused.
const MOST: i64 = 10_000;

/// How many sagas a preview shows.
const SHOWN: i64 = 10;

/// Which sagas an act is for.
#[derive(Serialize, ToSchema)]
pub struct PreviewBody {
    /// How many fit the query and may have use for the act; 10,000 where they are more.
    #[schema(minimum = 0, maximum = 10_000)]
    pub sagas: i64,
    /// On how many of them the act would be done; 10,000 where they are more.
    #[schema(minimum = 0, maximum = 10_000)]
    pub permitted: i64,
    /// Whether more fit than `sagas` says.
    pub more: bool,
    /// Where all of them stand, most first.
    pub places: Vec<PlaceBody>,
    /// The newest of them, at most 10.
    pub first: Vec<ListedBody>,
    /// The first request's `before`: it takes in what was counted, and nothing newer. Null where none fit.
    pub before: Option<Uuid>,
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
    let first = again_if_lost(|| lists::list(pool, &filter, SHOWN)).await?;
    let before = first.first().map(|newest| following(newest.saga_id));
    let places = match before {
        // What begins between the two statements is not counted.
        Some(_) => {
            let seen = Filter { before, ..filter };
            again_if_lost(|| lists::places(pool, &seen)).await?
        }
        None => Vec::new(),
    };
    let place = |place: Place| PlaceBody {
        refused: act.refused(flows, (&place.definition, place.definition_version), &place.status, &place.step),
        definition: format!("{} v{}", place.definition, place.definition_version),
        status: place.status,
        step: place.step,
        sagas: place.sagas,
    };
    let places: Vec<PlaceBody> = places.into_iter().map(place).collect();
    Ok(PreviewBody::of(places, first.into_iter().map(ListedBody::from).collect(), before))
}

/// The next id, as Postgres orders them: what is before it is this one, and older.
fn following(id: Uuid) -> Uuid {
    Uuid::from_u128(id.as_u128().saturating_add(1))
}

impl PreviewBody {
    fn of(places: Vec<PlaceBody>, first: Vec<ListedBody>, before: Option<Uuid>) -> Self {
        let (sagas, permitted) = sums(&places);
        Self { sagas: sagas.min(MOST), permitted: permitted.min(MOST), more: sagas > MOST, places, first, before }
    }
}

/// How many sagas stand at these places, and on how many of them the act would be done.
pub fn sums(places: &[PlaceBody]) -> (i64, i64) {
    let permitted = places.iter().filter(|place| place.refused.is_none());
    (places.iter().map(|place| place.sagas).sum(), permitted.map(|place| place.sagas).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_few_that_are_permitted_are_counted_beside_however_many_that_are_refused() {
        let place = |sagas, refused: Option<&str>| PlaceBody {
            definition: "pay-first v1".to_owned(),
            status: "RUNNING".to_owned(),
            step: "ORDER_CONFIRM".to_owned(),
            sagas,
            refused: refused.map(str::to_owned),
        };
        let sums = |places| {
            let PreviewBody { sagas, permitted, more, .. } = PreviewBody::of(places, Vec::new(), None);
            (sagas, permitted, more)
        };
        assert_eq!(sums(vec![place(12_000, Some("a rule")), place(3, None)]), (10_000, 3, true));
        assert_eq!(sums(vec![place(9_000, None), place(1_000, None)]), (10_000, 10_000, false));
        assert_eq!(sums(vec![place(11_000, None)]), (10_000, 10_000, true));
        assert_eq!(sums(Vec::new()), (0, 0, false));
    }
}
