//! The persistence boundaries at which dying leaves another stored state, or another effect that was not sent: what is
//! stored there, and what happens next. docs/reliability-failpoints.md shows the same table.

use e2e_tests::Service;

use crate::recovery::dies_and_recovers;

/// One place to die at.
pub struct Point {
    /// As `FAILPOINTS` names it.
    pub name: &'static str,
    pub scenario: &'static Scenario,
    /// The victim's row when it is dead: the saga's step, or the status; of a payment, the gateway's ledger too.
    pub stored: &'static str,
    pub next: &'static str,
}

/// A checkout that passes the point.
pub struct Scenario {
    /// The flag in the request, if any.
    pub flag: Option<&'static str>,
    /// Whether it is of counted goods.
    pub has_items: bool,
    /// Whether it is sent to the order service, which answers at once.
    pub is_placed: bool,
    pub settings: &'static [(&'static str, &'static str)],
    /// Further failpoints of the victim.
    pub also: &'static str,
    /// How the saga ends, by its step.
    pub end: &'static str,
    /// What a client is answered whose orchestrator lives.
    pub answer: u16,
}

/// All goes well.
pub const GOOD: Scenario =
    Scenario { flag: None, has_items: false, is_placed: false, settings: &[], also: "", end: "COMPLETED", answer: 200 };

/// Of counted goods, of which there are enough.
const COUNTED: Scenario = Scenario { has_items: true, settings: &[("SAMPLE_PRODUCTS", "true")], ..GOOD };

const PLACED: Scenario = Scenario { is_placed: true, answer: 202, ..COUNTED };

const DECLINED: Scenario = Scenario { flag: Some("forcePaymentFail"), end: "PAYMENT_FAILED", answer: 402, ..GOOD };

const SOLD_OUT: Scenario = Scenario { flag: Some("forceInventoryFail"), end: "INVENTORY_FAILED", answer: 409, ..GOOD };

/// The payment is in hand for so long that the sweeper repeats its command.
const SLOW: Scenario = Scenario { settings: &[("PAYMENT_PROCESSING_MS", "2500")], ..GOOD };

/// The victim holds something back until the saga has timed out, so that the compensation overtakes it.
const fn late(also: &'static str) -> Scenario {
    Scenario {
        flag: None,
        has_items: false,
        is_placed: false,
        settings: &[("SAGA_TIMEOUT_MS", "8000"), ("CHECKOUT_WAIT_MS", "60000")],
        also,
        end: "TIMED_OUT",
        answer: 409,
    }
}

const LATE_CREATE: Scenario = late("order.storing:PENDING=sleep(20000)");
const LATE_CHARGE: Scenario = late("consumer.received:payment.charge.command=sleep(20000)");
const LATE_RESERVE: Scenario = late("consumer.received:inventory.reserve.command=sleep(20000)");
const LATE_RESERVED: Scenario = late("consumer.handled:inventory.reserve.command=sleep(20000)");

impl Point {
    /// The service that dies.
    pub fn victim(&self) -> Service {
        let owner = self.name.strip_prefix("consumer.").and_then(|rest| rest.split(':').nth(1)).unwrap_or(self.name);
        match owner.split('.').next() {
            // A command goes to its participant, an event to the orchestrator.
            Some("payment") if owner.ends_with(".command") || owner == self.name => Service::Payment,
            Some("inventory") if owner.ends_with(".command") || owner == self.name => Service::Inventory,
            Some("order") => Service::Order,
            _ => Service::Orchestrator,
        }
    }

    /// Its line in the documentation.
    pub fn line(&self) -> String {
        format!("| `{}` | {} | {} | {} |", self.name, self.stored, self.next, self.scenario.end)
    }
}

macro_rules! points {
    ($($test:ident: $name:literal, $scenario:ident, $stored:literal, $next:literal;)+) => {
        const POINTS: &[Point] =
            &[$(Point { name: $name, scenario: &$scenario, stored: $stored, next: $next },)+];

        $(
            #[tokio::test]
            async fn $test() -> anyhow::Result<()> {
                dies_and_recovers(&Point { name: $name, scenario: &$scenario, stored: $stored, next: $next }).await
            }
        )+
    };
}

/// Nothing was stored, so there is no saga to end.
const UNKNOWN: Scenario = Scenario { end: "no saga", ..GOOD };

points! {
    orchestrator_before_the_saga_is_stored: "orchestrator.storing:ORDER_CREATE", UNKNOWN, "nothing",
        "nothing was asked of anybody: the client, whose connection broke, may try again";
    orchestrator_before_it_creates_the_order: "orchestrator.stored:ORDER_CREATE", GOOD, "ORDER_CREATE",
        "the sweeper creates the order";
    orchestrator_before_it_notes_the_order: "orchestrator.storing:PAYMENT_CHARGE", GOOD, "ORDER_CREATE",
        "the order is created again: the order service answers with the one that is there";
    orchestrator_before_it_commands_the_charge: "orchestrator.stored:PAYMENT_CHARGE", GOOD, "PAYMENT_CHARGE",
        "the sweeper sends the command";
    orchestrator_with_the_command_in_its_hands: "orchestrator.sent:PAYMENT_CHARGE", GOOD, "PAYMENT_CHARGE",
        "the sweeper sends the command, if it is lost; twice or once is all the same";
    orchestrator_with_a_saga_claimed: "orchestrator.claimed:PAYMENT_CHARGE", SLOW, "PAYMENT_CHARGE",
        "the claim is a date and no lock: the next sweep after it repeats the command";
    orchestrator_before_it_notes_the_charge: "orchestrator.storing:INVENTORY_RESERVE", GOOD, "PAYMENT_CHARGE",
        "the reply comes again: its offset was not committed";
    orchestrator_before_it_commits_an_offset: "consumer.handled:payment.charged", GOOD, "INVENTORY_RESERVE",
        "the reply comes again and is ignored; the sweeper sends the command, if it is lost";
    orchestrator_before_it_confirms_the_order: "orchestrator.stored:ORDER_CONFIRM", GOOD, "ORDER_CONFIRM",
        "the pivot is stored: the sweeper confirms the order";
    orchestrator_before_it_notes_the_confirmation: "orchestrator.storing:COMPLETED", GOOD, "ORDER_CONFIRM",
        "the order is confirmed again: it is CONFIRMED, which is the answer";
    orchestrator_before_it_tells_the_client: "orchestrator.stored:COMPLETED", GOOD, "COMPLETED",
        "nothing: the client's connection broke, `GET /sagas/{id}` tells";
    orchestrator_before_it_commands_the_refund: "orchestrator.stored:PAYMENT_REFUND", SOLD_OUT, "PAYMENT_REFUND",
        "the sweeper sends the command; the saga is not FAILED while it holds money";
    orchestrator_before_it_notes_the_refund: "orchestrator.storing:ORDER_CANCEL", SOLD_OUT, "PAYMENT_REFUND",
        "the reply comes again";
    orchestrator_before_it_notes_the_cancellation: "orchestrator.storing:INVENTORY_FAILED", SOLD_OUT, "ORDER_CANCEL",
        "the order is cancelled again: it is CANCELLED, which is the answer";

    orchestrator_before_it_commands_the_commit: "orchestrator.stored:INVENTORY_COMMIT", COUNTED, "INVENTORY_COMMIT",
        "the pivot is stored: the sweeper sends the command";
    orchestrator_before_it_notes_the_commit: "orchestrator.storing:ORDER_CONFIRM", COUNTED, "INVENTORY_COMMIT",
        "the reply comes again";

    order_service_before_it_stores_the_order: "order.storing:PENDING", GOOD, "nothing",
        "the orchestrator asks again";
    order_service_before_it_answers_a_create: "order.stored:PENDING", GOOD, "PENDING",
        "the orchestrator asks again and gets the stored order";
    order_service_before_it_stores_the_confirmation: "order.storing:CONFIRMED", GOOD, "PENDING",
        "the orchestrator asks again: from the pivot on it does so for ever";
    order_service_before_it_answers_a_confirmation: "order.stored:CONFIRMED", GOOD, "CONFIRMED",
        "the orchestrator asks again; the order is CONFIRMED already";
    order_service_before_it_stores_the_cancellation: "order.storing:CANCELLED", DECLINED, "PENDING",
        "the orchestrator asks again";
    order_service_before_it_answers_a_cancellation: "order.stored:CANCELLED", DECLINED, "CANCELLED",
        "the orchestrator asks again; the order is CANCELLED already";
    order_service_before_it_answers_a_cancel_without_an_order: "order.stored:TOMBSTONE", LATE_CREATE, "CANCELLED",
        "the orchestrator asks again; a create that comes late finds the tombstone and is refused";
    order_service_before_a_saga_takes_an_order_up: "order.storing:TAKEN_UP", PLACED, "PENDING",
        "the orchestrator asks again; the order waits for its saga until then";
    order_service_before_it_answers_that_an_order_is_taken_up: "order.stored:TAKEN_UP", PLACED, "PENDING",
        "the orchestrator asks again; the order names its saga already";

    payment_service_before_it_announces_the_charge: "payment.storing:CHARGING", GOOD, "nothing",
        "the command comes again";
    payment_service_before_it_asks_the_gateway: "payment.stored:CHARGING", GOOD, "CHARGING",
        "the command comes again: the gateway is asked";
    payment_service_before_it_notes_that_money_was_taken: "payment.storing:CHARGED", GOOD, "CHARGING, CHARGE",
        "the command comes again: the gateway is asked by the same key and answers as before";
    payment_service_before_it_replies_charged: "payment.stored:CHARGED", GOOD, "CHARGED, CHARGE",
        "the command comes again: the reply is a function of the row";
    payment_service_before_it_commits_the_charges_offset: "consumer.answered:payment.charge.command", GOOD,
        "CHARGED, CHARGE", "the command comes again, the reply is sent again, and ignored";
    payment_service_before_it_notes_that_the_charge_was_declined: "payment.storing:FAILED", DECLINED, "CHARGING",
        "the command comes again: the gateway declined that key, and remembers";
    payment_service_before_it_replies_failed: "payment.stored:FAILED", DECLINED, "FAILED",
        "the command comes again: the reply is a function of the row";
    payment_service_before_it_announces_the_refund: "payment.storing:REFUNDING", SOLD_OUT, "CHARGED, CHARGE",
        "the command comes again";
    payment_service_before_it_asks_for_the_refund: "payment.stored:REFUNDING", SOLD_OUT, "REFUNDING, CHARGE",
        "the command comes again: the gateway is asked";
    payment_service_before_it_notes_that_money_went_back: "payment.storing:REFUNDED", SOLD_OUT,
        "REFUNDING, CHARGE, REFUND", "the command comes again: the gateway is asked by the same key and answers as before";
    payment_service_before_it_replies_refunded: "payment.stored:REFUNDED", SOLD_OUT, "REFUNDED, CHARGE, REFUND",
        "the command comes again: the reply is a function of the row";
    payment_service_before_it_commits_the_refunds_offset: "consumer.answered:payment.refund.command", SOLD_OUT,
        "REFUNDED, CHARGE, REFUND", "the command comes again, the reply is sent again, and ignored";
    payment_service_before_it_stores_a_tombstone: "payment.storing:VOIDED", LATE_CHARGE, "nothing",
        "both commands come again, in any order: the net is zero";
    payment_service_with_a_tombstone_before_it_replies: "payment.stored:VOIDED", LATE_CHARGE, "VOIDED",
        "both commands come again: the refund is answered from the row, the late charge is refused";

    inventory_service_before_it_reserves: "inventory.storing:RESERVED", GOOD, "nothing",
        "the command comes again";
    inventory_service_before_it_replies_reserved: "inventory.stored:RESERVED", GOOD, "RESERVED",
        "the command comes again: the reply is a function of the row";
    inventory_service_before_it_commits_the_reserves_offset: "consumer.answered:inventory.reserve.command", GOOD,
        "RESERVED", "the command comes again, the reply is sent again, and ignored";
    inventory_service_before_it_replies_failed: "inventory.stored:FAILED", SOLD_OUT, "FAILED",
        "the command comes again: it was decided, and is answered from the row";
    inventory_service_before_it_releases: "inventory.storing:RELEASED", LATE_RESERVED, "RESERVED",
        "both commands come again: the goods are released";
    inventory_service_before_it_replies_released: "inventory.stored:RELEASED", LATE_RESERVED, "RELEASED",
        "both commands come again: the release is answered from the row, the late reserve is refused";
    inventory_service_with_a_tombstone_before_it_replies: "inventory.stored:VOIDED", LATE_RESERVE, "VOIDED",
        "both commands come again: the release is answered from the row, the late reserve is refused";
    inventory_service_before_it_counts_what_it_reserves: "inventory.storing:RESERVED", COUNTED, "nothing",
        "the command comes again";
    inventory_service_before_it_commits: "inventory.storing:COMMITTED", COUNTED, "RESERVED",
        "the command comes again: the goods are still there";
    inventory_service_before_it_replies_committed: "inventory.stored:COMMITTED", COUNTED, "COMMITTED",
        "the command comes again: the reply is a function of the row, the pieces left once";
    inventory_service_before_it_commits_the_commits_offset: "consumer.answered:inventory.commit.command", COUNTED,
        "COMMITTED", "the command comes again, the reply is sent again, and ignored";
}

#[test]
fn the_documentation_has_the_same_table() {
    let documentation = include_str!("../../../docs/reliability-failpoints.md");
    let missing: Vec<String> =
        POINTS.iter().map(Point::line).filter(|line| !documentation.lines().any(|written| written == line)).collect();
    assert!(missing.is_empty(), "not in docs/reliability-failpoints.md:\n{}", missing.join("\n"));
}
