//! Sending letters back to where they came from, once what made them fail is mended.
//!
//! A letter is acknowledged and marked before the next: a partition's letters keep their order, and whatever interrupts
//! it leaves at most one letter that was sent and not marked. Sent again it does no harm, since every handler is
//! idempotent. A command is sent only while its saga waits for its reply; where the saga stands is asked for just before.
//! What it does not wait for any more must not run late: a refund whose step an operator has settled otherwise would pay
//! the money back twice.

use messages::{
    ChargePayment, Event, Message as _, OrderId, RefundPayment, ReleaseInventory, ReserveInventory, SagaId,
    dead_letter_topic,
};
use service_runtime::kafka::Producer;
use sqlx::PgPool;

use super::{Belongs, Letter, Marker};

/// What may be sent besides the ordinary.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rules {
    /// Also what was redriven before.
    pub again: bool,
    /// Also events that belong to no saga, by their body and key. Never commands.
    pub even_without_saga: bool,
}

/// Whether a letter may go back.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    Send,
    /// It was redriven before.
    Skip(String),
    Refuse(String),
}

/// Where a letter's saga stands, by the orchestrator's database.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    /// `sagas.status` and `step`.
    At { status: String, step: String },
    /// It has no row, and its order is below the retention horizon.
    Removed,
}

/// A command: its topic, what people call it, and where a saga stands that waits for its reply.
struct Command {
    topic: &'static str,
    name: &'static str,
    status: &'static str,
    step: &'static str,
}

/// What is said of a saga that was removed.
const REMOVED: &str = "is removed: it ended longer than RETENTION_DAYS ago, and nothing is done for its order again";

/// All commands. The steps are those of the orchestrator's definitions, of which it has one.
const COMMANDS: [Command; 4] = [
    Command { topic: ChargePayment::TOPIC.name(), name: "charge", status: "RUNNING", step: "PAYMENT_CHARGE" },
    Command { topic: RefundPayment::TOPIC.name(), name: "refund", status: "COMPENSATING", step: "PAYMENT_REFUND" },
    Command { topic: ReserveInventory::TOPIC.name(), name: "reserve", status: "RUNNING", step: "INVENTORY_RESERVE" },
    Command {
        topic: ReleaseInventory::TOPIC.name(),
        name: "release",
        status: "COMPENSATING",
        step: "INVENTORY_RELEASE",
    },
];

impl Rules {
    /// Whether a letter may go back now, by where its saga stands in the orchestrator's database.
    ///
    /// # Errors
    /// When that can't be read.
    pub async fn judge(
        self,
        orchestrator: &PgPool,
        letter: &Letter,
        marker: Option<&Marker>,
    ) -> Result<Verdict, sqlx::Error> {
        let standing = match letter.belongs() {
            Belongs::To(saga_id) => standing(orchestrator, saga_id, letter.order_id()).await?,
            Belongs::Unknown | Belongs::Contradictory => None,
        };
        Ok(self.verdict(letter, marker, standing.as_ref()))
    }

    /// The rules, given where its saga stands. `None`: the orchestrator's database does not know it.
    fn verdict(self, letter: &Letter, marker: Option<&Marker>, standing: Option<&Standing>) -> Verdict {
        if let Some(Marker { by, at, .. }) = marker.filter(|_| !self.again) {
            return Verdict::Skip(format!("redriven by {by} at {at}"));
        }
        if !letter.is_at_home() {
            let says = letter.record.header("dlq_topic").unwrap_or_default();
            return Verdict::Refuse(format!("its headers say that it came from {says:?}"));
        }
        if let Some(bytes) = letter.cut_from() {
            return Verdict::Refuse(format!("it was cut: its record had {bytes} bytes, more than a topic takes"));
        }
        match (letter.belongs(), is_command(letter)) {
            (Belongs::To(saga_id), true) => match standing {
                Some(standing) => match standing.objection_to(letter.topic) {
                    None => Verdict::Send,
                    Some(objection) => Verdict::Refuse(format!("saga {saga_id} {objection}")),
                },
                None => Verdict::Refuse(format!("saga {saga_id} is unknown")),
            },
            (Belongs::To(saga_id), false) if standing == Some(&Standing::Removed) => {
                Verdict::Refuse(format!("saga {saga_id} {REMOVED}"))
            }
            (Belongs::To(_), false) => Verdict::Send,
            (Belongs::Unknown | Belongs::Contradictory, true) => {
                Verdict::Refuse("it is a command, and its body and key do not name one saga".to_owned())
            }
            (Belongs::Unknown | Belongs::Contradictory, false) if self.even_without_saga => Verdict::Send,
            (Belongs::Unknown | Belongs::Contradictory, false) => {
                Verdict::Refuse("its body and key do not name one saga".to_owned())
            }
        }
    }
}

/// Sends a letter back and, once Kafka has it, its marker, which says who did it and why.
///
/// # Errors
/// What Kafka said, in words.
pub async fn send(producer: &Producer, letter: &Letter, by: &str, reason: &str) -> Result<(), String> {
    let (key, body) = (letter.record.key.as_deref(), letter.record.body.as_slice());
    let headers = letter.headers_back();
    let borrowed = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let sent = producer.produce(letter.topic, key, body, borrowed).acknowledged().await;
    sent.map_err(|why| format!("Kafka does not take it: {why}"))?;
    let headers = Marker::now(letter.place, by, reason).headers();
    let borrowed = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let marked = producer.produce(&dead_letter_topic(letter.topic), key, &[], borrowed).acknowledged().await;
    marked.map_err(|why| format!("it was sent back, but could not be marked as redriven, and will be shown as if it were not: {why}. Sent back once more it does no harm"))
}

impl Standing {
    /// Why a saga that stands here must not get a command of this topic; `None` if it waits for its reply.
    fn objection_to(&self, topic: &str) -> Option<String> {
        let Self::At { status, step } = self else { return Some(REMOVED.to_owned()) };
        if !matches!(status.as_str(), "RUNNING" | "COMPENSATING") {
            return Some(format!("has ended: {status}"));
        }
        let command = COMMANDS.iter().find(|command| command.topic == topic);
        if command.is_some_and(|command| (command.status, command.step) == (status, step)) {
            return None;
        }
        let name = command.map_or(topic, |command| command.name);
        Some(format!("is at {status}/{step}: its {name} is not what it waits for"))
    }
}

fn is_command(letter: &Letter) -> bool {
    !Event::TOPICS.contains(&letter.topic)
}

async fn standing(
    orchestrator: &PgPool,
    saga_id: SagaId,
    order_id: Option<OrderId>,
) -> Result<Option<Standing>, sqlx::Error> {
    let found = sqlx::query_as(
        "SELECT status, step, COALESCE($2 < (SELECT order_id FROM retention_horizon), false)
         FROM (SELECT) AS one_row LEFT JOIN sagas ON saga_id = $1",
    );
    let found = found.bind(saga_id.as_uuid()).bind(order_id.map(OrderId::as_uuid));
    let (status, step, below_horizon): (Option<String>, Option<String>, bool) = found.fetch_one(orchestrator).await?;
    let removed = below_horizon.then_some(Standing::Removed);
    Ok(status.zip(step).map(|(status, step)| Standing::At { status, step }).or(removed))
}

#[cfg(test)]
mod tests {
    use crate::letter::tests::{SAGA, letter};

    use super::*;

    const ORDINARY: Rules = Rules { again: false, even_without_saga: false };

    fn of_topic(topic: &'static str, key: Option<&str>) -> Letter {
        let mut letter = letter(key, "not JSON");
        letter.topic = topic;
        letter.record.headers.retain(|(name, _)| name != b"dlq_topic");
        letter.record.headers.push(("dlq_topic".into(), topic.as_bytes().to_vec()));
        letter
    }

    fn event(key: Option<&str>) -> Letter {
        of_topic("payment.charged", key)
    }

    fn at(status: &str, step: &str) -> Standing {
        Standing::At { status: status.to_owned(), step: step.to_owned() }
    }

    #[test]
    fn a_command_goes_back_only_while_its_saga_waits_for_its_reply() {
        let places = [
            ("RUNNING", "ORDER_CREATE", None),
            ("RUNNING", "PAYMENT_CHARGE", Some("payment.charge.command")),
            ("RUNNING", "INVENTORY_RESERVE", Some("inventory.reserve.command")),
            ("RUNNING", "ORDER_CONFIRM", None),
            ("COMPENSATING", "INVENTORY_RELEASE", Some("inventory.release.command")),
            ("COMPENSATING", "PAYMENT_REFUND", Some("payment.refund.command")),
            ("COMPENSATING", "ORDER_CANCEL", None),
            ("COMPLETED", "COMPLETED", None),
            ("FAILED", "PAYMENT_FAILED", None),
            // No step of any saga, whatever it stands for.
            ("RUNNING", "PAYMENT_REFUND", None),
            ("COMPENSATING", "PAYMENT_CHARGE", None),
        ];
        let commands: Vec<&str> = messages::TOPICS.into_iter().filter(|topic| !Event::TOPICS.contains(topic)).collect();
        assert_eq!(
            commands,
            ["payment.charge", "payment.refund", "inventory.reserve", "inventory.release"]
                .map(|name| format!("{name}.command"))
        );
        for (status, step, awaited) in places {
            for topic in &commands {
                let verdict = ORDINARY.verdict(&of_topic(topic, Some(SAGA)), None, Some(&at(status, step)));
                let sent = awaited == Some(topic);
                assert_eq!(verdict == Verdict::Send, sent, "{topic} at {status}/{step}: {verdict:?}");
                let named = matches!(&verdict, Verdict::Refuse(why) if why.contains(SAGA));
                assert_eq!(named, !sent, "{topic} at {status}/{step}: {verdict:?}");
            }
        }
    }

    #[test]
    fn a_refusal_says_where_the_saga_stands() {
        let refused = |topic, standing: Option<Standing>| match ORDINARY.verdict(
            &of_topic(topic, Some(SAGA)),
            None,
            standing.as_ref(),
        ) {
            Verdict::Refuse(why) => why,
            other => panic!("{other:?}"),
        };
        // Its refund was resolved by hand: the money is back already.
        let cancelling = Some(at("COMPENSATING", "ORDER_CANCEL"));
        let why = format!("saga {SAGA} is at COMPENSATING/ORDER_CANCEL: its refund is not what it waits for");
        assert_eq!(refused("payment.refund.command", cancelling), why);
        let ended = Some(at("FAILED", "TIMED_OUT"));
        assert_eq!(refused("inventory.reserve.command", ended), format!("saga {SAGA} has ended: FAILED"));
        assert_eq!(refused("payment.charge.command", None), format!("saga {SAGA} is unknown"));
        for topic in ["payment.charge.command", "payment.charged"] {
            let why = refused(topic, Some(Standing::Removed));
            assert!(why.contains(SAGA) && why.contains("RETENTION_DAYS"), "{topic}: {why}");
        }
    }

    #[test]
    fn a_letter_without_a_saga_goes_back_only_if_it_is_an_event_and_that_was_asked_for() {
        let asked = Rules { even_without_saga: true, ..ORDINARY };
        assert!(matches!(ORDINARY.verdict(&event(None), None, None), Verdict::Refuse(_)));
        assert_eq!(asked.verdict(&event(None), None, None), Verdict::Send);
        assert_eq!(ORDINARY.verdict(&event(Some(SAGA)), None, None), Verdict::Send);
        assert!(matches!(asked.verdict(&letter(None, "not JSON"), None, None), Verdict::Refuse(_)));
    }

    #[test]
    fn a_letter_that_was_redriven_is_skipped_unless_asked_for_again() {
        let letter = letter(Some(SAGA), "{}");
        let marker = Marker::now(letter.place, "ada", "mended");
        let charging = at("RUNNING", "PAYMENT_CHARGE");
        assert!(
            matches!(ORDINARY.verdict(&letter, Some(&marker), Some(&charging)), Verdict::Skip(why) if why.contains("ada"))
        );
        let again = Rules { again: true, ..ORDINARY };
        assert_eq!(again.verdict(&letter, Some(&marker), Some(&charging)), Verdict::Send);
    }

    #[test]
    fn a_letter_that_came_from_elsewhere_is_refused() {
        let mut stray = letter(Some(SAGA), "{}");
        stray.topic = "payment.refund.command";
        let verdict = ORDINARY.verdict(&stray, None, Some(&at("COMPENSATING", "PAYMENT_REFUND")));
        assert!(matches!(&verdict, Verdict::Refuse(why) if why.contains("payment.charge.command")), "{verdict:?}");
    }
}
