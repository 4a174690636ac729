//! The JSON Schemas of a flow's values, for those who write its clients and participants.

use flow::Flow;
use serde_json::{Value, json};
use service_runtime::Fatal;

/// Which JSON Schema this is.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Of the request that starts a saga.
pub fn of_request(flow: &Flow) -> Value {
    titled(flow, "a request", json!(flow.request_schema()))
}

/// Of the payload of what travels on a topic, or has this name: a command, a reply, a signal.
///
/// # Errors
/// When the flow has none of that name.
pub fn of_payload(flow: &Flow, topic: &str) -> Result<Value, Fatal> {
    let carriers = flow.carriers();
    let mut replies = carriers.iter().filter(|carrier| flow.is_own_reply(**carrier)).peekable();
    if topic == flow.reply_topic() && replies.peek().is_some() {
        let replies = replies.map(|reply| {
            let mut schema = json!(flow.payload_schema(*reply));
            schema["title"] = json!(reply.name());
            schema
        });
        return Ok(titled(flow, topic, json!({ "anyOf": replies.collect::<Vec<_>>() })));
    }
    let carrier = carriers.iter().find(|carrier| carrier.name() == topic).ok_or_else(|| {
        let known: Vec<&str> = carriers.iter().map(|carrier| carrier.name()).collect();
        let Flow { name, version, .. } = flow;
        Fatal::new(format!("{name} v{version} has no topic, event or signal {topic:?}: it has {}", known.join(", ")))
    })?;
    Ok(titled(flow, topic, json!(flow.payload_schema(*carrier))))
}

fn titled(Flow { name, version, .. }: &Flow, what: &str, schema: Value) -> Value {
    let mut titled = json!({ "$schema": DIALECT, "title": format!("{name} v{version}: {what}") });
    if let (Value::Object(titled), Value::Object(schema)) = (&mut titled, schema) {
        titled.extend(schema);
    }
    titled
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;

    #[test]
    fn a_command_a_reply_a_signal_and_all_replies_have_schemas() {
        let club = check(include_str!("../../../flow/tests/flows/club.v1.yaml"), Origin::User).unwrap();
        let of = |topic: &str| of_payload(&club, topic).unwrap();

        assert_eq!(of("club.locker.hold.command")["required"], json!(["number"]));
        assert_eq!(of("club.fee.charged")["required"], json!(["receipt", "money"]));
        assert_eq!(of("club.approved")["properties"]["approver"]["maxLength"], 80);
        let replies = of("club.replies");
        assert_eq!(replies["title"], "club v1: club.replies");
        let events: Vec<_> = replies["anyOf"].as_array().unwrap().iter().map(|reply| &reply["title"]).collect();
        assert_eq!(events.len(), 13);
        assert!(events.contains(&&json!("club.fee.pending")) && !events.contains(&&json!("club.approved")));
        let error = of_payload(&club, "club.sign").unwrap_err().to_string();
        assert!(
            error.starts_with("club v1 has no topic, event or signal \"club.sign\": it has club.sign-up.command, ")
        );
    }

    #[test]
    fn replies_of_the_platform_are_not_on_a_flows_own_topic() {
        let shop = check(include_str!("../../../flow/tests/flows/shop.v1.yaml"), Origin::User).unwrap();
        let replies = of_payload(&shop, "shop.replies").unwrap();
        let events: Vec<_> = replies["anyOf"].as_array().unwrap().iter().map(|reply| &reply["title"]).collect();
        assert_eq!(events, ["shop.wrapped", "shop.no-paper"]);
        assert_eq!(of_payload(&shop, "payment.charged").unwrap()["required"], json!(["money"]));
        let booking = check(include_str!("../../../examples/booking/booking.v1.yaml"), Origin::User).unwrap();
        assert!(of_payload(&booking, "booking.replies").is_err(), "it has no participants of its own");
    }

    #[test]
    fn a_request_has_one_with_its_dialect() {
        let trip = check(include_str!("../../../examples/trip/trip.v1.yaml"), Origin::User).unwrap();
        let schema = of_request(&trip);
        assert_eq!((&schema["$schema"], &schema["title"]), (&json!(DIALECT), &json!("trip v1: a request")));
        assert_eq!(schema["properties"]["from"]["pattern"], "^[A-Z]{3}$");
    }
}
