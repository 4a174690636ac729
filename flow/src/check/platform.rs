//! What a user's flow asks of the platform's own participants: they take the commands of [`messages`] only, and their
//! replies hold what stands there.

use std::cell::LazyCell;

use messages::object::Object;
use messages::{
    ChargePayment, CommitInventory, InventoryCommitted, InventoryFailed, InventoryKept, InventoryReleased,
    InventoryReserved, KeepInventory, Message, Money, PaymentCharged, PaymentFailed, PaymentRefunded, RefundPayment,
    ReleaseInventory, ReserveInventory,
};

use super::names::{OUR_PARTICIPANTS, first_word};
use crate::file::{Ask, At, FlowFile, Reply, Undo};
use crate::finding::Findings;
use crate::flow::Flow;
use crate::read::{Reading, read};
use crate::rule::Rule;
use crate::sample::Samples;

/// The field that the platform's participants know a saga's order by.
const SUBJECT: &str = "orderId";

/// A command of the platform.
struct Command {
    topic: &'static str,
    /// What it takes, for people.
    takes: &'static str,
    decode: fn(&str) -> Result<(), serde_json::Error>,
    /// The events that answer it, each with a payload such as it has.
    events: Vec<(&'static str, String)>,
}

/// All of them.
fn commands() -> [Command; 6] {
    // One euro; it keeps the rules of money.
    let money: Money = serde_json::from_str(r#"{"amount":1,"currency":"EUR"}"#).expect("a euro is money");
    let reason = || "sample".to_owned();
    let failed = || event(&InventoryFailed { reason: reason(), short: Vec::new() });
    [
        command::<ChargePayment>(
            "`userId`, `money` and perhaps `forceFail`, which is true or false",
            vec![event(&PaymentCharged { money }), event(&PaymentFailed { reason: reason() })],
        ),
        command::<RefundPayment>(
            "`money` and `reason`, a text",
            vec![event(&PaymentRefunded { money, money_returned: true })],
        ),
        command::<ReserveInventory>(
            "perhaps `items`, a list of `sku` and `qty`, perhaps `holdFor`, such as `20m`, and perhaps `forceFail`, which is \
             true or false",
            vec![event(&InventoryReserved { expires_at: None }), failed()],
        ),
        command::<ReleaseInventory>("`reason`, a text", vec![event(&InventoryReleased {})]),
        command::<CommitInventory>("nothing", vec![event(&InventoryCommitted {}), failed()]),
        command::<KeepInventory>("nothing", vec![event(&InventoryKept {}), failed()]),
    ]
}

fn command<T: Message>(takes: &'static str, events: Vec<(&'static str, String)>) -> Command {
    let decode = |payload: &str| serde_json::from_str::<Object<T>>(payload).map(drop);
    Command { topic: T::TOPIC.name(), takes, decode, events }
}

fn event<T: Message>(sample: &T) -> (&'static str, String) {
    (T::TOPIC.name(), serde_json::to_string(sample).unwrap_or_default())
}

pub fn check(file: &FlowFile, flow: &Flow, findings: &mut Findings) {
    let commands = commands();
    // Most flows ask nobody of the platform.
    let samples = LazyCell::new(|| Samples::of(flow, None).ok());
    let mut asks_platform = false;
    for (place, step) in file.steps.iter().enumerate() {
        let undo = if let Undo::By(undo) = &step.undo { Some(&**undo) } else { None };
        let refused: Vec<&At<String>> = step.refused.iter().map(|(event, _)| event).collect();
        let forward = step.ask.iter().map(|ask| (ask, &step.done, refused.as_slice()));
        let back = undo.iter().map(|undo| (&undo.ask, &undo.done, &[][..]));
        for (ask, done, refused) in forward.chain(back) {
            let Some(topic) = ask.topic.as_ref().filter(|topic| OUR_PARTICIPANTS.contains(&first_word(topic))) else {
                continue;
            };
            asks_platform = true;
            if topic.as_str() == CommitInventory::TOPIC.name() && place < flow.pivot {
                let message = format!(
                    "goods that have left the house can't be released, should a later step turn the saga back: commit at the pivot, which is `{}`, or behind it. `{}` may stand before it",
                    flow.steps[flow.pivot].name,
                    KeepInventory::TOPIC.name()
                );
                findings.report(topic.at, Rule::Platform, message);
            }
            match commands.iter().find(|command| command.topic == topic.as_str()) {
                Some(command) => {
                    command.takes(ask, topic, samples.as_ref(), findings);
                    done.iter().for_each(|(event, reply)| command.answers(event, reply, findings));
                    refused.iter().for_each(|event| command.answers(event, &Reply::default(), findings));
                }
                None => {
                    let known: Vec<String> = commands.iter().map(|command| format!("`{}`", command.topic)).collect();
                    let message = format!(
                        "no participant of the platform takes `{}`. They take {}",
                        topic.value,
                        known.join(", ")
                    );
                    findings.report(topic.at, Rule::Platform, message);
                }
            }
        }
    }
    let subject = &file.start.subject;
    if asks_platform && subject.value != SUBJECT {
        let message = format!("the platform's participants know a saga by its `{SUBJECT}`: write `subject: {SUBJECT}`");
        findings.report(subject.at, Rule::Platform, message);
    }
}

impl Command {
    /// Whether it takes what is sent, by requests that fit the flow's input: with all fields, and with those only that
    /// have to be there.
    fn takes(&self, ask: &Ask, topic: &At<String>, samples: Option<&Samples<'_>>, findings: &mut Findings) {
        let Some(samples) = samples else { return };
        let mut payloads = [&samples.usual, &samples.other]
            .map(|request| samples.payload(&ask.send, request, "00000000-0000-7000-8000-000000000000", None))
            .into_iter();
        if let Some(wrong) = payloads.find_map(|payload| (self.decode)(&payload).err()) {
            // Where it stands in the sample helps nobody.
            let why = wrong.to_string();
            let why = why.split(" at line ").next().unwrap_or_default();
            let message = format!("`{}` does not take what `send` has: {why}. It takes {}", self.topic, self.takes);
            findings.report(topic.at, Rule::Platform, message);
        }
    }

    /// Whether it is answered by this event, and the event has what is read of it.
    fn answers(&self, event: &At<String>, reply: &Reply, findings: &mut Findings) {
        let Some((_, sample)) = self.events.iter().find(|(name, _)| *name == event.as_str()) else {
            let known: Vec<String> = self.events.iter().map(|(name, _)| format!("`{name}`")).collect();
            let message = format!("`{}` does not answer `{}`: {} does", event.value, self.topic, known.join(" or "));
            return findings.report(event.at, Rule::Platform, message);
        };
        for (name, shape) in &reply.fields {
            let fields = [(name.value.clone(), shape.value.clone())];
            if let Err(misfit) = read(&fields, sample, Reading::Reply) {
                let message = format!("a reply `{}` is such as {sample}: {misfit}", event.value);
                findings.report(name.at, Rule::Platform, message);
            }
        }
    }
}
