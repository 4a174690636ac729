//! What a payment is and what a command does to it. Pure: [`decide`] and [`settle`] are all the rules there are, what
//! is around them only carries out what they say.
//!
//! A reply is a function of the command and the stored row, so a command that comes again gets the same reply.

use std::str::FromStr;

use faults::Bug;
use messages::{
    Envelope, Money, OrderId, OutgoingRecord, PaymentCharged, PaymentCommand, PaymentFailed, PaymentRefunded, SagaId,
    Timestamp, UserId,
};

/// See `migrations/0001_payments.sql` for what each means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Charging,
    Charged,
    Failed,
    Refunding,
    Refunded,
    Voided,
}

impl Status {
    pub const ALL: [Self; 6] =
        [Self::Charging, Self::Charged, Self::Failed, Self::Refunding, Self::Refunded, Self::Voided];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Charging => "CHARGING",
            Self::Charged => "CHARGED",
            Self::Failed => "FAILED",
            Self::Refunding => "REFUNDING",
            Self::Refunded => "REFUNDED",
            Self::Voided => "VOIDED",
        }
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.as_str() == text).ok_or_else(|| format!("unknown status {text:?}"))
    }
}

/// A row of `payments`.
#[derive(Debug, Clone, PartialEq)]
pub struct Payment {
    pub order_id: OrderId,
    pub saga_id: SagaId,
    /// Unknown in a tombstone.
    pub user_id: Option<UserId>,
    pub money: Money,
    pub status: Status,
    pub reason: Option<String>,
    pub force_fail: bool,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// A call of the gateway. Made only once the row that announces it is stored; may be made again.
#[derive(Debug, Clone, PartialEq)]
pub enum Call {
    Charge { order_id: OrderId, money: Money, force_fail: bool },
    Refund { order_id: OrderId, money: Money },
}

/// What the gateway decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Charged,
    Declined { reason: String },
    Refunded,
}

/// The reply to a command.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    Charged(Envelope<PaymentCharged>),
    Failed(Envelope<PaymentFailed>),
    Refunded(Envelope<PaymentRefunded>),
}

/// What to do next with a command; the answer to a call is made a row by [`settle`].
pub type Next = participant::Next<Payment, Reply, Call>;

/// The next thing to do with `command`, given the order's stored row.
pub fn decide(command: &PaymentCommand, stored: Option<&Payment>, now: Timestamp) -> Next {
    use Status::{Charged, Charging, Failed, Refunded, Refunding, Voided};

    let Some(row) = stored else {
        let row = first_row(command, now);
        let unannounced = row.status == Charging && faults::planted(Bug::NoAnnouncement);
        return if unannounced { decide(command, Some(&row), now) } else { Next::Write(row) };
    };
    if let Some(contradiction) = contradiction(command, row) {
        return Next::Contradiction(contradiction);
    }
    match (command, row.status) {
        // The outcome of an announced charge is learnt first, whoever needs it: same key, same answer.
        (_, Charging) => {
            let (order_id, money, force_fail) = (row.order_id, row.money, row.force_fail);
            Next::Ask { call: Call::Charge { order_id, money, force_fail }, announced: row.clone() }
        }
        (PaymentCommand::Charge(command), Charged) => {
            Next::Reply(Reply::Charged(command.reply(PaymentCharged { money: row.money }, row.updated_at)))
        }
        (PaymentCommand::Charge(_), Voided) if faults::planted(Bug::NoTombstone) => {
            Next::Write(first_row(command, now))
        }
        (PaymentCommand::Charge(command), Failed | Refunding | Refunded | Voided) => {
            let reason = row.reason.clone().unwrap_or_else(|| row.status.as_str().to_owned());
            Next::Reply(Reply::Failed(command.reply(PaymentFailed { reason }, row.updated_at)))
        }
        (PaymentCommand::Refund(command), Charged) => {
            let reason = Some(format!("refunded: {}", command.payload.reason));
            Next::Write(Payment { status: Refunding, reason, updated_at: now, ..row.clone() })
        }
        (PaymentCommand::Refund(_), Refunding) => {
            Next::Ask { call: Call::Refund { order_id: row.order_id, money: row.money }, announced: row.clone() }
        }
        (PaymentCommand::Refund(command), Failed | Refunded | Voided) => {
            let payload = PaymentRefunded { money: row.money, money_returned: row.status == Refunded };
            Next::Reply(Reply::Refunded(command.reply(payload, row.updated_at)))
        }
    }
}

/// The row after the gateway's answer to what the row announced. A refund that the gateway declines, for good, leaves
/// it REFUNDING, with the reason: the money is still held, so there is no reply; the saga goes on asking, and a
/// person is called.
pub fn settle(announced: &Payment, answer: Answer, now: Timestamp) -> Payment {
    let (status, reason) = match (answer, announced.status) {
        (Answer::Charged, _) => (Status::Charged, None),
        (Answer::Declined { reason }, Status::Refunding) => {
            (Status::Refunding, Some(format!("the gateway refuses the refund: {reason}")))
        }
        (Answer::Declined { reason }, _) => (Status::Failed, Some(reason)),
        (Answer::Refunded, _) => (Status::Refunded, announced.reason.clone()),
    };
    Payment { status, reason, updated_at: now, ..announced.clone() }
}

/// The row for an order that has none: a charge is announced; a refund leaves a tombstone.
fn first_row(command: &PaymentCommand, now: Timestamp) -> Payment {
    match command {
        PaymentCommand::Charge(Envelope { order_id, saga_id, payload, .. }) => Payment {
            order_id: *order_id,
            saga_id: *saga_id,
            user_id: Some(payload.user_id.clone()),
            money: payload.money,
            status: Status::Charging,
            reason: None,
            force_fail: payload.force_fail,
            created_at: now,
            updated_at: now,
        },
        PaymentCommand::Refund(Envelope { order_id, saga_id, payload, .. }) => Payment {
            order_id: *order_id,
            saga_id: *saga_id,
            user_id: None,
            money: payload.money,
            status: Status::Voided,
            reason: Some(format!("voided before the charge came: {}", payload.reason)),
            force_fail: false,
            created_at: now,
            updated_at: now,
        },
    }
}

fn contradiction(command: &PaymentCommand, row: &Payment) -> Option<String> {
    let money = match command {
        PaymentCommand::Charge(command) => command.payload.money,
        PaymentCommand::Refund(command) => command.payload.money,
    };
    let (order, saga_id) = (row.order_id, command.saga_id());
    if saga_id != row.saga_id {
        Some(format!("order {order} belongs to saga {}, the command names {saga_id}", row.saga_id))
    } else if money != row.money {
        Some(format!("order {order} is about {}, the command about {money}", row.money))
    } else {
        None
    }
}

impl Reply {
    /// The record to produce.
    pub fn to_record(&self, source: &'static str, traceparent: Option<&str>) -> OutgoingRecord {
        match self {
            Self::Charged(event) => event.to_record(source, traceparent),
            Self::Failed(event) => event.to_record(source, traceparent),
            Self::Refunded(event) => event.to_record(source, traceparent),
        }
    }
}

#[cfg(test)]
mod tests {
    use messages::{ChargePayment, Currency, EventId, RefundPayment};

    use super::*;

    fn usd(amount: &str) -> Money {
        Money::parse(amount, Currency::USD).unwrap()
    }

    fn envelope<T>(payload: T) -> Envelope<T> {
        let id = |n: u128| uuid::Uuid::from_u128(n);
        Envelope {
            event_id: EventId::from(id(1)),
            causation_id: None,
            saga_id: SagaId::from(id(2)),
            order_id: OrderId::from(id(3)),
            timestamp: service_runtime::now(),
            payload,
        }
    }

    fn charge() -> PaymentCommand {
        let user_id = "u1".to_owned().try_into().unwrap();
        PaymentCommand::Charge(envelope(ChargePayment { user_id, money: usd("500"), force_fail: false }))
    }

    fn refund() -> PaymentCommand {
        PaymentCommand::Refund(envelope(RefundPayment { money: usd("500.00"), reason: "TIMED_OUT".into() }))
    }

    fn row(status: Status) -> Payment {
        Payment { status, ..first_row(&charge(), service_runtime::now()) }
    }

    fn next(command: &PaymentCommand, stored: Option<Status>) -> Next {
        decide(command, stored.map(row).as_ref(), service_runtime::now())
    }

    fn written(next: Next) -> Status {
        match next {
            Next::Write(row) => row.status,
            other => panic!("expected a write, got {other:?}"),
        }
    }

    #[test]
    fn a_charge_is_announced_then_asked_then_answered() {
        assert_eq!(written(next(&charge(), None)), Status::Charging);
        assert!(matches!(next(&charge(), Some(Status::Charging)), Next::Ask { call: Call::Charge { .. }, .. }));
        assert!(matches!(next(&charge(), Some(Status::Charged)), Next::Reply(Reply::Charged(_))));
    }

    #[test]
    fn a_charge_of_an_order_that_can_no_longer_be_charged_is_answered_failed() {
        for status in [Status::Failed, Status::Refunding, Status::Refunded, Status::Voided] {
            assert!(matches!(next(&charge(), Some(status)), Next::Reply(Reply::Failed(_))), "{status:?}");
        }
    }

    #[test]
    fn a_refund_before_its_charge_leaves_a_tombstone() {
        assert_eq!(written(next(&refund(), None)), Status::Voided);
        assert!(matches!(next(&refund(), Some(Status::Voided)), Next::Reply(Reply::Refunded(_))));
    }

    #[test]
    fn a_refund_that_meets_a_charge_in_flight_learns_its_outcome_first() {
        assert!(matches!(next(&refund(), Some(Status::Charging)), Next::Ask { call: Call::Charge { .. }, .. }));
        assert_eq!(written(next(&refund(), Some(Status::Charged))), Status::Refunding);
        assert!(matches!(next(&refund(), Some(Status::Refunding)), Next::Ask { call: Call::Refund { .. }, .. }));
    }

    #[test]
    fn a_refund_with_nothing_to_give_back_is_answered_refunded_and_says_so() {
        for (status, returned) in [(Status::Failed, false), (Status::Voided, false), (Status::Refunded, true)] {
            match next(&refund(), Some(status)) {
                Next::Reply(Reply::Refunded(event)) => assert_eq!(event.payload.money_returned, returned, "{status:?}"),
                other => panic!("{status:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn the_same_command_gets_the_same_reply() {
        let charged = row(Status::Charged);
        let later = service_runtime::now() + std::time::Duration::from_secs(9);
        assert_eq!(decide(&charge(), Some(&charged), charged.updated_at), decide(&charge(), Some(&charged), later));
    }

    #[test]
    fn answers_settle_the_row() {
        let now = service_runtime::now();
        let declined = Answer::Declined { reason: "no funds".into() };
        assert_eq!(settle(&row(Status::Charging), Answer::Charged, now).status, Status::Charged);
        assert_eq!(settle(&row(Status::Charging), declined, now).reason.as_deref(), Some("no funds"));
        assert_eq!(settle(&row(Status::Refunding), Answer::Refunded, now).status, Status::Refunded);
    }

    #[test]
    fn a_refund_that_is_refused_for_good_still_holds_the_money() {
        let refused = Answer::Declined { reason: "the card is closed".into() };
        let row = settle(&row(Status::Refunding), refused, service_runtime::now());
        assert_eq!(row.status, Status::Refunding);
        assert!(row.reason.is_some_and(|reason| reason.contains("the card is closed")));
    }

    #[test]
    fn a_command_that_contradicts_the_row_gets_no_reply_in_any_status() {
        let mut other_saga = row(Status::Charged);
        other_saga.saga_id = SagaId::new();
        let mut other_amount = row(Status::Charged);
        other_amount.money = usd("499.99");
        let mut other_currency = row(Status::Charged);
        other_currency.money = Money::parse("500", "EUR".parse().unwrap()).unwrap();
        for command in [charge(), refund()] {
            for stored in [&other_saga, &other_amount, &other_currency] {
                for status in Status::ALL {
                    let stored = Payment { status, ..stored.clone() };
                    let next = decide(&command, Some(&stored), stored.updated_at);
                    assert!(matches!(next, Next::Contradiction(_)), "{status:?}: {next:?}");
                }
            }
        }
    }
}
