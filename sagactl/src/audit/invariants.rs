//! What has to hold about every order, as pure functions of its rows.
//!
//! Some of it holds at any moment, however the rows were read: each statement is a snapshot, and the statuses named
//! there are never left again. The rest holds once a saga has stopped moving; of a saga that moved a moment ago it is
//! not asked.

use std::collections::BTreeMap;

use flow::RESERVE_FIRST;
use serde::Serialize;

use super::rows::{Case, Decision, Movement, Order, Payment, Saga};
use super::sums::{NO_CURRENCY, Sums};

/// One thing that always holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Invariant {
    EverySagaEnds,
    MoneyMovesOnce,
    AllKnowTheSaga,
    GatewayAgrees,
    OneOrderPerKey,
    HistoryIsWhole,
    TombstonesHold,
    EndsAgree,
    AmountsAgree,
    StockIsConserved,
}

/// An invariant that does not hold for an order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    pub invariant: Invariant,
    /// What is wrong, in words.
    pub what: String,
    /// What the customer, or the shop, may lose by it.
    pub at_risk: Sums,
}

impl Invariant {
    pub const ALL: [Self; 10] = [
        Self::EverySagaEnds,
        Self::MoneyMovesOnce,
        Self::AllKnowTheSaga,
        Self::GatewayAgrees,
        Self::OneOrderPerKey,
        Self::HistoryIsWhole,
        Self::TombstonesHold,
        Self::EndsAgree,
        Self::AmountsAgree,
        Self::StockIsConserved,
    ];

    /// What it promises.
    pub const fn promise(self) -> &'static str {
        match self {
            Self::EverySagaEnds => {
                "no saga is unfinished past its grace, unless it waits for something outside or is marked for attention"
            }
            Self::MoneyMovesOnce => {
                "the gateway charged and refunded an order at most once each, and refunded nothing that was not charged"
            }
            Self::AllKnowTheSaga => {
                "orders, payments, reservations and money that moved belong to a saga, to the same one everywhere"
            }
            Self::GatewayAgrees => "the payment's row says what the gateway decided and what its ledger moved",
            Self::OneOrderPerKey => "an idempotency key of a user stands for one order",
            Self::HistoryIsWhole => "a saga's history has no gaps and ends where the saga stands",
            Self::TombstonesHold => "nothing was charged or reserved for what was voided before it came",
            Self::EndsAgree => {
                "a checkout that is COMPLETED is CONFIRMED, CHARGED and RESERVED (with items COMMITTED), one that FAILED is CANCELLED; no FAILED saga \
                 holds money or goods, but for what an operator has settled"
            }
            Self::AmountsAgree => "amounts and currencies are the same everywhere",
            Self::StockIsConserved => {
                "every piece that came in is available, reserved for an order that holds it, or committed, by the product's row \
                 and by its movements"
            }
        }
    }
}

/// Every invariant that does not hold for this order.
pub fn violations(case: &Case) -> Vec<Violation> {
    let mut found = Vec::new();
    money_moves_once(case, &mut found);
    all_know_the_saga(case, &mut found);
    tombstones_hold(case, &mut found);
    amounts_agree(case, &mut found);
    if let Some(saga) = &case.saga {
        history_is_whole(saga, &mut found);
        if !saga.moved_lately {
            gateway_agrees(case, &mut found);
            if saga.has_ended() {
                ends_agree(case, saga, &mut found);
            } else {
                it_ends(case, saga, &mut found);
            }
        }
    }
    found
}

fn money_moves_once(case: &Case, found: &mut Vec<Violation>) {
    let (charges, refunds) = (case.movements("CHARGE"), case.movements("REFUND"));
    let total = |moved: &[&Movement]| moved.iter().fold(Sums::default(), |sums, one| sums.plus(&one.amount));
    if charges.len() > 1 || refunds.len() > 1 {
        let what = format!("{} charges and {} refunds in the gateway's ledger", charges.len(), refunds.len());
        // Whatever goes beyond the first of each.
        let beyond = |moved: &[&Movement]| total(moved.get(1..).unwrap_or_default());
        let at_risk = beyond(&charges).most(&beyond(&refunds));
        found.push(Violation { invariant: Invariant::MoneyMovesOnce, what, at_risk });
    }
    let over = refunds.iter().fold(total(&charges), |left, refund| left.minus(&refund.amount)).owed();
    if !over.is_zero() {
        let what = format!("refunded {}, but charged {}", total(&refunds), total(&charges));
        found.push(Violation { invariant: Invariant::MoneyMovesOnce, what, at_risk: over });
    }
}

fn all_know_the_saga(case: &Case, found: &mut Vec<Violation>) {
    let mut add = |what: String| {
        found.push(Violation { invariant: Invariant::AllKnowTheSaga, what, at_risk: case.held() });
    };
    // One that was placed directly is taken up by its saga's first step, unless its client cancels it before.
    let is_waiting = |order: &&Order| order.placed && order.saga_id.is_none() && order.status != "CONFIRMED";
    let owners = [
        ("order", case.order.as_ref().filter(|order| !is_waiting(order)).map(|order| order.saga_id)),
        ("payment", case.payment.as_ref().map(|payment| Some(payment.saga_id))),
        ("reservation", case.reservation.as_ref().map(|reservation| Some(reservation.saga_id))),
    ];
    if case.order.as_ref().is_some_and(|order| order.placed && !is_waiting(&order) && order.saga_id.is_none()) {
        add("its order was confirmed, and no saga has taken it up".to_owned());
        return;
    }
    for (row, owner) in owners {
        match (owner, &case.saga) {
            (Some(Some(owner)), None) => add(format!("its {row} belongs to saga {owner}, which does not exist")),
            (Some(owner), Some(saga)) if owner != Some(saga.saga_id) => {
                let owner = owner.map_or_else(|| "no saga".to_owned(), |owner| format!("saga {owner}"));
                add(format!("its {row} belongs to {owner}"));
            }
            _ => {}
        }
    }
    if case.payment.is_none() && !(case.ledger.is_empty() && case.decisions.is_empty()) {
        let (moved, decided) = (case.ledger.len(), case.decisions.len());
        add(format!("the gateway has {decided} requests and {moved} ledger entries about it, payments has no row"));
    }
}

fn tombstones_hold(case: &Case, found: &mut Vec<Violation>) {
    let mut add = |what: &str| {
        found.push(Violation { invariant: Invariant::TombstonesHold, what: what.to_owned(), at_risk: case.held() });
    };
    let charged = !case.movements("CHARGE").is_empty();
    let reserved = case.reservation.as_ref().map(|reservation| reservation.status.as_str());
    if charged && case.payment.as_ref().is_some_and(|payment| payment.status == "VOIDED") {
        add("its payment is VOIDED, and yet the gateway charged it");
    }
    if case.order.as_ref().is_some_and(|order| order.saga_id.is_some() && order.amount.is_none()) {
        if charged {
            add("its order was cancelled before it was created, and yet the gateway charged it");
        }
        if let Some(status @ ("RESERVED" | "COMMITTED")) = reserved {
            add(&format!("its order was cancelled before it was created, and yet goods are {status} for it"));
        }
    }
}

fn amounts_agree(case: &Case, found: &mut Vec<Violation>) {
    // One of a flow about no money says nothing of what its participants were asked to move.
    let saga = case.saga.as_ref().filter(|saga| saga.amount.currency != NO_CURRENCY);
    let saga = saga.map(|saga| ("the saga", &saga.amount));
    let payment = case.payment.as_ref().map(|payment| ("the payment", &payment.amount));
    // What the others are held against; without a saga, the payment at least with its ledger.
    let Some((whose, expected)) = saga.or(payment) else { return };
    let order = case.order.as_ref().and_then(|order| order.amount.as_ref()).map(|amount| ("the order", amount));
    let order = order.filter(|_| saga.is_some());
    let ledger = case.ledger.iter().map(|movement| ("the gateway's ledger", &movement.amount));
    let decisions = case.decisions.iter().map(|decision| ("the gateway's decision", &decision.amount));
    for (who, amount) in order.into_iter().chain(payment).chain(ledger).chain(decisions) {
        if amount != expected {
            let what = format!("{whose} is about {expected}, {who} about {amount}");
            let at_risk = Sums::of(expected).apart(&Sums::of(amount));
            found.push(Violation { invariant: Invariant::AmountsAgree, what, at_risk });
        }
    }
}

/// One entry for each version, and the last one is the row's state.
fn history_is_whole(saga: &Saga, found: &mut Vec<Violation>) {
    let mut add = |what: String| {
        found.push(Violation { invariant: Invariant::HistoryIsWhole, what, at_risk: Sums::default() });
    };
    let history = &saga.history;
    if (history.entries, history.first, history.last) != (saga.version, Some(1), Some(saga.version)) {
        let (version, entries) = (saga.version, history.entries);
        let number = |seq: Option<i64>| seq.map_or_else(|| "none".to_owned(), |seq| seq.to_string());
        let (first, last) = (number(history.first), number(history.last));
        add(format!("version {version}, but a history of {entries} entries, from {first} to {last}"));
    }
    let (status, step) = (history.status.as_deref(), history.step.as_deref());
    if (status, step) != (Some(&saga.status), Some(&saga.step)) {
        let ends = format!("{}/{}", status.unwrap_or("nowhere"), step.unwrap_or("nowhere"));
        add(format!("at {}, but its history ends at {ends}", saga.place()));
    }
}

/// The payment's row says what the gateway decided, and the ledger has what was approved. An announced call may have
/// been decided already, its answer not yet stored.
fn gateway_agrees(case: &Case, found: &mut Vec<Violation>) {
    let Some(payment) = &case.payment else { return };
    let mut add = |what: String| {
        let at_risk = case.held().apart(&should_hold(payment));
        found.push(Violation { invariant: Invariant::GatewayAgrees, what, at_risk });
    };
    let moved = (case.movements("CHARGE").len(), case.movements("REFUND").len());
    let allowed: &[(usize, usize)] = match payment.status.as_str() {
        "CHARGING" => &[(0, 0), (1, 0)],
        "CHARGED" => &[(1, 0)],
        "REFUNDING" => &[(1, 0), (1, 1)],
        "REFUNDED" => &[(1, 1)],
        _ => &[(0, 0)],
    };
    if !allowed.contains(&moved) {
        add(format!(
            "its payment is {}, but the ledger has {} charges and {} refunds",
            payment.status, moved.0, moved.1
        ));
    }
    for decision in &case.decisions {
        let entries = case.ledger.iter().filter(|movement| movement.key == decision.key).count();
        if entries != usize::from(decision.outcome == "APPROVED") {
            add(format!(
                "the gateway {} {}, but its ledger has {entries} entries of that",
                decision.outcome, decision.key
            ));
        }
    }
    let undecided = |movement: &&Movement| !case.decisions.iter().any(|decision| decision.key == movement.key);
    for movement in case.ledger.iter().filter(undecided) {
        add(format!("the ledger has a {} of {}, which the gateway never decided", movement.kind, movement.key));
    }
    let declined = |decision: &&Decision| decision.kind == "CHARGE" && decision.outcome == "DECLINED";
    if payment.status == "FAILED" && !case.decisions.iter().any(|decision| declined(&decision)) {
        add("its payment is FAILED, but the gateway declined no charge".to_owned());
    }
}

/// What a payment's row says that the customer has paid, net.
fn should_hold(payment: &Payment) -> Sums {
    match payment.status.as_str() {
        "CHARGED" | "REFUNDING" => Sums::of(&payment.amount),
        _ => Sums::default(),
    }
}

fn it_ends(case: &Case, saga: &Saga, found: &mut Vec<Violation>) {
    if saga.attention.is_none() && !saga.waits {
        let what = format!("it stands at {}", saga.place());
        found.push(Violation { invariant: Invariant::EverySagaEnds, what, at_risk: case.held() });
    }
}

/// What an ended saga leaves behind is what its end says. Of a compensation that an operator has settled, just what it
/// would have undone may still be there: the operator answers for that, and for nothing else. What a completed saga of
/// another flow than the checkout leaves is known to its own participants alone.
fn ends_agree(case: &Case, saga: &Saga, found: &mut Vec<Violation>) {
    let order = case.order.as_ref().map(|order| order.status.as_str());
    let payment = case.payment.as_ref().map(|payment| payment.status.as_str());
    let reservation = case.reservation.as_ref().map(|reservation| reservation.status.as_str());
    let completed = saga.status == "COMPLETED";
    if completed && !saga.is_checkout() {
        return;
    }
    let settled = |compensation: &str| !completed && saga.has_resolved(compensation);
    let (order_agrees, payment_agrees, reservation_agrees) = if completed {
        let goods = if saga.flow == RESERVE_FIRST { "COMMITTED" } else { "RESERVED" };
        (order == Some("CONFIRMED"), payment == Some("CHARGED"), reservation == Some(goods))
    } else {
        (
            order == Some("CANCELLED")
                || (order.is_none() && !saga.is_checkout())
                || (matches!(order, None | Some("PENDING")) && settled("ORDER_CANCEL")),
            matches!(payment, None | Some("FAILED" | "REFUNDED" | "VOIDED")) || settled("PAYMENT_REFUND"),
            matches!(reservation, None | Some("FAILED" | "RELEASED" | "VOIDED" | "EXPIRED"))
                || (matches!(reservation, Some("RESERVED" | "COMMITTED")) && settled("INVENTORY_RELEASE")),
        )
    };
    let mut wrong: Vec<String> = Vec::new();
    for (row, status, agrees) in [
        ("order", order, order_agrees),
        ("payment", payment, payment_agrees),
        ("reservation", reservation, reservation_agrees),
    ] {
        if !agrees {
            wrong.push(status.map_or_else(|| format!("it has no {row}"), |status| format!("its {row} is {status}")));
        }
    }
    let ordered = case.order.as_ref().map(|order| &order.items).filter(|_| completed);
    let handed_over = case.reservation.as_ref().map(|reservation| &reservation.handed_over);
    if let Some(ordered) = ordered.filter(|ordered| handed_over.is_some_and(|pieces| pieces != *ordered)) {
        wrong.push(format!("its order is of {}, handed over were {}", pieces(Some(ordered)), pieces(handed_over)));
    }
    let (held, amount) = (case.held(), Sums::of(&saga.amount));
    // A refund that was settled otherwise leaves the whole amount with the gateway, or was made by it all the same.
    let due = if completed || (settled("PAYMENT_REFUND") && held == amount) { amount } else { Sums::default() };
    if held != due {
        wrong.push(format!("the gateway holds {held} of it"));
    }
    if !wrong.is_empty() {
        let what = format!("the saga is {}, but {}", saga.status, wrong.join(", "));
        let apart = held.apart(&due);
        // Right by the ledger, and yet not what was paid for: all of it.
        let at_risk = if completed && apart.is_zero() { held } else { apart };
        found.push(Violation { invariant: Invariant::EndsAgree, what, at_risk });
    }
}

/// `2 x blue-mug, 1 x teapot`.
fn pieces(of: Option<&BTreeMap<String, i64>>) -> String {
    let lines: Vec<String> = of.into_iter().flatten().map(|(sku, pieces)| format!("{pieces} x {sku}")).collect();
    if lines.is_empty() { "nothing".to_owned() } else { lines.join(", ") }
}
