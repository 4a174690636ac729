//! `POST /checkout`: reads the request of a checkout, and begins a saga of it.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::post;
use flow::Flow;
use messages::schema::{CurrencyInUse, NewUserId};
use messages::{AmountText, Currency, Item, Items, Money};
use serde::Deserialize;
use service_runtime::http::description::{BodyProblems, DatabaseProblems, PROBLEM_JSON};
use service_runtime::http::{Caller, JsonBody, Problem};
use utoipa::openapi::ObjectBuilder;
use utoipa::{OpenApi, ToSchema};

use crate::begin::{Wanted, begin};
use crate::intake::Intake;
use crate::outcome::Outcome;
use crate::registry::Flows;
use crate::saga::Checkout;
use crate::saga::checkout::ITEMS;
use crate::saga::flows::{CHECKOUTS, PAY_FIRST, RESERVE_FIRST};
use service_runtime::http::{IdempotencyKey, TakenKey};

/// Describes the route.
#[derive(OpenApi)]
#[openapi(paths(checkout))]
pub struct Described;

pub fn router(intake: Arc<Intake>) -> Router {
    Router::new().route("/checkout", post(checkout)).with_state(intake)
}

/// `CHECKOUT_FLOW`: the flow of checkouts that name none. `auto`: by whether they have items.
#[derive(Debug, Clone, Deserialize)]
#[serde(try_from = "String")]
pub struct CheckoutFlow(Option<String>);

impl TryFrom<String> for CheckoutFlow {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "auto" => Ok(Self(None)),
            name if CHECKOUTS.contains(&name) => Ok(Self(Some(text))),
            _ => Err(format!("must be auto, {}, not {text:?}", CHECKOUTS.join(" or "))),
        }
    }
}

/// What is ordered, by whom, and which failure is to be tried out.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CheckoutRequest {
    #[schema(value_type = NewUserId)]
    user_id: String,
    total_amount: AmountText,
    /// USD unless given.
    #[schema(value_type = Option<CurrencyInUse>)]
    currency: Option<String>,
    /// What is ordered, of products that are counted: they are reserved before money is asked for. A product's lines are added
    /// up. Without them the goods are not counted.
    #[schema(value_type = Option<Vec<Item>>, min_items = 1, max_items = 100)]
    items: Option<Items>,
    #[schema(schema_with = flow_names)]
    flow: Option<String>,
    /// The payment is to be declined. For trying that out: refused where ALLOW_FORCED_FAILURES is off.
    #[serde(default)]
    force_payment_fail: bool,
    /// The goods are to be out of stock. Likewise.
    #[serde(default)]
    force_inventory_fail: bool,
}

fn flow_names() -> ObjectBuilder {
    let description = "reserve-first needs `items`, pay-first takes none. Unless given: CHECKOUT_FLOW, which is mostly by whether there are items";
    messages::schema::one_of(CHECKOUTS).description(Some(description))
}

impl CheckoutRequest {
    /// The flow that it runs by, since it has that flow's fields, and whether a new one may.
    ///
    /// # Errors
    /// For what no flow takes.
    fn flow(
        &self,
        flows: &Flows,
        CheckoutFlow(default): &CheckoutFlow,
    ) -> Result<(Arc<Flow>, Result<(), Problem>), Problem> {
        if self.items.as_ref().is_some_and(Items::is_empty) {
            return Err(Problem::invalid_field(ITEMS, "must have at least one line"));
        }
        let fits = if self.items.is_some() { RESERVE_FIRST } else { PAY_FIRST };
        let wanted = self.flow.as_deref().or(default.as_deref()).unwrap_or(fits);
        if !CHECKOUTS.contains(&wanted) {
            return Err(Problem::invalid_field("flow", format_args!("must be {}", CHECKOUTS.join(" or "))));
        }
        let permitted = match wanted == fits {
            true => Ok(()),
            false if self.items.is_some() => {
                Err(Problem::invalid_field(ITEMS, format_args!("are not taken by {wanted}")))
            }
            false => Err(Problem::invalid_field(ITEMS, format_args!("must be given: {wanted} reserves them"))),
        };
        Ok((flows.checkout(fits), permitted))
    }

    /// By the rules of this release and of those before it: a request that is repeated is found again.
    fn validated(self) -> Result<Checkout, Problem> {
        let currency = self.currency.as_deref().map_or(Ok(Currency::USD), str::parse);
        let currency = currency.map_err(|error| Problem::invalid_field("currency", error))?;
        Ok(Checkout {
            user_id: self.user_id.try_into().map_err(|error| Problem::invalid_field("userId", error))?,
            money: Money::parse(&self.total_amount.0, currency)
                .map_err(|error| Problem::invalid_field("totalAmount", error))?,
            items: self.items.unwrap_or_default(),
            force_payment_fail: self.force_payment_fail,
            force_inventory_fail: self.force_inventory_fail,
        })
    }
}

/// What `POST /checkout` makes of a request's body, for `fuzz/`.
#[cfg(fuzzing)]
pub async fn read_checkout(request: axum::extract::Request) -> Result<Checkout, Problem> {
    use axum::extract::FromRequest as _;
    let JsonBody(request) = JsonBody::<CheckoutRequest>::from_request(request, &()).await?;
    request.validated()
}

#[utoipa::path(
    post, path = "/checkout", operation_id = "checkout", tag = "Checkout", summary = "Take an order, charge it, reserve its goods (counted goods first), and return the outcome",
    params(
        ("Idempotency-Key" = Option<String>, Header, description = "Sent again with the same body by the same user, it is the same checkout",
            min_length = 8, max_length = 255, pattern = "^[!-~][ -~]*[!-~]$", example = "8e03978e-40d5-43dd-bc93-6894a57f9324"),
        ("Prefer" = Option<String>, Header, description = "RFC 7240. `respond-async`: answer at once, with 202. `wait=10`: after 10 s at the latest, and not after `CHECKOUT_WAIT_MS`", example = "respond-async, wait=10"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context; what is none is not looked at",
            example = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ),
    request_body(content = CheckoutRequest, examples(
        ("completed" = (value = json!({"userId": "u1", "totalAmount": 500}))),
        ("of counted goods" = (value = json!({"userId": "u1", "totalAmount": "25.00", "items": [{"sku": "blue-mug", "qty": 2}]}))),
        ("the payment is declined" = (value = json!({"userId": "u1", "totalAmount": 500, "forcePaymentFail": true}))),
        ("the goods are out of stock" = (value = json!({"userId": "u1", "totalAmount": "19.90", "currency": "EUR", "forceInventoryFail": true}))),
    )),
    responses(
        BodyProblems, DatabaseProblems,
        (status = 200, description = "COMPLETED: charged once, order confirmed, goods reserved (counted goods: handed over)", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "COMPLETED", "step": "COMPLETED",
                "reason": null, "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 402, description = "FAILED because of the payment: nothing was charged", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "FAILED", "step": "PAYMENT_FAILED",
                "reason": "declined: forcePaymentFail", "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 409, description = "FAILED for another cause, which `step` tells: all is undone", body = Outcome,
            headers(("location" = String, description = "Where the saga is read"), ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it")),
            example = json!({"sagaId": "01a1fcfc-71e1-7774-8bfb-889f9eb14880", "orderId": "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9", "status": "FAILED", "step": "INVENTORY_FAILED",
                "reason": "out of stock: forceInventoryFail", "userId": "u1", "totalAmount": 500, "currency": "USD", "createdAt": "2026-11-21T07:22:45.089557Z", "updatedAt": "2026-11-21T07:22:45.158395Z"})),
        (status = 202, description = "Still running; `Location` tells the end", body = Outcome, headers(
            ("location" = String, description = "Where the saga is read"), ("retry-after" = u32, description = "In how many seconds to look"),
            ("idempotent-replayed" = Option<String>, description = "`true`: an earlier request with this key started it"),
            ("preference-applied" = Option<String>, description = "What of `Prefer` was followed"))),
        (status = 422, description = "JSON of another shape, a value that breaks a rule, or a key that was used for another checkout", body = Problem, content_type = PROBLEM_JSON,
            example = json!({"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "`totalAmount` must be greater than 0", "field": "totalAmount"})),
        (status = 429, description = "Too many checkouts are waiting: nothing was stored", body = Problem, content_type = PROBLEM_JSON,
            headers(("retry-after" = u32, description = "In how many seconds to try again"))),
        (status = 503, description = "New checkouts are paused, those with items are not taken (reserve-first is retired), too many are unfinished, or the database can't be reached: nothing was stored. Or: outcome unknown",
            body = Problem, content_type = PROBLEM_JSON, headers(
                ("retry-after" = Option<u32>, description = "In how many seconds to send the same request again. Absent: do not, `Location` tells"),
                ("location" = Option<String>, description = "The saga, if it is in doubt whether it was stored")),
            example = json!({"type": "about:blank", "title": "Service Unavailable", "status": 503, "detail": "new checkouts are paused (the gateway is down): nothing was stored by this request"})),
    ),
)]
/// 200, 402 or 409 with the outcome; 202 with how far it is, when it takes longer or the client asked not to wait.
async fn checkout(
    State(intake): State<Arc<Intake>>,
    caller: Caller,
    TakenKey(idempotency_key): TakenKey,
    headers: HeaderMap,
    JsonBody(request): JsonBody<CheckoutRequest>,
) -> Result<Response, Problem> {
    let (flow, of_flow) = request.flow(&intake.coordinator.flows, &intake.checkout_flow)?;
    let checkout = request.validated()?;
    let of_values = permitted(&checkout, idempotency_key.as_ref(), intake.allow_forced_failures);
    let permitted = of_flow.and(of_values);
    begin(&intake, &caller, &headers, Wanted { flow, request: checkout.into(), body: None, idempotency_key, permitted })
        .await
}

/// Whether this may become a new checkout, by the rules of this release. Some are stricter than those of releases before.
fn permitted(checkout: &Checkout, key: Option<&IdempotencyKey>, allow_forced: bool) -> Result<(), Problem> {
    checkout.user_id.check_new().map_err(|error| Problem::invalid_field("userId", error))?;
    checkout.money.currency().check_new().map_err(|error| Problem::invalid_field("currency", error))?;
    let forced =
        [("forcePaymentFail", checkout.force_payment_fail), ("forceInventoryFail", checkout.force_inventory_fail)];
    match forced.into_iter().find(|(_, is_forced)| *is_forced && !allow_forced) {
        Some((field, _)) => Err(Problem::invalid_field(field, "is not allowed here (ALLOW_FORCED_FAILURES)")),
        None => key.map_or(Ok(()), IdempotencyKey::check_new),
    }
}
