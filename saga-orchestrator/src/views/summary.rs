//! What happened to a checkout, and what happens next, in sentences.

use super::saga::{HistoryBody, PendingBody, SagaBody};

/// The sentences, oldest first; the last one tells what happens next, or how it ended.
pub fn sentences(saga: &SagaBody) -> Vec<String> {
    let money = saga.money().unwrap_or_default();
    let mut sentences: Vec<String> = Vec::new();
    for (at, entry) in saga.history.iter().enumerate() {
        let (before, _) = saga.history.split_at(at);
        // A reply that came too late to count tells all the same.
        let happened = |input: &str| {
            before.iter().any(|entry| entry.input == input) || saga.ignored.iter().any(|ignored| ignored.input == input)
        };
        sentences.extend(sentence(entry, before.last(), happened, &money));
    }
    sentences.push(next(saga, &money));
    sentences
}

/// `happened` tells whether an input is known to have come: a compensation answers alike whether there was something to
/// undo or not.
fn sentence(
    entry: &HistoryBody,
    before: Option<&HistoryBody>,
    happened: impl Fn(&str) -> bool,
    money: &str,
) -> Option<String> {
    let at = entry.at.0.format("%H:%M:%S%.3f");
    let why = entry.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let step = before.map_or("", |before| &before.step);
    if let Some(sentence) = by_a_person(entry, step) {
        return Some(sentence);
    }
    Some(match entry.input.as_str() {
        "started" => format!("Taken at {at}."),
        "order.create-refused" => format!("The order was refused at {at}{why}."),
        "payment.charged" => format!("{money} were charged at {at}."),
        "payment.failed" => format!("The payment was refused at {at}{why}. Nothing was charged."),
        "payment.refunded" if happened("payment.charged") => format!("The money went back at {at}."),
        "payment.refunded" => {
            format!("The payment was undone at {at}: what may have been charged is not held any more.")
        }
        "inventory.reserved" => format!("The goods were set aside at {at}."),
        "inventory.failed" => format!("The goods were refused at {at}{why}."),
        "inventory.released" if happened("inventory.reserved") => format!("The goods were released at {at}."),
        "inventory.released" => {
            format!("The reservation was undone at {at}: what may have been set aside is not held any more.")
        }
        "order.confirm-refused" => format!("The confirmation was refused at {at}{why}."),
        "deadline.passed" => {
            format!("{step} had no answer in time at {at}: whether it happened is unknown, so it is undone.")
        }
        // What the order service did goes without saying; the end is told last.
        _ => return None,
    })
}

/// What a person did: an operator, or the owner. `step`: what was pending then.
pub fn by_a_person(entry: &HistoryBody, step: &str) -> Option<String> {
    let at = entry.at.0.format("%H:%M:%S%.3f");
    let why = entry.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    let by = entry.by.as_deref().unwrap_or("an operator");
    Some(match entry.input.as_str() {
        "operator.cancelled" | "owner.cancelled" => format!("{by} cancelled it at {at}{why}."),
        "operator.retried" => format!("{by} had {step} repeated at {at}{why}."),
        "operator.resolved" => format!(
            "{by} settled {step} by hand at {at}{why} (evidence: {}).",
            entry.evidence.as_deref().unwrap_or("none")
        ),
        _ => return None,
    })
}

/// What a saga waits for.
pub fn waits(step: &str, pending: &PendingBody) -> String {
    let repeated = match pending.attempts {
        0 => String::new(),
        1 => ", repeated once".to_owned(),
        times => format!(", repeated {times} times"),
    };
    let again = pending.next_attempt_at.0.format("%H:%M:%S");
    format!(
        "Now it waits for {step} ({}{repeated}); without an answer it is asked for again at {again}.",
        pending.effect.effect
    )
}

fn next(saga: &SagaBody, money: &str) -> String {
    let took = format!("{:.3} s", saga.duration_ms / 1000.0);
    match (&saga.pending, saga.status) {
        (Some(pending), _) => waits(&saga.step, pending),
        (None, "COMPLETED") => format!("Completed after {took}: {money} charged, goods set aside, order confirmed."),
        (None, _) if saga.resolved_by_hand => {
            format!(
                "Ended after {took} as {}, settled by hand: the services' rows show what may still be held.",
                saga.step
            )
        }
        (None, _) => {
            format!("Failed after {took} ({}): no money and no goods are held, the order is cancelled.", saga.step)
        }
    }
}

#[cfg(test)]
pub mod tests {
    use messages::{Currency, OrderId, SagaId, TimestampText};
    use rust_decimal::Decimal;

    use super::super::saga::IgnoredBody;
    use super::*;

    pub fn entry(seq: i64, input: &str, status: &str, step: &str, reason: Option<&str>) -> HistoryBody {
        HistoryBody {
            seq,
            at: TimestampText(format!("2026-01-01T12:00:00.{:03}Z", seq * 10).parse().unwrap()),
            duration_ms: Some(10.0),
            input: input.to_owned(),
            event_id: None,
            status: status.to_owned(),
            step: step.to_owned(),
            reason: reason.map(str::to_owned),
            effect: None,
            command_id: None,
            by: None,
            evidence: None,
        }
    }

    pub fn sold_out() -> SagaBody {
        let at = TimestampText("2026-01-01T12:00:00Z".parse().unwrap());
        SagaBody {
            saga_id: SagaId::new(),
            order_id: OrderId::new(),
            status: "FAILED",
            step: "INVENTORY_FAILED".to_owned(),
            reason: Some("out of stock".to_owned()),
            user_id: "u1".to_owned(),
            total_amount: Some(Decimal::new(50_050, 2)),
            currency: Some(Currency::USD),
            created_at: at,
            updated_at: at,
            definition: "pay-first v1".to_owned(),
            subject: "orderId".to_owned(),
            input: None,
            kept: None,
            answer: None,
            duration_ms: 60.0,
            needs_attention: None,
            resolved_by_hand: false,
            pending: None,
            history: vec![
                entry(1, "started", "RUNNING", "ORDER_CREATE", None),
                entry(2, "order.created", "RUNNING", "PAYMENT_CHARGE", None),
                entry(3, "payment.charged", "RUNNING", "INVENTORY_RESERVE", None),
                entry(4, "inventory.failed", "COMPENSATING", "PAYMENT_REFUND", Some("out of stock")),
                entry(5, "payment.refunded", "COMPENSATING", "ORDER_CANCEL", None),
                entry(6, "order.cancelled", "FAILED", "INVENTORY_FAILED", None),
            ],
            ignored: vec![],
            trace_id: None,
            traceparent: None,
            summary: vec![],
            may_be_cancelled: false,
            flow: crate::saga::flows::pay_first(),
        }
    }

    #[test]
    fn a_sold_out_checkout_tells_when_the_money_came_and_went() {
        assert_eq!(
            sentences(&sold_out()),
            [
                "Taken at 12:00:00.010.",
                "500.50 USD were charged at 12:00:00.030.",
                "The goods were refused at 12:00:00.040: out of stock.",
                "The money went back at 12:00:00.050.",
                "Failed after 0.060 s (INVENTORY_FAILED): no money and no goods are held, the order is cancelled.",
            ]
        );
    }

    /// Cancelled, or timed out, before the charge was answered.
    fn turned_back_at_the_charge(input: &str) -> SagaBody {
        SagaBody {
            step: "CANCELLED".to_owned(),
            history: vec![
                entry(1, "started", "RUNNING", "ORDER_CREATE", None),
                entry(2, "order.created", "RUNNING", "PAYMENT_CHARGE", None),
                entry(3, input, "COMPENSATING", "PAYMENT_REFUND", None),
                entry(4, "payment.refunded", "COMPENSATING", "ORDER_CANCEL", None),
                entry(5, "order.cancelled", "FAILED", "CANCELLED", None),
            ],
            ..sold_out()
        }
    }

    #[test]
    fn money_that_is_not_known_to_have_been_charged_is_not_said_to_have_gone_back() {
        for input in ["operator.cancelled", "deadline.passed"] {
            let told = sentences(&turned_back_at_the_charge(input)).join(" ");
            assert!(!told.contains("went back"), "{told}");
            assert!(told.contains("The payment was undone at 12:00:00.040: what may have been charged"), "{told}");
        }
    }

    #[test]
    fn a_charge_that_was_told_too_late_to_count_has_gone_back() {
        let at = TimestampText("2026-01-01T12:00:00Z".parse().unwrap());
        let (input, state) = ("payment.charged".to_owned(), "COMPENSATING/PAYMENT_REFUND".to_owned());
        let late = IgnoredBody { input, state, count: 1, first_at: at, last_at: at };
        let saga = SagaBody { ignored: vec![late], ..turned_back_at_the_charge("deadline.passed") };
        let told = sentences(&saga).join(" ");
        assert!(told.contains("The money went back at 12:00:00.040."), "{told}");
    }

    #[test]
    fn goods_that_are_not_known_to_have_been_set_aside_are_not_said_to_have_been_released() {
        let mut saga = sold_out();
        saga.history[3] = entry(4, "operator.cancelled", "COMPENSATING", "INVENTORY_RELEASE", None);
        saga.history[4] = entry(5, "inventory.released", "COMPENSATING", "PAYMENT_REFUND", None);
        saga.history[5] = entry(6, "payment.refunded", "COMPENSATING", "ORDER_CANCEL", None);
        let told = sentences(&saga).join(" ");
        assert!(told.contains("The reservation was undone at 12:00:00.050"), "{told}");
        assert!(told.contains("The money went back at 12:00:00.060."), "{told}");

        saga.history.insert(3, entry(3, "inventory.reserved", "RUNNING", "ORDER_CONFIRM", None));
        let told = sentences(&saga).join(" ");
        assert!(told.contains("The goods were released at 12:00:00.050."), "{told}");
    }

    #[test]
    fn what_was_settled_by_hand_is_not_said_to_hold_nothing() {
        let saga = SagaBody { resolved_by_hand: true, ..sold_out() };
        assert!(sentences(&saga).last().unwrap().contains("may still be held"));
    }
}
