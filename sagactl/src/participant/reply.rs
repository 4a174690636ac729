//! One reply, and what is wrong with it by itself.

use flow::{Meaning, Record};
use messages::{EventId, Money, partition_for_key};
use serde_json::Value as Json;
use service_runtime::kafka;
use uuid::Uuid;

use super::line::Command;
use super::rule::Rule;

/// A record on one of the topics that replies go to.
#[derive(Debug, Clone)]
pub struct Reply {
    record: kafka::Record,
    /// Null where the body is no JSON.
    json: Json,
}

/// What a reply has to fit.
pub struct Wanted<'a> {
    pub command: &'a Command,
    /// The subject's name in the flow.
    pub subject_field: &'a str,
    pub partitions: u32,
    /// Whether all replies of the flow share a topic: the event is then in `ce_type` alone.
    pub is_shared: bool,
    pub money: Option<Money>,
}

/// A demand that a reply does not keep, and how.
pub type Fault = (Rule, String);

impl Reply {
    pub fn of(record: kafka::Record) -> Self {
        let json = serde_json::from_slice(&record.body).unwrap_or_default();
        Self { record, json }
    }

    /// The command that it names.
    pub fn causation_id(&self) -> Option<EventId> {
        self.json["causationId"].as_str()?.parse().ok()
    }

    /// Whether it is about a command's saga, by whatever stands in it.
    pub fn mentions(&self, command: &Command) -> bool {
        let (saga, subject) = (command.saga_id.to_string(), command.subject.to_string());
        let text = String::from_utf8_lossy(&self.record.body);
        self.record.key.as_deref() == Some(saga.as_bytes()) || text.contains(&saga) || text.contains(&subject)
    }

    /// The event that it is. Our own participants have a topic for each.
    pub fn event(&self, is_shared: bool) -> &str {
        let topic = (!is_shared).then_some(self.record.topic.as_str());
        topic.or_else(|| self.record.header("ce_type")).unwrap_or_default()
    }

    pub fn event_id(&self) -> Option<&str> {
        self.json["eventId"].as_str()
    }

    pub fn payload(&self) -> &Json {
        &self.json["payload"]
    }

    pub fn body(&self) -> &[u8] {
        &self.record.body
    }

    /// For people: where it stood, its key, its event and its body.
    pub fn describe(&self) -> String {
        let kafka::Record { topic, partition, key, body, .. } = &self.record;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let key = key.as_deref().map_or("no key".to_owned(), |key| format!("key {}", text(key)));
        let event = self.record.header("ce_type").map_or("no ce_type".to_owned(), |event| format!("ce_type {event}"));
        format!("{topic}, partition {partition}, {key}, {event}: {}", text(body))
    }

    /// What is wrong with it, whatever it answers.
    pub fn faults(&self, wanted: &Wanted<'_>) -> Vec<Fault> {
        let mut faults: Vec<Fault> = self.envelope(wanted).into_iter().map(|what| (Rule::Envelope, what)).collect();
        faults.extend(self.misplaced(wanted));
        faults
    }

    fn envelope(&self, wanted: &Wanted<'_>) -> Vec<String> {
        if !self.json.is_object() {
            return vec!["the body is no JSON object".to_owned()];
        }
        let (command, subject) = (wanted.command, wanted.subject_field);
        let is = |field: &str, id: &str| self.json[field].as_str() == Some(id);
        let id = self.event_id().unwrap_or_default();
        let timestamp = self.json["timestamp"].as_str().unwrap_or_default();
        let (ce_id, ce_type) = (self.record.header("ce_id"), self.record.header("ce_type"));
        let is_named =
            if wanted.is_shared { ce_type.is_some() } else { ce_type.is_none_or(|event| event == self.record.topic) };
        let [command_id, saga_id] = [command.id.to_string(), command.saga_id.to_string()];
        let demands = [
            (is("causationId", &command_id), format!("causationId is not {command_id}")),
            (is("sagaId", &saga_id), format!("sagaId is not {saga_id}")),
            (is(subject, &command.subject.to_string()), format!("{subject} is not {}", command.subject)),
            (id.parse::<Uuid>().is_ok(), "eventId is no UUID".to_owned()),
            (id != command_id, "eventId is the command's".to_owned()),
            (timestamp.parse::<messages::Timestamp>().is_ok(), "timestamp is not of RFC 3339".to_owned()),
            (self.payload().is_object(), "payload is no object".to_owned()),
            (ce_id.is_none_or(|ce_id| ce_id == id), format!("the header ce_id is {ce_id:?}, not the eventId")),
            (is_named, format!("the header ce_type is {ce_type:?}, not the event")),
        ];
        demands.into_iter().filter(|(holds, _)| !holds).map(|(_, what)| what).collect()
    }

    fn misplaced(&self, wanted: &Wanted<'_>) -> Option<Fault> {
        let key = wanted.command.saga_id.to_string();
        let (is, partition) = (self.record.partition, partition_for_key(key.as_bytes(), wanted.partitions));
        if self.record.key.as_deref() != Some(key.as_bytes()) {
            return Some((Rule::Key, format!("the key is not {key}")));
        }
        let is_right = u32::try_from(is) == Ok(partition);
        (!is_right)
            .then(|| (Rule::Partition, format!("the key belongs to partition {partition}, the reply is in {is}")))
    }

    /// What the flow reads of it.
    ///
    /// # Errors
    /// A field that does not fit its shape, or money that is not what was asked about.
    pub fn read(&self, meaning: Meaning<'_>, wanted: &Wanted<'_>) -> Result<Record, Fault> {
        let record = meaning.read(&self.payload().to_string()).map_err(|misfit| (Rule::Shape, misfit.to_string()))?;
        match meaning.agrees(&record, wanted.money) {
            Ok(()) => Ok(record),
            Err(money) => Err((Rule::Agrees, format!("the reply is about {money}"))),
        }
    }
}
