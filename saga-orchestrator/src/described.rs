//! The description of the orchestrator's HTTP interface. The dashboard's pages are for people, and not in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use flow::Flow;
use service_runtime::http::description::complete;
use utoipa::OpenApi as _;
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, OpenApi};

use crate::saga::flows::{built_in, is_checkout};
use crate::supported::obstacles;
use crate::views::list::STATUSES;
use crate::{
    checkout, dead_letters, flow_asyncapi, flow_openapi, flow_start, mass_acts, operator, publishing, retention,
    signals, views,
};

#[derive(utoipa::OpenApi)]
#[openapi(info(
    title = "saga-orchestrator",
    description = "`POST /checkout` takes an order, charges its payment, reserves its goods, confirms it, and answers with the outcome. Whatever \
        fails is undone.\n\nErrors are `application/problem+json` (RFC 9457) and name the field and the rule. After a 429 or a 503 with `Retry-After` the \
        same request may be sent again, with the same `Idempotency-Key` if it had one: nothing was stored, or it is one that may be repeated."
))]
struct Described;

/// The description of the service's HTTP interface, as it is before anybody has published a flow.
pub fn openapi() -> OpenApi {
    let mut flows = BTreeMap::new();
    let run = built_in().iter().map(|built_in| &built_in.flow).filter(|flow| obstacles(flow, true).is_empty());
    for flow in run.filter(|flow| !is_checkout(flow)) {
        // A start activates no version beside an active one.
        flows.entry(&flow.name).or_insert_with(|| flow.clone());
    }
    openapi_of(&flows.into_values().collect::<Vec<_>>())
}

/// The same where these flows are active, besides the one behind `POST /checkout`.
pub fn openapi_of(flows: &[Arc<Flow>]) -> OpenApi {
    let parts = [
        checkout::Described::openapi(),
        flow_start::Described::openapi(),
        publishing::Described::openapi(),
        flow_asyncapi::Described::openapi(),
        views::Described::openapi(),
        operator::Described::openapi(),
        mass_acts::Described::openapi(),
        signals::Described::openapi(),
        dead_letters::Described::openapi(),
        retention::Described::openapi(),
    ];
    let mut document = complete(parts.into_iter().fold(Described::openapi(), OpenApi::merge_from));
    flow_openapi::add(&mut document, flows);
    document
}

/// What a saga's status may be.
pub fn statuses() -> ObjectBuilder {
    messages::schema::one_of(STATUSES)
}

/// A step that is looked for, in any case; empty: any step.
pub fn wanted_step() -> ObjectBuilder {
    let object = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Za-z0-9_]{0,40}$"));
    object.examples(["PAYMENT_CHARGE"])
}

/// What the step of a saga of any flow may be: its flow file has it.
pub fn any_step() -> ObjectBuilder {
    let object = ObjectBuilder::new().schema_type(Type::String).pattern(Some("^[A-Z][A-Z0-9_]{0,39}$"));
    object.examples(["PAYMENT_CHARGE"])
}
