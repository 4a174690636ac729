//! `docs/asyncapi.json`: the contract for tools, as AsyncAPI 3, made from the types that the services send and read.
//! `UPDATE_DOCS=1 cargo test -p messages --test asyncapi` writes it anew.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;

use chrono::{TimeZone, Utc};
use messages::{
    ANNOUNCEMENTS, ChangedOrder, ChargePayment, CommitInventory, Currency, Envelope, EventId, InventoryCommitted,
    InventoryExpired, InventoryFailed, InventoryKept, InventoryReleased, InventoryReserved, Items, KeepInventory,
    MESSAGE_TOPICS, Message, Money, ORDER_CREATED, OrderCreated, OrderEvent, OutgoingRecord, PaymentCharged,
    PaymentFailed, PaymentRefunded, PlacedOrder, RefundPayment, ReleaseInventory, ReserveInventory, SIGNALS, SagaId,
    SagaOutcome, SignalRecord, TOPICS, Timestamp, TimestampText, UserId, dead_letter_topic,
};
use serde_json::{Map, Value, json};
use utoipa::{PartialSchema, ToSchema};

const SAGA: &str = "01a1fcfc-71e1-7774-8bfb-889f9eb14880";
const ORDER: &str = "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9";
const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The document while it is put together.
struct Document {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

/// Who sends and who reads a message.
#[derive(Clone, Copy)]
struct Way {
    /// Empty: programs of others.
    from: &'static str,
    /// Likewise. The platform knows no dead letters of theirs.
    to: &'static str,
}

const TO_PAYMENT: Way = Way { from: "saga-orchestrator", to: "payment-service" };
const TO_INVENTORY: Way = Way { from: "saga-orchestrator", to: "inventory-service" };
const FROM_PAYMENT: Way = Way { from: "payment-service", to: "saga-orchestrator" };
const FROM_INVENTORY: Way = Way { from: "inventory-service", to: "saga-orchestrator" };
const ANNOUNCED_BY_INVENTORY: Way = Way { from: "inventory-service", to: "" };

impl Document {
    /// A message, its topic and its dead-letter topic, who sends and who reads it.
    fn add<T: Message + ToSchema>(&mut self, way: Way, summary: &str, payload: T) {
        let name = T::name().into_owned();
        self.schemas_of::<T>();
        let mut schemas = Vec::new();
        Envelope::<T>::schemas(&mut schemas);
        self.schemas.extend(schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap())));
        let envelope = format!("{name}Envelope");
        self.schemas.insert(envelope.clone(), serde_json::to_value(Envelope::<T>::schema()).unwrap());

        let is_command = T::TOPIC.name().ends_with(".command");
        let command = sent(ReserveInventory { force_fail: false, items: Items::default(), hold_for: None });
        let is_announcement = way.to.is_empty();
        let example = if is_command || is_announcement {
            sent(payload).to_record(way.from, Some(TRACEPARENT))
        } else {
            command.reply(payload, command.timestamp).to_record(way.from, Some(TRACEPARENT))
        };
        let what = if is_command {
            "Answered by one event whose `causationId` is this `eventId`; sent again, with the same `eventId`, until it is."
        } else if is_announcement {
            "Answers no command. Comes at least once, and with the same `eventId` each time."
        } else {
            "May come more than once, with the same `eventId`."
        };
        let schema = json!({"$ref": format!("#/components/schemas/{envelope}")});
        self.add_record(way, "SagaId", (&name, schema), [summary, what], example);
    }

    /// A signal, which comes from outside and has no envelope.
    fn add_signal(&mut self) {
        let (name, summary) = ("Signal", "Something happened outside that a saga waits for, or will wait for");
        self.schemas.insert(name.to_owned(), serde_json::to_value(SignalRecord::schema()).unwrap());
        let example =
            json!({"kind": "carrier.scanned", "match": "1Z999", "id": "scan-4711", "payload": {"depot": "LIS"}});
        assert!(SignalRecord::decode(example.to_string().as_bytes()).is_ok(), "what is shown can be read");
        self.messages.insert(
            name.to_owned(),
            json!({
                "name": name, "title": SIGNALS, "summary": summary,
                "description": "Any program sends it, as `POST /signals/{kind}` does over HTTP. It may be sent more than once, with the same `id`. No header is needed; a `traceparent` is taken up.",
                "contentType": "application/json",
                "payload": {"$ref": "#/components/schemas/Signal"},
                "bindings": {"kafka": {"key": {"type": "string", "description": "Not read. What the signal names is a good key: signals of one key are in one partition."}, "bindingVersion": "0.5.0"}},
                "examples": [{"name": "one", "payload": example}],
            }),
        );
        self.topic(SIGNALS, name, summary, Way { from: "", to: "saga-orchestrator" });
    }

    /// A message that names its topic itself, by an example of it.
    fn add_record(
        &mut self,
        way: Way,
        key: &str,
        (name, schema): (&str, Value),
        [summary, what]: [&str; 2],
        example: OutgoingRecord,
    ) {
        let headers: Map<String, Value> =
            example.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let payload: Value = serde_json::from_slice(&example.body).unwrap();
        self.messages.insert(
            name.to_owned(),
            json!({
                "name": name, "title": example.topic, "summary": summary, "description": what,
                "contentType": "application/json",
                "headers": {"$ref": "#/components/schemas/Headers"},
                "payload": schema,
                "bindings": {"kafka": {"key": {"$ref": format!("#/components/schemas/{key}")}, "bindingVersion": "0.5.0"}},
                "examples": [{"name": "one", "headers": headers, "payload": payload}],
            }),
        );
        self.topic(&example.topic, name, summary, way);
    }

    /// The schemas of a type and of what it is made of; answers where its own stands.
    fn schemas_of<T: ToSchema>(&mut self) -> Value {
        let mut schemas = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut schemas);
        self.schemas.extend(schemas.into_iter().map(|(name, schema)| (name, serde_json::to_value(schema).unwrap())));
        json!({"$ref": format!("#/components/schemas/{}", T::name())})
    }

    /// An order that was placed directly: there is no saga yet.
    fn add_order_created(&mut self) {
        let payload = PlacedOrder { flow: "reserve-first".to_owned(), user_id: user(), money: money(), items: items() };
        let example = OrderCreated::of(ORDER.parse().unwrap(), at(), payload).to_record("order-service");
        let schema = self.schemas_of::<OrderCreated>();
        let texts = [
            "An order was placed directly: a saga is to be started for it",
            "Sent again, with the same `eventId`, until the order's row names its saga. There is one saga for it, however often it comes.",
        ];
        let way = Way { from: "order-service", to: "saga-orchestrator" };
        self.add_record(way, "OrderId", ("OrderCreated", schema), texts, example);
    }

    /// What becomes of orders.
    fn add_order_event(&mut self) {
        let saga_id = Some(SAGA.parse().unwrap());
        let (status, items) = ("CONFIRMED".to_owned(), items());
        let payload =
            ChangedOrder { sequence: 2, status, failure_reason: None, saga_id, user_id: user(), money: money(), items };
        let example = OrderEvent::of(ORDER.parse().unwrap(), at(), payload).to_record("order-service");
        let schema = self.schemas_of::<OrderEvent>();
        let texts = [
            "An order was created, confirmed or cancelled",
            "With `PUBLISH_ORDER_EVENTS=true`. Never before the change is stored. At least once, with the same `eventId` each time; an order's events in their order, where none comes again. What happens while Kafka is away is sent when it is back.",
        ];
        self.add_record(Way { from: "order-service", to: "" }, "OrderId", ("OrderEvent", schema), texts, example);
    }

    /// How sagas end.
    fn add_saga_outcome(&mut self) {
        let outcome = SagaOutcome {
            flow: "pay-first".to_owned(),
            version: 1,
            status: "FAILED".to_owned(),
            cause: Some("PAYMENT_FAILED".to_owned()),
            reason: Some("declined by the bank".to_owned()),
            owner: "u1".to_owned(),
            money: Some(money()),
            result: None,
            resolved_by_hand: false,
            started_at: at().into(),
        };
        let (saga_id, subject) = (SAGA.parse().unwrap(), ("orderId", ORDER.parse().unwrap()));
        let example = outcome.to_record(saga_id, subject, at(), "saga-orchestrator", Some(TRACEPARENT));
        let payload = self.schemas_of::<SagaOutcome>();
        let schema = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
        let envelope = json!({
            "type": "object", "required": ["eventId", "sagaId", "timestamp", "payload"],
            "properties": {
                "eventId": schema("EventId"), "sagaId": schema("SagaId"), "payload": payload,
                "timestamp": schema("TimestampText"),
                "orderId": {"description": "What a checkout's saga is about. That of a user's flow stands under the name that the flow gives it.", "allOf": [schema("OrderId")]},
            },
        });
        self.schemas.insert("SagaOutcomeEnvelope".to_owned(), envelope);
        let texts = [
            "A saga has ended, of whatever flow",
            "With `PUBLISH_OUTCOMES=true`. Never before the end is stored. At least once, with the same `eventId` each time. What ends while Kafka is away is sent when it is back.",
        ];
        let way = Way { from: "saga-orchestrator", to: "" };
        self.add_record(way, "SagaId", ("SagaOutcome", schema("SagaOutcomeEnvelope")), texts, example);
    }

    /// A topic and its dead-letter topic, who sends and who reads there.
    fn topic(&mut self, topic: &str, name: &str, summary: &str, way: Way) {
        let message = |channel: &str| json!({"$ref": format!("#/channels/{channel}/messages/{name}")});
        let of_message = json!({name: {"$ref": format!("#/components/messages/{name}")}});
        let dlq = dead_letter_topic(topic);
        self.channels.insert(
            topic.to_owned(),
            json!({"address": topic, "summary": summary, "messages": of_message, "bindings": {"kafka": {"bindingVersion": "0.5.0"}}}),
        );
        if !way.to.is_empty() {
            let letters = json!({
                "address": dlq,
                "summary": format!("What {} could not handle of {topic}", way.to),
                "description": "The record as it came, whatever it holds, with headers that say where it stood and why it was set aside; and a marker without a body (`dlq_redriven`) behind each letter that was sent back.",
                "messages": {"DeadLetter": {"$ref": "#/components/messages/DeadLetter"}},
            });
            self.channels.insert(dlq.clone(), letters);
        }
        for (action, who, channel, reference) in [
            ("send", way.from, topic, message(topic)),
            ("receive", way.to, topic, message(topic)),
            ("send", way.to, &*dlq, json!({"$ref": format!("#/channels/{dlq}/messages/DeadLetter")})),
        ] {
            if who.is_empty() {
                continue;
            }
            let operation = json!({
                "action": action, "channel": {"$ref": format!("#/channels/{channel}")}, "messages": [reference],
                "summary": format!("{who} {action}s"), "tags": [{"name": who}],
            });
            self.operations.insert(format!("{who}.{action}.{channel}"), operation);
        }
    }

    fn whole(mut self) -> Value {
        let text = json!({"type": "string"});
        let topics = [&MESSAGE_TOPICS[..], &ANNOUNCEMENTS, &[ORDER_CREATED]].concat();
        let headers = json!({
            "type": "object",
            "description": "CloudEvents 1.0, binary content mode of the Kafka protocol binding.",
            "required": ["content-type", "ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time"],
            "properties": {
                "content-type": {"const": "application/json"},
                "ce_specversion": {"const": "1.0"},
                "ce_id": {"type": "string", "format": "uuid", "description": "The message's `eventId`."},
                "ce_type": {"type": "string", "description": "The topic.", "enum": topics},
                "ce_source": {"type": "string", "description": "The service that sent it, as `/payment-service`."},
                "ce_time": {"type": "string", "format": "date-time"},
                "traceparent": {"type": "string", "description": "W3C Trace Context. To be passed on with the reply.", "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"},
            },
        });
        let letter = json!({
            "type": "object",
            "description": "The record's own headers, and these.",
            "required": ["dlq_topic", "dlq_partition", "dlq_offset", "dlq_error", "dlq_service", "dlq_version"],
            "properties": {
                "dlq_topic": {"type": "string", "enum": TOPICS}, "dlq_partition": text, "dlq_offset": text,
                "dlq_timestamp": {"type": "string", "description": "When the record was produced, in ms since 1970; empty where the broker does not know."},
                "dlq_error": {"type": "string", "description": "Why, in words."}, "dlq_service": text, "dlq_version": text,
            },
        });
        self.schemas.insert("Headers".to_owned(), headers);
        self.schemas.insert("DeadLetterHeaders".to_owned(), letter);
        self.messages.insert(
            "DeadLetter".to_owned(),
            json!({
                "name": "DeadLetter", "title": "A record that was set aside", "contentType": "application/octet-stream",
                "headers": {"$ref": "#/components/schemas/DeadLetterHeaders"}, "payload": {"description": "Whatever the record held."},
            }),
        );
        let Self { channels, operations, messages, schemas } = self;
        json!({
            "asyncapi": "3.0.0",
            "info": {
                "title": "Order checkout",
                "version": env!("CARGO_PKG_VERSION"),
                "description": "The commands and events by which a saga is driven, and the signals that sagas wait for. The key of a command or an event is its saga's id, so all of a saga is in one partition. Whoever reads may get a record more than once, and ignores fields that it does not know.",
                "license": {"name": "MIT OR Apache-2.0"},
            },
            "defaultContentType": "application/json",
            "servers": {"kafka": {"host": "localhost:9092", "protocol": "kafka", "description": "An installation may put a prefix before every topic (KAFKA_TOPIC_PREFIX)."}},
            "channels": channels,
            "operations": operations,
            "components": {"messages": messages, "schemas": schemas},
        })
    }
}

fn at() -> Timestamp {
    Utc.with_ymd_and_hms(2026, 1, 1, 0, 0, 0).unwrap()
}

fn money() -> Money {
    Money::parse("19.90", Currency::USD).unwrap()
}

fn user() -> UserId {
    "u1".to_owned().try_into().unwrap()
}

fn items() -> Items {
    serde_json::from_str(r#"[{"sku":"blue-mug","qty":2}]"#).unwrap()
}

fn sent<T: Message>(payload: T) -> Envelope<T> {
    let saga_id: SagaId = SAGA.parse().unwrap();
    Envelope {
        event_id: EventId::derived(saga_id, T::TOPIC.name()),
        causation_id: None,
        saga_id,
        order_id: ORDER.parse().unwrap(),
        timestamp: at(),
        payload,
    }
}

fn document() -> Value {
    let empty = Map::new;
    let mut all = Document { channels: empty(), operations: empty(), messages: empty(), schemas: empty() };
    all.add(
        TO_PAYMENT,
        "Take the money for an order, once",
        ChargePayment { user_id: user(), money: money(), force_fail: false },
    );
    let refund = RefundPayment { money: money(), reason: "INVENTORY_FAILED".into() };
    all.add(TO_PAYMENT, "Make the net charge of an order zero, for good", refund);
    all.add(
        TO_INVENTORY,
        "Set the goods of an order aside",
        ReserveInventory { force_fail: false, items: Items::default(), hold_for: None },
    );
    all.add(TO_INVENTORY, "Give the goods of an order free, for good", ReleaseInventory { reason: "TIMED_OUT".into() });
    all.add(TO_INVENTORY, "The goods of an order leave the house", CommitInventory {});
    all.add(TO_INVENTORY, "Set the goods of an order aside without a limit from here on", KeepInventory {});
    all.add(FROM_PAYMENT, "The money was taken", PaymentCharged { money: money() });
    let declined = PaymentFailed { reason: "declined by the bank".into() };
    all.add(FROM_PAYMENT, "The money was not taken, and never will be for this order", declined);
    let refunded = PaymentRefunded { money: money(), money_returned: true };
    all.add(FROM_PAYMENT, "The net charge is zero, for good", refunded);
    all.add(FROM_INVENTORY, "The goods are set aside", InventoryReserved { expires_at: None });
    let refused = InventoryFailed { reason: "out of stock".into(), short: Vec::new() };
    all.add(
        FROM_INVENTORY,
        "The goods were not set aside, and never will be for this order; or they are not any more",
        refused,
    );
    all.add(FROM_INVENTORY, "No goods are held for the order, for good", InventoryReleased {});
    all.add(FROM_INVENTORY, "The goods have left the house", InventoryCommitted {});
    all.add(FROM_INVENTORY, "The goods are set aside without a limit", InventoryKept {});
    let expires_at = TimestampText(Utc.with_ymd_and_hms(2026, 1, 1, 0, 20, 0).unwrap());
    let expired = InventoryExpired { expires_at };
    all.add(ANNOUNCED_BY_INVENTORY, "The time for which goods were set aside is over: they are free again", expired);
    all.add_order_created();
    all.add_order_event();
    all.add_saga_outcome();
    all.add_signal();
    all.whole()
}

#[test]
fn the_description_of_the_topics_is_that_of_the_code() {
    let (wanted, path) = (document(), Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/asyncapi.json"));
    let wanted = format!("{}\n", serde_json::to_string_pretty(&wanted).unwrap());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &wanted).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let refresh = "UPDATE_DOCS=1 cargo test -p messages --test asyncapi";
    assert!(found == wanted, "docs/asyncapi.json is not what the code says. Refresh it: {refresh}");
}

#[test]
fn every_topic_is_described_with_its_dead_letters_and_no_reference_leads_nowhere() {
    let document = document();
    for topic in TOPICS {
        assert!(document["channels"][topic].is_object(), "{topic}");
        assert!(document["channels"][dead_letter_topic(topic)].is_object(), "{topic}");
    }
    for topic in ANNOUNCEMENTS {
        assert!(document["channels"][topic].is_object(), "{topic}");
    }
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 100, "{}", references.len());
    for reference in references {
        assert!(document.pointer(reference.trim_start_matches('#')).is_some(), "{reference} leads nowhere");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect(item, references)),
        _ => {}
    }
}
