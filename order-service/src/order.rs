//! What an order is, and which requests fit a stored one. Pure: the store asks, and does what it is told.

use std::str::FromStr;

use messages::{ChangedOrder, Items, Money, OrderCreated, OrderEvent, OrderId, PlacedOrder, SagaId, Timestamp, UserId};
use service_runtime::http::IdempotencyKey;

/// PENDING -> CONFIRMED | CANCELLED; both ends are final.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Pending,
    Confirmed,
    Cancelled,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Confirmed => "CONFIRMED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "PENDING" => Ok(Self::Pending),
            "CONFIRMED" => Ok(Self::Confirmed),
            "CANCELLED" => Ok(Self::Cancelled),
            _ => Err(format!("must be PENDING, CONFIRMED or CANCELLED, not {text:?}")),
        }
    }
}

/// A stored order.
#[derive(Debug, Clone, PartialEq)]
pub struct Order {
    pub order_id: OrderId,
    pub saga_id: Option<SagaId>,
    /// `None` in a tombstone: a cancel came, its create did not.
    pub contents: Option<Contents>,
    /// By which flow it goes on, where it was placed directly: without a saga and with items.
    pub flow: Option<String>,
    /// Whether it was placed directly, and is PENDING, and no saga has taken it up yet.
    pub awaits_saga: bool,
    pub status: Status,
    /// Why it was cancelled, where somebody has said so.
    pub why: Why,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// Why an order is cancelled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Why {
    /// As a word: `OUT_OF_STOCK`, say.
    pub reason: Option<String>,
    /// The same for people.
    pub detail: Option<String>,
}

/// What was ordered.
#[derive(Debug, Clone, PartialEq)]
pub struct Contents {
    pub user_id: UserId,
    pub money: Money,
    /// None where its goods are not counted.
    pub items: Items,
}

/// A request to create an order.
#[derive(Debug, Clone)]
pub struct Create {
    pub order_id: OrderId,
    pub saga_id: Option<SagaId>,
    pub contents: Contents,
    /// By which flow it goes on, where it is placed directly.
    pub flow: Option<String>,
    pub key: Option<IdempotencyKey>,
}

impl Create {
    /// The order that this makes.
    pub fn to_order(&self, now: Timestamp) -> Order {
        Order {
            order_id: self.order_id,
            saga_id: self.saga_id,
            contents: Some(self.contents.clone()),
            flow: self.flow.clone(),
            awaits_saga: self.flow.is_some(),
            status: Status::Pending,
            why: Why::default(),
            created_at: now,
            updated_at: now,
        }
    }
}

impl Order {
    /// The event that starts its saga, if it was placed directly.
    pub fn created(&self) -> Option<OrderCreated> {
        let (flow, Contents { user_id, money, items }) = (self.flow.clone()?, self.contents.clone()?);
        Some(OrderCreated::of(self.order_id, self.created_at, PlacedOrder { flow, user_id, money, items }))
    }
}

impl Order {
    /// What is published of its change to `status`: the same each time, whatever has become of it since. `None` of a tombstone,
    /// which nobody has ordered, and of a status that it has not had.
    pub fn event(&self, status: Status) -> Option<OrderEvent> {
        if status != Status::Pending && status != self.status {
            return None;
        }
        let Contents { user_id, money, items } = self.contents.clone()?;
        let (sequence, at, saga_id) = match status {
            // One that was placed directly had no saga yet.
            Status::Pending => (1, self.created_at, self.saga_id.filter(|_| self.flow.is_none())),
            Status::Confirmed | Status::Cancelled => (2, self.updated_at, self.saga_id),
        };
        let failure_reason = self.why.reason.clone().filter(|_| status == Status::Cancelled);
        let status = status.as_str().to_owned();
        let changed = ChangedOrder { sequence, status, failure_reason, saga_id, user_id, money, items };
        Some(OrderEvent::of(self.order_id, at, changed))
    }
}

/// A request to move an order. One that stays PENDING is taken up by its saga.
#[derive(Debug, Clone)]
pub struct Transition {
    pub order_id: OrderId,
    pub saga_id: Option<SagaId>,
    pub to: Status,
    /// Where it is cancelled.
    pub why: Why,
}

/// Why a request does not fit the stored order.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("there is no order {0}")]
    Unknown(OrderId),
    #[error("order {0} exists with other contents")]
    OtherContents(OrderId),
    #[error("order {0} was CANCELLED before it was created")]
    CancelledBefore(OrderId),
    #[error("order {order_id} belongs to a saga: only a request that names that saga moves it")]
    OtherSaga { order_id: OrderId },
    #[error("order {0} waits for its saga: it can be cancelled, and not confirmed")]
    AwaitsSaga(OrderId),
    #[error("order {order_id} is {}: it can't become {}", .from.as_str(), .to.as_str())]
    Contradiction { order_id: OrderId, from: Status, to: Status },
}

/// What a create means that found `stored` under its id.
#[derive(Debug, PartialEq, Eq)]
pub enum Repeated {
    /// It is the one that made it.
    Create,
    /// Its saga takes it up: it was placed directly.
    TakenUp(SagaId),
}

/// Decides a create that found `stored` under its id.
pub fn repeated_create(stored: &Order, create: &Create) -> Result<Repeated, Refusal> {
    let order_id = stored.order_id;
    match (&stored.contents, create.saga_id) {
        (None, _) => Err(Refusal::CancelledBefore(order_id)),
        (Some(contents), _) if *contents != create.contents => Err(Refusal::OtherContents(order_id)),
        (Some(_), saga_id) if stored.saga_id == saga_id && (stored.flow.is_some() || create.flow.is_none()) => {
            Ok(Repeated::Create)
        }
        // Its client sends it again, and its saga has taken it up meanwhile.
        (Some(_), None) if stored.flow.is_some() => Ok(Repeated::Create),
        (Some(_), Some(saga_id)) if stored.awaits_saga => Ok(Repeated::TakenUp(saga_id)),
        // Its client has cancelled it before its saga began.
        (Some(_), Some(_)) if stored.flow.is_some() && stored.saga_id.is_none() => {
            Err(Refusal::CancelledBefore(order_id))
        }
        _ => Err(Refusal::OtherContents(order_id)),
    }
}

/// What a transition needs, given the stored order.
#[derive(Debug, PartialEq, Eq)]
pub enum Move {
    /// The PENDING order is to become what is wanted.
    Store,
    /// It is what is wanted.
    Nothing,
    /// There is no such order yet: a CANCELLED row is left, so that the create which comes late is refused.
    LeaveTombstone,
}

/// Decides a transition.
pub fn decide(stored: Option<&Order>, wanted: &Transition) -> Result<Move, Refusal> {
    let order_id = wanted.order_id;
    match stored {
        None if wanted.to == Status::Cancelled && wanted.saga_id.is_some() => Ok(Move::LeaveTombstone),
        None => Err(Refusal::Unknown(order_id)),
        Some(order) if order.saga_id.is_some() && order.saga_id != wanted.saga_id => {
            Err(Refusal::OtherSaga { order_id })
        }
        Some(order) if order.awaits_saga && wanted.to == Status::Confirmed => Err(Refusal::AwaitsSaga(order_id)),
        Some(order) if order.awaits_saga => Ok(Move::Store),
        Some(order) if order.status == wanted.to => Ok(Move::Nothing),
        Some(order) if order.status == Status::Pending => Ok(Move::Store),
        Some(order) => Err(Refusal::Contradiction { order_id, from: order.status, to: wanted.to }),
    }
}

#[cfg(test)]
mod tests {
    use messages::Currency;

    use super::*;

    fn contents(amount: &str) -> Contents {
        Contents {
            user_id: "u1".to_owned().try_into().unwrap(),
            money: Money::parse(amount, Currency::USD).unwrap(),
            items: Items::default(),
        }
    }

    fn stored(status: Status, saga_id: Option<SagaId>) -> Order {
        let now = service_runtime::now();
        let contents = Some(contents("500"));
        let (flow, awaits_saga) = (None, false);
        Order {
            order_id: OrderId::new(),
            saga_id,
            contents,
            flow,
            awaits_saga,
            status,
            why: Why::default(),
            created_at: now,
            updated_at: now,
        }
    }

    fn placed() -> Order {
        Order { flow: Some("reserve-first".to_owned()), awaits_saga: true, ..stored(Status::Pending, None) }
    }

    fn create(saga_id: Option<SagaId>, amount: &str) -> Create {
        Create { order_id: OrderId::new(), saga_id, contents: contents(amount), flow: None, key: None }
    }

    fn to(order: &Order, to: Status, saga_id: Option<SagaId>) -> Transition {
        Transition { order_id: order.order_id, saga_id, to, why: Why::default() }
    }

    #[test]
    fn a_pending_order_is_confirmed_or_cancelled_and_repeating_that_is_fine() {
        for end in [Status::Confirmed, Status::Cancelled] {
            let pending = stored(Status::Pending, None);
            assert_eq!(decide(Some(&pending), &to(&pending, end, None)), Ok(Move::Store));
            let ended = stored(end, None);
            assert_eq!(decide(Some(&ended), &to(&ended, end, None)), Ok(Move::Nothing));
        }
    }

    #[test]
    fn an_ended_order_contradicts_every_other_status_and_says_both() {
        for (from, other) in [
            (Status::Confirmed, Status::Cancelled),
            (Status::Confirmed, Status::Pending),
            (Status::Cancelled, Status::Confirmed),
            (Status::Cancelled, Status::Pending),
        ] {
            let order = stored(from, None);
            let refusal = decide(Some(&order), &to(&order, other, None)).unwrap_err().to_string();
            assert!(refusal.contains(from.as_str()) && refusal.contains(other.as_str()), "{refusal}");
        }
    }

    #[test]
    fn only_its_own_saga_moves_an_order() {
        let saga = SagaId::new();
        let order = stored(Status::Pending, Some(saga));
        let refused = Err(Refusal::OtherSaga { order_id: order.order_id });
        assert_eq!(decide(Some(&order), &to(&order, Status::Confirmed, None)), refused);
        assert_eq!(decide(Some(&order), &to(&order, Status::Confirmed, Some(SagaId::new()))), refused);
        assert_eq!(decide(Some(&order), &to(&order, Status::Confirmed, Some(saga))), Ok(Move::Store));
    }

    #[test]
    fn a_sagas_cancel_that_overtakes_the_create_leaves_a_tombstone_and_the_create_is_refused() {
        let ghost = stored(Status::Cancelled, Some(SagaId::new()));
        assert_eq!(decide(None, &to(&ghost, Status::Cancelled, ghost.saga_id)), Ok(Move::LeaveTombstone));
        assert_eq!(decide(None, &to(&ghost, Status::Cancelled, None)), Err(Refusal::Unknown(ghost.order_id)));
        assert_eq!(decide(None, &to(&ghost, Status::Confirmed, ghost.saga_id)), Err(Refusal::Unknown(ghost.order_id)));
        let create = Create { order_id: ghost.order_id, ..create(ghost.saga_id, "500") };
        let tombstone = Order { contents: None, ..ghost };
        assert_eq!(repeated_create(&tombstone, &create), Err(Refusal::CancelledBefore(tombstone.order_id)));
    }

    #[test]
    fn a_create_is_repeated_when_its_contents_are_worth_the_same() {
        let order = stored(Status::Pending, None);
        let create = |amount| Create { order_id: order.order_id, ..create(None, amount) };
        assert_eq!(repeated_create(&order, &create("500.00")), Ok(Repeated::Create));
        assert_eq!(repeated_create(&order, &create("501")), Err(Refusal::OtherContents(order.order_id)));
    }

    #[test]
    fn an_order_that_was_placed_directly_is_taken_up_by_one_saga_and_is_the_same_to_its_client() {
        let order = placed();
        let of_client = Create { order_id: order.order_id, flow: order.flow.clone(), ..create(None, "500") };
        let of_saga = |saga| Create { order_id: order.order_id, ..create(Some(saga), "500") };
        let saga = SagaId::new();
        assert_eq!(repeated_create(&order, &of_client), Ok(Repeated::Create));
        assert_eq!(repeated_create(&order, &of_saga(saga)), Ok(Repeated::TakenUp(saga)));

        let taken_up = Order { saga_id: Some(saga), awaits_saga: false, ..order.clone() };
        assert_eq!(repeated_create(&taken_up, &of_client), Ok(Repeated::Create));
        assert_eq!(repeated_create(&taken_up, &of_saga(saga)), Ok(Repeated::Create));
        let other = Err(Refusal::OtherContents(order.order_id));
        assert_eq!(repeated_create(&taken_up, &of_saga(SagaId::new())), other);

        let cancelled = Order { status: Status::Cancelled, awaits_saga: false, ..order.clone() };
        assert_eq!(repeated_create(&cancelled, &of_client), Ok(Repeated::Create));
        let before = Err(Refusal::CancelledBefore(order.order_id));
        assert_eq!(repeated_create(&cancelled, &of_saga(saga)), before);
        let by_hand = stored(Status::Pending, None);
        let placed_again = Create { order_id: by_hand.order_id, ..of_client };
        assert_eq!(repeated_create(&by_hand, &placed_again), Err(Refusal::OtherContents(by_hand.order_id)));
    }

    #[test]
    fn nobody_confirms_an_order_that_waits_for_its_saga() {
        let (order, saga) = (placed(), Some(SagaId::new()));
        for whose in [None, saga] {
            let refused = decide(Some(&order), &to(&order, Status::Confirmed, whose));
            assert_eq!(refused, Err(Refusal::AwaitsSaga(order.order_id)));
            assert_eq!(decide(Some(&order), &to(&order, Status::Cancelled, whose)), Ok(Move::Store));
        }
        assert_eq!(decide(Some(&order), &to(&order, Status::Pending, saga)), Ok(Move::Store));
        let taken_up = Order { saga_id: saga, awaits_saga: false, ..order };
        assert_eq!(decide(Some(&taken_up), &to(&taken_up, Status::Pending, saga)), Ok(Move::Nothing));
        assert_eq!(decide(Some(&taken_up), &to(&taken_up, Status::Confirmed, saga)), Ok(Move::Store));
    }
    #[test]
    fn what_is_published_of_a_change_does_not_depend_on_what_has_become_of_the_order_since() {
        let saga = Some(SagaId::new());
        let later = |order: &Order, saga_id, status| Order {
            saga_id,
            status,
            awaits_saga: false,
            updated_at: order.updated_at + chrono::TimeDelta::seconds(1),
            ..order.clone()
        };
        for (order, first) in
            [(stored(Status::Pending, saga), saga), (stored(Status::Pending, None), None), (placed(), None)]
        {
            let created = order.event(Status::Pending);
            assert_eq!(created.as_ref().map(|event| event.payload.saga_id), Some(first));
            let ended = later(&order, if order.flow.is_some() { saga } else { first }, Status::Cancelled);
            assert_eq!(ended.event(Status::Pending), created);
            let sequences =
                [created, ended.event(Status::Cancelled)].map(|event| event.map(|event| event.payload.sequence));
            assert_eq!(sequences, [Some(1), Some(2)]);
        }
        assert_eq!(stored(Status::Cancelled, saga).event(Status::Confirmed), None);
        let tombstone = Order { contents: None, ..stored(Status::Cancelled, saga) };
        assert_eq!(tombstone.event(Status::Cancelled), None);
    }
}
