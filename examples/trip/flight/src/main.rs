//! The airline of the trip: a participant in one file. The rules that it keeps are those of docs/participants.md.
//!
//! ```text
//! trip-flight 127.0.0.1:9092 flight.db      (Kafka's address, the file of its table)
//! ```
//!
//! No seat is left to NOS. A ticket can't be given back, so there is no undo here, and no tombstone.

use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use rdkafka::{ClientConfig, ClientContext, Message as _};
use rusqlite::{Connection, OptionalExtension as _, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

const TICKET: &str = "trip.flight.ticket.command";
const REPLIES: &str = "trip.replies";

const TABLE: &str = "CREATE TABLE IF NOT EXISTS tickets (
    trip_id       TEXT PRIMARY KEY,
    saga_id       TEXT NOT NULL,
    asked         TEXT NOT NULL,    -- what the ticket was to be for
    ticket_number TEXT,             -- null where it was refused
    reason        TEXT,             -- why it was refused
    decided_at    TEXT NOT NULL)";

/// Fields that it does not know are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Command {
    event_id: Uuid,
    saga_id: Uuid,
    trip_id: Uuid,
    payload: Flight,
}

#[derive(Deserialize, Serialize)]
struct Flight {
    passenger: String,
    from: String,
    to: String,
    out: String,
    back: String,
}

struct Ticket {
    saga_id: String,
    asked: String,
    ticket_number: Option<String>,
    reason: Option<String>,
    decided_at: String,
}

/// The row for a trip that has none.
fn decide(command: &Command, asked: String) -> Ticket {
    let is_full = command.payload.to == "NOS";
    let number = || format!("220-{}", Uuid::new_v4().as_u128() % 10_000_000_000);
    Ticket {
        saga_id: command.saga_id.to_string(),
        asked,
        ticket_number: (!is_full).then(number),
        reason: is_full.then(|| "no seat is left".to_owned()),
        decided_at: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Micros, true),
    }
}

/// The stored row: what was decided when the command first came. `None`: the command contradicts it.
fn store(database: &mut Connection, command: &Command) -> Result<Option<Ticket>> {
    let transaction = database.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let trip_id = command.trip_id.to_string();
    let read = "SELECT saga_id, asked, ticket_number, reason, decided_at FROM tickets WHERE trip_id = ?";
    let row = transaction.query_row(read, [&trip_id], |row| {
        let (saga_id, asked, ticket_number) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Ticket { saga_id, asked, ticket_number, reason: row.get(3)?, decided_at: row.get(4)? })
    });
    let asked = serde_json::to_string(&command.payload)?;
    if let Some(row) = row.optional()? {
        let agrees = row.saga_id == command.saga_id.to_string() && row.asked == asked;
        return Ok(agrees.then_some(row));
    }
    let row = decide(command, asked);
    let values = params![trip_id, row.saga_id, row.asked, row.ticket_number, row.reason, row.decided_at];
    transaction.execute("INSERT INTO tickets VALUES (?, ?, ?, ?, ?, ?)", values)?;
    transaction.commit()?;
    Ok(Some(row))
}

/// The event that answers a command, with its id, type and body: a function of the command and the row, and so the same
/// each time.
fn reply(command: &Command, row: &Ticket) -> (String, &'static str, String) {
    let (event, payload) = match &row.ticket_number {
        Some(number) => ("trip.flight.ticketed", json!({ "ticketNumber": number })),
        None => ("trip.flight.refused", json!({ "reason": row.reason })),
    };
    let id = Uuid::new_v5(&command.event_id, event.as_bytes()).to_string();
    let body = json!({
        "eventId": id, "causationId": command.event_id, "sagaId": command.saga_id, "tripId": command.trip_id,
        "timestamp": row.decided_at, "payload": payload,
    });
    (id, event, body.to_string())
}

/// Keeps what Kafka answered, for the one record that is under way.
struct Deliveries(std::sync::mpsc::SyncSender<Result<()>>);

impl ClientContext for Deliveries {}

impl rdkafka::producer::ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &rdkafka::producer::DeliveryResult<'_>, (): ()) {
        // Nobody waits any more when the program ends.
        let _ = self.0.send(result.as_ref().map(|_| ()).map_err(|(error, _)| anyhow!("{error}")));
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (kafka, file) = arguments.next().zip(arguments.next()).context("usage: trip-flight KAFKA FILE")?;
    let mut database = Connection::open(file)?;
    database.execute(TABLE, [])?;
    let (sender, deliveries) = std::sync::mpsc::sync_channel(1);
    // As Java's clients hash keys: the reply reaches the orchestrator that waits for it.
    let producer: ThreadedProducer<Deliveries> = ClientConfig::new()
        .set("bootstrap.servers", &kafka)
        .set("partitioner", "murmur2_random")
        .set("acks", "all")
        .set("message.timeout.ms", "30000")
        .create_with_context(Deliveries(sender))?;
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &kafka)
        .set("group.id", "trip-flight")
        .set("auto.offset.reset", "earliest")
        .set("enable.auto.commit", "false")
        .set("session.timeout.ms", "6000")
        .set("fetch.wait.max.ms", "50")
        .set("topic.metadata.refresh.interval.ms", "10000")
        .create()?;
    consumer.subscribe(&[TICKET])?;
    loop {
        let message = match consumer.poll(Duration::from_secs(1)) {
            None => continue,
            Some(Err(error)) => {
                eprintln!("flight {error}");
                continue;
            }
            Some(Ok(message)) => message,
        };
        match serde_json::from_slice::<Command>(message.payload().unwrap_or_default()) {
            // Whatever is wrong with it: those behind it must get through.
            Err(error) => eprintln!("flight {TICKET} {}: no command: {error}", message.offset()),
            Ok(command) => match store(&mut database, &command)? {
                None => eprintln!("flight trip {}: the command contradicts its row and gets no reply", command.trip_id),
                Some(row) => {
                    let (id, event, body) = reply(&command, &row);
                    eprintln!("flight trip {}: {event}", command.trip_id);
                    let headers = [
                        ("content-type", "application/json"),
                        ("ce_specversion", "1.0"),
                        ("ce_id", &id),
                        ("ce_type", event),
                        ("ce_source", "/trip-flight"),
                        ("ce_time", &row.decided_at),
                    ];
                    let headers = headers
                        .into_iter()
                        .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(value) }));
                    let key = command.saga_id.to_string();
                    let record = BaseRecord::to(REPLIES).key(&key).payload(&body).headers(headers);
                    producer.send(record).map_err(|(error, _)| error)?;
                    // What Kafka has not got fails the program: the command comes again.
                    producer.flush(Duration::from_secs(30))?;
                    deliveries.recv()??;
                }
            },
        }
        if let Err(error) = consumer.commit_message(&message, CommitMode::Sync) {
            // Its partition is another's by now: the command comes again, there.
            eprintln!("flight {error}");
        }
    }
}
