//! A flow for those who write its participants: the commands that they receive and the replies that they send, as
//! AsyncAPI 3 has it.

use messages::dead_letter_topic;
use serde_json::{Map, Value, json};

use super::payload::Carrier;
use crate::flow::{Asked, Flow};
use crate::meaning::Question;
use crate::sample::Samples;

/// Ids in examples.
const SAGA: &str = "01a1fcfc-71e1-7774-8bfb-889f9eb14880";
const SUBJECT: &str = "01a1fcfc-71e1-7774-8bfb-88a030f9fbb9";
const EVENT: &str = "968b5bb3-524a-56f0-bea6-ff12d7bd9c72";
const TIME: &str = "2026-01-01T00:00:00.000000Z";

const ABOUT: &str = "A record's key is its saga's id. A command may come twice, late, and after its undo; it is sent again until it is \
    answered. A reply is derived from the command and a stored row, and names the command in `causationId`; its event \
    stands in the header `ce_type`. Readers ignore fields that they do not know. An installation may put a prefix before \
    every topic (KAFKA_TOPIC_PREFIX).";

impl Flow {
    /// What participants of the flow's own receive and send. Those of the platform have the platform's document.
    pub fn asyncapi(&self) -> Value {
        let Self { name, version, .. } = self;
        let own = self.own_command_topics();
        let replies = self.reply_topic();
        let samples = Samples::of(self, None).ok();
        let (mut messages, mut channels, mut operations) = (Map::new(), Map::new(), Map::new());
        let mut replied = Map::new();
        for (question, events) in self.questions_and_events() {
            let Asked::Topic(topic) = &question.ask.of else { continue };
            if !own.contains(&topic.as_str()) {
                continue;
            }
            for event in &events {
                messages.entry(*event).or_insert_with(|| self.message(Carrier::Reply(event), None));
                replied.insert((*event).to_owned(), in_components(event));
            }
            let example =
                samples.as_ref().map(|samples| samples.payload(&question.ask.send, &samples.usual, SUBJECT, None));
            let example = example.and_then(|json| serde_json::from_str(&json).ok());
            messages.entry(topic).or_insert_with(|| self.message(Carrier::Command(topic), example));
            channels.insert(topic.clone(), json!({"address": topic, "messages": {topic: in_components(topic)}}));
            let events: Vec<_> = events.iter().map(|event| in_channel(&replies, event)).collect();
            operations.insert(
                question.name.to_string(),
                json!({
                    "action": "receive", "channel": channel(topic), "messages": [in_channel(topic, topic)],
                    "reply": {"channel": channel(&replies), "messages": events},
                }),
            );
        }
        if !replied.is_empty() {
            let about = format!("All replies; those that are wrong are set aside on {}.", dead_letter_topic(&replies));
            channels.insert(replies.clone(), json!({"address": replies, "description": about, "messages": replied}));
        }
        json!({
            "asyncapi": "3.0.0",
            "info": {"title": format!("Participants of {name}"), "version": version.to_string(), "description": ABOUT},
            "defaultContentType": "application/json",
            "channels": channels,
            "operations": operations,
            "components": {"messages": messages},
        })
    }

    /// What sagas ask, and the events that answer it.
    fn questions_and_events(&self) -> Vec<(Question<'_>, Vec<&str>)> {
        let mut all = Vec::new();
        for step in &self.steps {
            let done = step.done.iter().map(|done| done.event.as_str());
            let refused = step.refused.iter().map(|refused| refused.event.as_str());
            let progress = step.progress.iter().map(|progress| progress.event.as_str());
            let events = done.chain(refused).chain(progress).collect();
            let undone = step.undo.iter().flat_map(|undo| &undo.done).map(|done| done.event.as_str()).collect();
            // A step has its question, if it does not wait, and its undo's behind it.
            let events = if step.wait().is_some() { vec![undone] } else { vec![events, undone] };
            all.extend(step.questions().zip(events));
        }
        all
    }

    fn message(&self, carrier: Carrier<'_>, example: Option<Value>) -> Value {
        let name = carrier.name();
        let subject = &self.start.subject;
        let uuid = |about: &str| json!({"type": "string", "format": "uuid", "description": about});
        let mut properties = json!({
            "eventId": uuid("The message's own. One that is sent again keeps it."),
            "sagaId": uuid("The saga's."),
            subject: uuid("What the saga is about: participants key their rows by it."),
            "timestamp": {"type": "string", "format": "date-time"},
            "payload": self.payload_schema(carrier),
        });
        let mut required = vec!["eventId", "sagaId", subject, "timestamp", "payload"];
        let is_reply = matches!(carrier, Carrier::Reply(_));
        if is_reply {
            properties["causationId"] = uuid("The `eventId` of the command that it answers.");
            required.push("causationId");
        }
        let headers = json!({
            "type": "object",
            "required": ["ce_type"],
            "properties": {
                "ce_type": {"type": "string", "const": name},
                "ce_id": uuid("The `eventId`."),
                "traceparent": {"type": "string", "description": "W3C Trace Context, to be passed on with the reply."},
            },
        });
        let mut message = json!({
            "name": name,
            "summary": if is_reply { "A reply" } else { "A command" },
            "headers": headers,
            "payload": {"type": "object", "required": required, "properties": properties},
            "bindings": {"kafka": {"key": uuid("The `sagaId`."), "bindingVersion": "0.5.0"}},
        });
        if let Some(payload) = example {
            let body = json!({
                "eventId": EVENT, "sagaId": SAGA, subject: SUBJECT, "timestamp": TIME, "payload": payload,
            });
            message["examples"] = json!([{ "name": "one", "payload": body }]);
        }
        message
    }
}

fn in_components(message: &str) -> Value {
    json!({ "$ref": format!("#/components/messages/{message}") })
}

fn channel(topic: &str) -> Value {
    json!({ "$ref": format!("#/channels/{topic}") })
}

fn in_channel(topic: &str, message: &str) -> Value {
    json!({ "$ref": format!("#/channels/{topic}/messages/{message}") })
}
