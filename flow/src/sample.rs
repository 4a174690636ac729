//! Sample values: a request that the flow takes, and the payloads of its commands.

use std::fmt;

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::{Map, Value as Json, json};

use crate::flow::Flow;
use crate::payload::Payload;
use crate::read::Reading;
use crate::shape::{Shape, ShapeKind};
use crate::slot::{Slot, Source};
use crate::start::Request;
use crate::value::{Record, write_string};

/// Values that fit the flow's input; and others that fit it as well, to contradict them.
#[derive(Debug)]
pub struct Samples<'a> {
    flow: &'a Flow,
    pub usual: Request,
    pub other: Request,
}

/// No value could be made that fits.
#[derive(Debug)]
pub struct NoSample(String);

impl std::error::Error for NoSample {}

impl fmt::Display for NoSample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no sample of the flow's values: {}", self.0)
    }
}

impl<'a> Samples<'a> {
    /// The values of `input` (a request's JSON) if it is given; else those of the first test in the flow file whose input
    /// fits; else values that are made from the shapes.
    ///
    /// # Errors
    /// When the given request does not fit the flow, or none can be made.
    pub fn of(flow: &'a Flow, input: Option<&str>) -> Result<Self, NoSample> {
        let started = |json: &str| flow.read_start(json).map_err(|misfit| NoSample(misfit.to_string()));
        let usual = match input {
            Some(json) => started(json)?,
            None => started(&example(flow)?)?,
        };
        Ok(Self { flow, usual, other: started(&request(flow, 1)?)? })
    }

    /// A command's payload. `kept`: a step, and what was read of its reply.
    pub fn payload(&self, send: &Payload, started: &Request, subject: &str, kept: Option<(&str, &Record)>) -> String {
        let mut out = Vec::new();
        send.fill(&mut out, &mut |slot, out| self.write(slot, started, subject, kept, out));
        // Only texts were written.
        String::from_utf8(out).unwrap_or_default()
    }

    fn write(
        &self,
        slot: &Slot,
        started: &Request,
        subject: &str,
        kept: Option<(&str, &Record)>,
        out: &mut Vec<u8>,
    ) -> bool {
        match &slot.source {
            Source::Input(field) => return started.input.get(field).map(|value| value.write(out)).is_some(),
            Source::Subject => write_string(subject, out),
            Source::Owner => write_string(started.owner.as_str(), out),
            Source::Money => return started.money.is_some_and(|money| serde_json::to_writer(out, &money).is_ok()),
            Source::Cause => write_string(self.flow.causes.first().map_or("TIMED_OUT", |cause| cause.as_str()), out),
            Source::Reply(_) => return false,
            Source::Kept { step, field } => {
                let known = kept.filter(|(of, _)| of == step).and_then(|(_, record)| record.get(field));
                if let Some(value) = known {
                    value.write(out);
                } else if slot.is_optional {
                    return false;
                } else {
                    return self.earlier(step, field).is_some_and(|json| serde_json::to_writer(out, &json).is_ok());
                }
            }
        }
        true
    }

    /// What an earlier step would have kept.
    fn earlier(&self, step: &str, field: &str) -> Option<Json> {
        let step = self.flow.steps.iter().find(|known| known.name == *step)?;
        let (_, shape) = step.fields().find(|(name, _)| name == field)?;
        sample(shape, 0).ok()
    }
}

/// A request that the flow takes: the input of the first test in its file that fits, else one that is made from the shapes.
///
/// # Errors
/// When none can be made.
pub fn example(flow: &Flow) -> Result<String, NoSample> {
    let of_a_test = flow.tests.iter().find_map(|test| {
        let mut json = Vec::new();
        test.input.fill(&mut json, &mut |_, _| false);
        String::from_utf8(json).ok().filter(|json| flow.read_start(json).is_ok())
    });
    of_a_test.map_or_else(|| request(flow, 0), Ok)
}

/// A request with all fields that a flow needs.
fn request(flow: &Flow, seed: u32) -> Result<String, NoSample> {
    record(&flow.start.input, seed).map(|json| json.to_string())
}

/// The fields that have to be there. Those with a default, or that may be missing, are left out.
fn record(fields: &[(String, Shape)], seed: u32) -> Result<Json, NoSample> {
    let needed = fields.iter().filter(|(_, shape)| !shape.is_optional && shape.default.is_none());
    let fields = needed.zip(seed..).map(|((name, shape), seed)| {
        let value = sample(shape, seed).map_err(|NoSample(why)| NoSample(format!("`{name}`: {why}")))?;
        Ok((name.clone(), value))
    });
    fields.collect::<Result<Map<_, _>, _>>().map(Json::Object)
}

/// A value that fits a shape. Other seeds mostly give others.
///
/// # Errors
/// When none could be made.
pub fn sample(shape: &Shape, seed: u32) -> Result<Json, NoSample> {
    let text = |text: String| Json::from(text.chars().take(shape.max.unwrap_or(usize::MAX)).collect::<String>());
    let value = match shape.kind {
        ShapeKind::Text => match &shape.pattern {
            Some(pattern) => {
                let hir = regex_syntax::parse(pattern.as_str()).map_err(|error| NoSample(error.to_string()))?;
                let mut matching = String::new();
                write_match(&hir, seed, &mut matching);
                Json::from(matching)
            }
            None => text(format!("sample-{seed}")),
        },
        ShapeKind::UserId => text(format!("sample-{seed}")),
        ShapeKind::Email => text(format!("sample-{seed}@example.com")),
        ShapeKind::Sku => text(format!("SKU-{seed}")),
        ShapeKind::Count => Json::from(shape.most.map_or(1, |most| most.min(1 + u64::from(seed)))),
        ShapeKind::Amount => Json::from(100 + seed),
        ShapeKind::Currency => Json::from("EUR"),
        ShapeKind::Money => json!({ "amount": 100 + seed, "currency": "EUR" }),
        ShapeKind::Boolean => Json::from(false),
        ShapeKind::Date => Json::from(format!("2030-01-{:02}", 1 + seed % 28)),
        ShapeKind::Json => json!({}),
        ShapeKind::Record => record(&shape.of, seed)?,
        ShapeKind::List => json!([record(&shape.of, seed)?]),
        ShapeKind::Address => json!({ "line1": format!("{seed} High Street"), "city": "Berlin", "country": "DE" }),
    };
    match shape.read(&value.to_string(), Reading::Request) {
        Ok(_) => Ok(value),
        Err(misfit) => Err(NoSample(format!("{value} is no {}: {misfit}", shape.kind.name()))),
    }
}

/// Writes a text that matches.
fn write_match(hir: &Hir, seed: u32, out: &mut String) {
    match hir.kind() {
        HirKind::Empty | HirKind::Look(_) => {}
        HirKind::Literal(literal) => out.push_str(&String::from_utf8_lossy(&literal.0)),
        HirKind::Class(Class::Unicode(class)) => {
            let chars: Vec<char> =
                class.ranges().iter().flat_map(|range| range.start()..=range.end()).take(64).collect();
            out.extend(chars.get(seed as usize % chars.len().max(1)));
        }
        HirKind::Class(Class::Bytes(class)) => {
            out.extend(class.ranges().first().map(|range| char::from(range.start())))
        }
        HirKind::Repetition(repetition) => {
            // An `x*` or `x?` is left out; of `x{2,5}` there are two.
            (0..repetition.min).for_each(|_| write_match(&repetition.sub, seed, out));
        }
        HirKind::Capture(capture) => write_match(&capture.sub, seed, out),
        HirKind::Concat(parts) => parts.iter().for_each(|part| write_match(part, seed, out)),
        HirKind::Alternation(ways) => ways.iter().take(1).for_each(|way| write_match(way, seed, out)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Action;
    use crate::{Origin, check};

    const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

    fn send(flow: &Flow, step: usize) -> &Payload {
        match &flow.steps[step].action {
            Action::Ask(ask) => &ask.send,
            Action::Wait(_) => panic!("a wait"),
        }
    }

    #[test]
    fn the_input_of_a_test_in_the_file_is_used_before_one_is_made() {
        let flow = check(TRIP, Origin::User).unwrap();
        let samples = Samples::of(&flow, None).unwrap();

        let usual = samples.payload(send(&flow, 0), &samples.usual, "x", None);
        let other = samples.payload(send(&flow, 0), &samples.other, "x", None);

        assert_eq!(usual, r#"{"guest":"ann","city":"LIS","arrive":"2027-05-01","leave":"2027-05-08"}"#);
        assert_eq!(other, r#"{"guest":"sample-1","city":"EEE","arrive":"2030-01-06","leave":"2030-01-07"}"#);
    }

    #[test]
    fn a_request_is_made_from_the_shapes() {
        let text = TRIP.split("tests:").next().unwrap();
        let flow = check(text, Origin::User).unwrap();

        let samples = Samples::of(&flow, None).unwrap();

        let money = samples.payload(send(&flow, 2), &samples.usual, "x", None);
        assert!(money.ends_with(r#""most":{"amount":101,"currency":"EUR"}}"#), "{money}");
        assert!(Samples::of(&flow, Some("{}")).is_err_and(|none| none.to_string().contains("`traveller`")));
    }

    #[test]
    fn a_text_is_made_that_matches_its_pattern() {
        for pattern in ["[A-Z]{3}", "a(b|c)+d?", r"\d{4}-\d{2}", "(?:HOTEL|CAR)-[0-9A-F]{8}"] {
            let yaml = TRIP.replacen(
                r#"from:      { type: text, pattern: "[A-Z]{3}" }"#,
                &format!("from: {{ type: text, pattern: '{pattern}' }}"),
                1,
            );
            let flow = check(yaml.split("tests:").next().unwrap(), Origin::User).unwrap();
            assert!(Samples::of(&flow, None).is_ok(), "{pattern}");
        }
    }
}
