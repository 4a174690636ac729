//! Sending letters back to where they came from, once what made them fail is mended.
//!
//! A letter is acknowledged and marked before the next: a partition's letters keep their order, and whatever interrupts
//! it leaves at most one letter that was sent and not marked. Sent again it does no harm, since every handler is
//! idempotent. A command is sent only while its saga waits for its reply: if its topic and its id are those of the command that the
//! saga's flow has pending; where the saga stands is asked for just before.
//! What it does not wait for any more must not run late: a refund whose step an operator has settled otherwise would pay
//! the money back twice.

use flow::{Asked, Origin, State, check};
use messages::{Event, EventId, MESSAGE_TOPICS, OrderId, SagaId, dead_letter_topic};
use service_runtime::kafka::Producer;
use sqlx::{FromRow, PgPool};

use super::topics::belongs_to_none;
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
    /// At this status and step. It waits for the reply to this command, or for none.
    At { place: String, pending: Option<Pending> },
    /// With this status.
    Ended(String),
    /// By a flow that this program can't read.
    Unreadable { flow: String },
    /// It has no row, and its order is below the retention horizon.
    Removed,
}

/// The command that a saga waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pending {
    topic: String,
    id: EventId,
}

/// A saga's row with its flow's, and whether its order is below the retention horizon. Without a saga all else is `None`.
#[derive(Debug, Default, FromRow)]
struct Row {
    status: Option<String>,
    step: Option<String>,
    cause: Option<String>,
    definition: Option<String>,
    source: Option<String>,
    built_in: Option<bool>,
    below_horizon: bool,
}

/// What is said of a saga that was removed.
const REMOVED: &str = "is removed: it ended longer than RETENTION_DAYS ago, and nothing is done for its order again";

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
        if belongs_to_none(&letter.topic) {
            return Verdict::Send;
        }
        match (letter.belongs(), is_command(letter)) {
            (Belongs::To(saga_id), true) => match standing {
                Some(standing) => match standing.objection_to(letter) {
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
    let sent = producer.produce(&letter.topic, key, body, borrowed).acknowledged().await;
    sent.map_err(|why| format!("Kafka does not take it: {why}"))?;
    let headers = Marker::now(letter.place, by, reason).headers();
    let borrowed = headers.iter().map(|(name, value)| (name.as_slice(), value.as_slice()));
    let marked = producer.produce(&dead_letter_topic(&letter.topic), key, &[], borrowed).acknowledged().await;
    marked.map_err(|why| format!("it was sent back, but could not be marked as redriven, and will be shown as if it were not: {why}. Sent back once more it does no harm"))
}

impl Standing {
    /// Why a saga that stands here must not get this command; `None` if it waits for its reply.
    fn objection_to(&self, letter: &Letter) -> Option<String> {
        let topic = &letter.topic;
        match self {
            Self::Removed => Some(REMOVED.to_owned()),
            Self::Ended(status) => Some(format!("has ended: {status}")),
            Self::Unreadable { flow } => Some(format!("runs by the flow {flow}, which this program can't read")),
            Self::At { place, pending } => match pending {
                Some(pending) if pending.topic == *topic => {
                    let other = format!("is at {place}: the command that it waits for has another `eventId`");
                    (letter.event_id() != Some(pending.id)).then_some(other)
                }
                _ => Some(format!("is at {place}: {topic} is not what it waits for")),
            },
        }
    }

    /// What a saga's row says.
    fn of(saga_id: SagaId, row: Row) -> Option<Self> {
        let Row { status: Some(status), step: Some(step), cause, definition, source, built_in, .. } = row else {
            return row.below_horizon.then_some(Self::Removed);
        };
        if !matches!(status.as_str(), "RUNNING" | "WAITING" | "COMPENSATING") {
            return Some(Self::Ended(status));
        }
        let origin = if built_in == Some(true) { Origin::BuiltIn } else { Origin::User };
        let read = || {
            let flow = check(source.as_deref()?, origin).ok()?;
            let state = State::parse(&flow, &status, &step, cause.as_deref()).ok()?;
            let pending = state.question(&flow).and_then(|question| {
                let Asked::Topic(topic) = &question.ask.of else { return None };
                Some(Pending { topic: topic.clone(), id: question.command_id(&flow, saga_id)? })
            });
            Some(Self::At { place: format!("{status}/{step}"), pending })
        };
        Some(read().unwrap_or_else(|| Self::Unreadable { flow: definition.unwrap_or_default() }))
    }
}

/// Whether its saga asks by it. What comes from a flow's topic is a reply.
fn is_command(letter: &Letter) -> bool {
    let topic = letter.topic.as_str();
    MESSAGE_TOPICS.contains(&topic) && !Event::TOPICS.contains(&topic)
}

async fn standing(
    orchestrator: &PgPool,
    saga_id: SagaId,
    order_id: Option<OrderId>,
) -> Result<Option<Standing>, sqlx::Error> {
    let found = sqlx::query_as(
        "SELECT sagas.status, sagas.step, sagas.cause, sagas.definition, flows.source, flows.built_in,
                COALESCE($2 < (SELECT order_id FROM retention_horizon), false) AS below_horizon
         FROM (SELECT) AS one_row
         LEFT JOIN sagas ON saga_id = $1
         LEFT JOIN flows ON flows.name = definition AND flows.version = definition_version",
    );
    let found = found.bind(saga_id.as_uuid()).bind(order_id.map(OrderId::as_uuid));
    Ok(Standing::of(saga_id, found.fetch_one(orchestrator).await?))
}

#[cfg(test)]
mod tests {
    use messages::SIGNALS;

    use crate::letter::tests::{SAGA, letter};

    use super::*;

    const ORDINARY: Rules = Rules { again: false, even_without_saga: false };

    const PAY_FIRST: &str = include_str!("../../flows/pay-first.v1.yaml");
    const SHOP: &str = include_str!("../../flow/tests/flows/shop.v1.yaml");
    const PAY: &str = "topic: payment.charge.command, send: { userId: $input.userId, money: $start.money }";
    const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

    /// Of this topic, with this body.
    fn of(topic: &str, key: Option<&str>, body: &str) -> Letter {
        let mut letter = letter(key, body);
        letter.topic = topic.to_owned();
        letter.record.headers.retain(|(name, _)| name != b"dlq_topic");
        letter.record.headers.push(("dlq_topic".into(), topic.as_bytes().to_vec()));
        letter
    }

    fn event(key: Option<&str>) -> Letter {
        of("payment.charged", key, "not JSON")
    }

    /// A command of the saga, whose id is derived from `what`.
    fn command(topic: &str, what: &str) -> Letter {
        let id = EventId::derived(SAGA.parse::<SagaId>().unwrap(), what);
        of(topic, None, &format!(r#"{{"sagaId":"{SAGA}","eventId":"{id}"}}"#))
    }

    /// The saga stands here by a flow.
    fn standing((source, built_in): (&str, bool), status: &str, step: &str) -> Option<Standing> {
        let row = Row {
            status: Some(status.to_owned()),
            step: Some(step.to_owned()),
            cause: ["COMPENSATING", "FAILED"].contains(&status).then(|| "TIMED_OUT".to_owned()),
            definition: Some("its-flow".to_owned()),
            source: Some(source.to_owned()),
            built_in: Some(built_in),
            below_horizon: false,
        };
        Standing::of(SAGA.parse().unwrap(), row)
    }

    fn at(status: &str, step: &str) -> Option<Standing> {
        standing((PAY_FIRST, true), status, step)
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
        let commands: Vec<&str> = MESSAGE_TOPICS.into_iter().filter(|topic| !Event::TOPICS.contains(topic)).collect();
        assert_eq!(
            commands,
            [
                "payment.charge",
                "payment.refund",
                "inventory.reserve",
                "inventory.release",
                "inventory.commit",
                "inventory.keep"
            ]
            .map(|name| format!("{name}.command"))
        );
        for (status, step, awaited) in places {
            for topic in &commands {
                let verdict = ORDINARY.verdict(&command(topic, topic), None, at(status, step).as_ref());
                let sent = awaited == Some(topic);
                assert_eq!(verdict == Verdict::Send, sent, "{topic} at {status}/{step}: {verdict:?}");
                let named = matches!(&verdict, Verdict::Refuse(why) if why.contains(SAGA));
                assert_eq!(named, !sent, "{topic} at {status}/{step}: {verdict:?}");
            }
        }
    }

    #[test]
    fn a_command_of_a_users_flow_goes_back_if_its_id_is_that_of_the_pending_step() {
        // It asks the platform's participants; two of its steps here ask the same.
        let shop = SHOP.replacen("topic: shop.wrap.command, send: { order: $start.subject }", PAY, 1);
        let shop = shop.replacen("done: shop.wrapped", "done: payment.charged", 1);
        let shop = shop.replacen("shop.no-paper", "payment.failed", 1);
        let verdict = |letter: &Letter, status: &str, step: &str| {
            ORDINARY.verdict(letter, None, standing((&shop, false), status, step).as_ref())
        };
        for (status, step) in
            [("RUNNING", "PAY"), ("RUNNING", "WRAP"), ("RUNNING", "HOLD"), ("COMPENSATING", "PAY_BACK")]
        {
            for asked in ["PAY", "WRAP", "PAY_BACK", "payment.charge.command"] {
                let topic = if asked == "PAY_BACK" { "payment.refund.command" } else { "payment.charge.command" };
                let verdict = verdict(&command(topic, asked), status, step);
                assert_eq!(verdict == Verdict::Send, asked == step, "{asked} at {status}/{step}: {verdict:?}");
            }
        }
        let unreadable = of("payment.charge.command", Some(SAGA), "not JSON");
        let refused = verdict(&unreadable, "RUNNING", "PAY");
        assert!(matches!(&refused, Verdict::Refuse(why) if why.contains("`eventId`")), "{refused:?}");
        let newer = standing(("flow: of a newer release", false), "RUNNING", "PAY");
        let refused = ORDINARY.verdict(&command("payment.charge.command", "PAY"), None, newer.as_ref());
        assert!(matches!(&refused, Verdict::Refuse(why) if why.contains("the flow its-flow")), "{refused:?}");
    }

    #[test]
    fn a_reply_on_a_flows_topic_goes_back_as_events_do() {
        let reply = of("trip.replies", Some(SAGA), "{}");
        let waits = standing((TRIP, false), "RUNNING", "CAR_RENT");
        assert_eq!(ORDINARY.verdict(&reply, None, waits.as_ref()), Verdict::Send);
        let of_none = of("trip.replies", None, "not JSON");
        assert!(matches!(ORDINARY.verdict(&of_none, None, None), Verdict::Refuse(_)));
        let asked = Rules { even_without_saga: true, ..ORDINARY };
        assert_eq!(asked.verdict(&of_none, None, None), Verdict::Send);
    }

    #[test]
    fn a_signal_or_an_event_that_starts_a_saga_goes_back_whatever_it_holds_and_belongs_to_no_saga() {
        let of_saga = format!(r#"{{"sagaId":"{SAGA}"}}"#);
        for (topic, key, body) in
            [(SIGNALS, None, "not JSON"), (SIGNALS, Some(SAGA), &*of_saga), ("trip.asked", Some(SAGA), &*of_saga)]
        {
            let signal = of(topic, key, body);
            assert_eq!(signal.belongs(), Belongs::Unknown, "{key:?} is what it names");
            assert_eq!(ORDINARY.verdict(&signal, None, None), Verdict::Send);
        }
        let signal = of(SIGNALS, None, "{}");
        let marker = Marker::now(signal.place, "ada", "mended");
        assert!(matches!(ORDINARY.verdict(&signal, Some(&marker), None), Verdict::Skip(_)));
    }

    #[test]
    fn a_refusal_says_where_the_saga_stands() {
        let refused =
            |topic, standing: Option<Standing>| match ORDINARY.verdict(&command(topic, topic), None, standing.as_ref())
            {
                Verdict::Refuse(why) => why,
                other => panic!("{other:?}"),
            };
        // Its refund was resolved by hand: the money is back already.
        let why =
            format!("saga {SAGA} is at COMPENSATING/ORDER_CANCEL: payment.refund.command is not what it waits for");
        assert_eq!(refused("payment.refund.command", at("COMPENSATING", "ORDER_CANCEL")), why);
        let ended = at("FAILED", "TIMED_OUT");
        assert_eq!(refused("inventory.reserve.command", ended), format!("saga {SAGA} has ended: FAILED"));
        assert_eq!(refused("payment.charge.command", None), format!("saga {SAGA} is unknown"));
        let removed = Standing::of(SAGA.parse().unwrap(), Row { below_horizon: true, ..Row::default() });
        for topic in ["payment.charge.command", "payment.charged"] {
            let why = refused(topic, removed.clone());
            assert!(why.contains(SAGA) && why.contains("RETENTION_DAYS"), "{topic}: {why}");
        }
        assert_eq!(Standing::of(SAGA.parse().unwrap(), Row::default()), None);
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
        let letter = command("payment.charge.command", "payment.charge.command");
        let marker = Marker::now(letter.place, "ada", "mended");
        let charging = at("RUNNING", "PAYMENT_CHARGE");
        let verdict = ORDINARY.verdict(&letter, Some(&marker), charging.as_ref());
        assert!(matches!(&verdict, Verdict::Skip(why) if why.contains("ada")), "{verdict:?}");
        let again = Rules { again: true, ..ORDINARY };
        assert_eq!(again.verdict(&letter, Some(&marker), charging.as_ref()), Verdict::Send);
    }

    #[test]
    fn a_letter_that_came_from_elsewhere_is_refused() {
        let mut stray = letter(Some(SAGA), "{}");
        stray.topic = "payment.refund.command".to_owned();
        let verdict = ORDINARY.verdict(&stray, None, at("COMPENSATING", "PAYMENT_REFUND").as_ref());
        assert!(matches!(&verdict, Verdict::Refuse(why) if why.contains("payment.charge.command")), "{verdict:?}");
    }
}
