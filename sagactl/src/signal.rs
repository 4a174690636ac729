//! `signal`: reports something that happened outside. A saga that waits for it takes it; else it is stored for one that
//! begins to wait within seven days.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};
use service_runtime::{Fatal, percent_encoded};

use crate::api::Api;
use crate::paint::harmless;
use crate::sagas::print;

/// A signal to be sent.
#[derive(Debug, Args)]
pub struct SignalRequest {
    /// The kind of signal, as flow files name it: carrier.scanned
    pub kind: String,
    /// What it names. The saga that waits for this kind and this text takes it
    #[arg(long = "match", value_name = "TEXT")]
    pub matched: String,
    /// An id of your own: sent again with it, it is the same signal
    #[arg(long)]
    pub id: Option<String>,
    /// A JSON object, of which flows keep what they name: '{"depot":"LIS"}'
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub payload: Option<Value>,
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(fields)) => Ok(Value::Object(fields)),
        Ok(_) => Err("must be a JSON object".to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}

/// Sends a signal, and prints which saga has taken it. Whether it is stored: another signal that has its id, and a payload
/// that no flow can read, are printed.
///
/// # Errors
/// When no flow waits for signals of this kind, or the orchestrator can't be reached or fails.
pub async fn send(api: &Api, signal: &SignalRequest, as_json: bool, out: &mut dyn Write) -> Result<bool, Fatal> {
    let told = api.post(&format!("/signals/{}", percent_encoded(&signal.kind)), &body(signal), &[]).await?;
    match told.status.as_u16() {
        200 | 201 if as_json => print(out, &told.body.to_string())?,
        200 | 201 => print(out, &outcome(&told.body, told.status.as_u16() == 201))?,
        409 | 422 => {
            eprintln!("sagactl: {}", told.refusal());
            return Ok(false);
        }
        _ => return Err(told.refusal()),
    }
    Ok(true)
}

fn body(signal: &SignalRequest) -> Value {
    let mut body = json!({"match": signal.matched});
    if let Some(id) = &signal.id {
        body["id"] = json!(id);
    }
    if let Some(payload) = &signal.payload {
        body["payload"] = payload.clone();
    }
    body
}

/// `carrier.scanned 1Z999: taken by saga 01a1…, at HANDED_OVER`
fn outcome(signal: &Value, is_new: bool) -> String {
    let text = |field: &str| harmless(signal[field].as_str().unwrap_or_default());
    let before = if is_new { "" } else { "sent before, " };
    let became = match signal["sagaId"].as_str() {
        Some(_) => format!("taken by saga {}, at {}", text("sagaId"), text("step")),
        None => "stored; no saga waits for it yet".to_owned(),
    };
    format!("{} {}: {before}{became}\nsignal {}", text("kind"), text("match"), text("id"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        signal: SignalRequest,
    }

    fn parsed(arguments: &[&str]) -> Result<SignalRequest, clap::Error> {
        Line::try_parse_from([&["signal"][..], arguments].concat()).map(|line| line.signal)
    }

    #[test]
    fn what_is_sent_is_what_was_given_and_nothing_else() {
        let bare = parsed(&["carrier.scanned", "--match", "1Z999"]).unwrap();
        assert_eq!(body(&bare), json!({"match": "1Z999"}));

        let weight = r#"{"weight":1.50}"#;
        let whole = parsed(&["carrier.scanned", "--match", "1Z999", "--id", "scan-1", "--payload", weight]).unwrap();
        assert_eq!(body(&whole)["id"], "scan-1");
        assert_eq!(body(&whole)["payload"].to_string(), weight, "numbers keep their digits");
    }

    #[test]
    fn a_payload_that_is_no_object_is_refused_before_it_is_sent() {
        for (payload, why) in [("[1]", "must be a JSON object"), ("{", "is not JSON")] {
            let refused = parsed(&["carrier.scanned", "--match", "1Z999", "--payload", payload]).err().unwrap();
            assert!(refused.to_string().contains(why), "{refused}");
        }
        assert!(parsed(&["carrier.scanned"]).is_err(), "a signal that names nothing finds no saga");
    }

    #[test]
    fn the_saga_that_has_taken_a_signal_is_named_with_its_step() {
        let mut signal = json!({"kind": "carrier.scanned", "id": "scan-1", "match": "1Z\u{1b}999", "payload": {}});
        assert_eq!(
            outcome(&signal, true),
            "carrier.scanned 1Z\u{fffd}999: stored; no saga waits for it yet\nsignal scan-1"
        );
        signal["sagaId"] = json!("01a1fcfc-71e1-7774-8bfb-889f9eb14880");
        signal["step"] = json!("HANDED_OVER");
        assert_eq!(
            outcome(&signal, false),
            "carrier.scanned 1Z\u{fffd}999: sent before, taken by saga 01a1fcfc-71e1-7774-8bfb-889f9eb14880, at HANDED_OVER\n\
             signal scan-1"
        );
    }
}
