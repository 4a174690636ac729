//! The description of the orchestrator's HTTP interface. The dashboard's pages are for people, and not in it.

use service_runtime::http::description::complete;
use utoipa::OpenApi as _;
use utoipa::openapi::{ObjectBuilder, OpenApi};

use crate::views::list::{STATUSES, known_steps};
use crate::{checkout, dead_letters, flow_start, operator, publishing, retention, views};

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "saga-orchestrator",
    description = "`POST /checkout` takes an order, charges its payment, reserves its goods, confirms it, and answers with the outcome. Whatever \
        fails is undone.\n\nErrors are `application/problem+json` (RFC 9457) and name the field and the rule. After a 429 or a 503 with `Retry-After` the \
        same request may be sent again, with the same `Idempotency-Key` if it had one: nothing was stored, or it is one that may be repeated."
))]
struct Described;

/// The description of the service's HTTP interface.
pub fn openapi() -> OpenApi {
    let parts = [
        checkout::Described::openapi(),
        flow_start::Described::openapi(),
        publishing::Described::openapi(),
        views::Described::openapi(),
        operator::Described::openapi(),
        dead_letters::Described::openapi(),
        retention::Described::openapi(),
    ];
    complete(parts.into_iter().fold(Described::openapi(), OpenApi::merge_from))
}

/// What a saga's status may be.
pub fn statuses() -> ObjectBuilder {
    messages::schema::one_of(STATUSES)
}

/// What a saga's step may be.
pub fn steps() -> ObjectBuilder {
    messages::schema::one_of(known_steps().iter().map(|(step, _)| step.as_str()))
}
