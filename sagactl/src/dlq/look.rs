//! `list` and `show`: reading, for people and for programs.

use std::io::{IsTerminal as _, Write};

use chrono::{DateTime, SecondsFormat, Utc};
use dead_letters::{Belongs, Letter, Marker, Topics};
use messages::dead_letter_topic;
use messages::text::is_hidden;
use serde_json::{Value, json};
use service_runtime::Fatal;

use super::mailbox::Mailbox;

/// An error is cut to so many characters in the table; `show` has all of it.
const SHORT: usize = 60;

/// Prints a line for each letter: a table, or JSON lines. Answers how many.
///
/// # Errors
/// When Kafka can't be read, or nobody takes the output any more.
pub async fn list(mailbox: &Mailbox, topics: &Topics, as_json: bool, out: &mut dyn Write) -> Result<u64, Fatal> {
    let mut count = 0;
    if !as_json {
        let columns = ["TOPIC", "LETTER", "ORIGIN", "SET ASIDE", "SAGA", "REDRIVEN", "ERROR"];
        print(out, &row(&columns.map(str::to_owned)))?;
    }
    mailbox
        .read(topics, async |letter, marker| {
            count += 1;
            let line = if as_json { summary(&letter, marker).to_string() } else { row(&cells(&letter, marker)) };
            print(out, &line)
        })
        .await?;
    Ok(count)
}

/// Prints letters in full, the body as it is. Answers how many.
///
/// # Errors
/// When Kafka can't be read, or nobody takes the output any more.
pub async fn show(mailbox: &Mailbox, topics: &Topics, as_json: bool, out: &mut dyn Write) -> Result<u64, Fatal> {
    // A body may hold what a terminal takes for an order.
    let plain = std::io::stdout().is_terminal();
    let mut count = 0;
    mailbox
        .read(topics, async |letter, marker| {
            count += 1;
            if as_json {
                return print(out, &whole(&letter, marker).to_string());
            }
            let [topic, place, origin, at, saga, redriven, _] = cells(&letter, marker);
            let dlq = dead_letter_topic(&topic);
            print(out, &format!("--- {dlq} {place}, from {topic} {origin}, {at}, saga {saga}"))?;
            if let Some(Marker { by, reason, .. }) = marker {
                print(out, &harmless(&format!("redriven {redriven} by {by}: {reason}")))?;
            }
            print(out, &format!("key: {}", text(letter.record.key.as_deref().unwrap_or_default())))?;
            for (name, value) in &letter.record.headers {
                print(out, &format!("{}: {}", text(name), text(value)))?;
            }
            let body = &letter.record.body;
            let body = if plain { text(body).into_bytes() } else { body.clone() };
            let shown = [b"\n", &body[..], b"\n\n"].into_iter().try_for_each(|part| out.write_all(part));
            shown.map_err(|error| not_printed(&error))
        })
        .await?;
    Ok(count)
}

fn print(out: &mut dyn Write, line: &str) -> Result<(), Fatal> {
    writeln!(out, "{line}").map_err(|error| not_printed(&error))
}

fn not_printed(error: &std::io::Error) -> Fatal {
    Fatal::new(format!("the output can't be written: {error}"))
}

fn row([topic, letter, origin, at, saga, redriven, error]: &[String; 7]) -> String {
    format!("{topic:<25} {letter:<10} {origin:<10} {at:<20} {saga:<36} {redriven:<20} {error}")
}

fn cells(letter: &Letter, marker: Option<&Marker>) -> [String; 7] {
    let saga = match letter.belongs() {
        Belongs::To(saga_id) => saga_id.to_string(),
        Belongs::Unknown => "-".to_owned(),
        Belongs::Contradictory => "body and key differ".to_owned(),
    };
    let dash = || "-".to_owned();
    [
        letter.topic.clone(),
        letter.place.to_string(),
        letter.origin().map_or_else(dash, |origin| origin.to_string()),
        letter.at().map_or_else(dash, seconds),
        saga,
        marker.map_or_else(dash, |marker| harmless(&marker.at)),
        short(letter.error()),
    ]
}

fn seconds(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn short(error: &str) -> String {
    let cut: String = error.chars().take(SHORT).collect();
    if cut.len() < error.len() { harmless(&cut) + "…" } else { harmless(&cut) }
}

/// Without control characters: neither a line's end nor what a terminal takes for an order.
fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// A value as text for people, in one line.
pub(super) fn text(bytes: &[u8]) -> String {
    harmless(&String::from_utf8_lossy(bytes))
}

/// A letter as an object: what `list` tells.
fn summary(letter: &Letter, marker: Option<&Marker>) -> Value {
    let saga_id = match letter.belongs() {
        Belongs::To(saga_id) => Some(saga_id),
        Belongs::Unknown | Belongs::Contradictory => None,
    };
    json!({
        "topic": letter.topic,
        "letter": letter.place.to_string(),
        "origin": letter.origin().map(|origin| origin.to_string()),
        "set_aside_at": letter.at().map(seconds),
        "saga_id": saga_id,
        "error": letter.error(),
        "redriven": marker.map(|Marker { by, reason, at, .. }| json!({"by": by, "reason": reason, "at": at})),
    })
}

/// A letter as an object: all of it. What is not UTF-8 is given in hexadecimal digits, as `body_hex`.
fn whole(letter: &Letter, marker: Option<&Marker>) -> Value {
    let record = &letter.record;
    let headers = record
        .headers
        .iter()
        .map(|(name, value)| json!([String::from_utf8_lossy(name), String::from_utf8_lossy(value)]));
    let mut all = summary(letter, marker);
    all["key"] = json!(record.key.as_deref().map(String::from_utf8_lossy));
    all["headers"] = headers.collect();
    match std::str::from_utf8(&record.body) {
        Ok(body) => all["body"] = json!(body),
        Err(_) => all["body_hex"] = json!(record.body.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
    all
}

#[cfg(test)]
mod tests {
    use service_runtime::kafka::Record;

    use super::*;

    fn letter(body: &[u8], error: &str) -> Letter {
        let headers = [
            ("dlq_topic", "payment.charge.command"),
            ("dlq_partition", "1"),
            ("dlq_offset", "42"),
            ("dlq_error", error),
        ];
        let record = Record {
            topic: "payment.charge.command.dlq".to_owned(),
            partition: 0,
            offset: 3,
            key: Some(b"01a1fcfc-71e1-7774-8bfb-889f9eb14880".to_vec()),
            body: body.to_vec(),
            headers: headers.map(|(name, value)| (name.into(), value.as_bytes().to_vec())).into(),
            timestamp_ms: Some(1_700_000_000_000),
        };
        Letter::of("payment.charge.command", record).unwrap()
    }

    #[test]
    fn a_letter_is_one_line_whatever_its_error_holds() {
        let letter = letter(b"{}", &format!("a\nb\x1b[2J\u{202e}{}", "x".repeat(90)));
        let line = row(&cells(&letter, None));
        assert!(!line.contains(is_hidden), "{line:?}");
        assert!(
            line.starts_with("payment.charge.command    0:3        1:42       2023-11-14T22:13:20Z 01a1fcfc"),
            "{line}"
        );
        assert!(line.ends_with("x…"), "{line}");
    }

    #[test]
    fn a_body_that_is_no_text_is_told_byte_by_byte() {
        let letter = letter(&[0xff, 0x00, 0x7b], "the database refused: no");
        assert_eq!(whole(&letter, None)["body_hex"], "ff007b");
        assert_eq!(whole(&letter, None)["error"], "the database refused: no");
    }
}
