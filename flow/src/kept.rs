//! What a saga keeps of replies: later steps, the undo and the answer refer to it.

use serde_json::value::RawValue;

use crate::read::{Members, Misfit};
use crate::value::{Record, Value};

/// The kept fields of each step's reply, in the order in which they were kept. Their values are JSON, as it was first
/// written: a command that is repeated has the same bytes.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Kept(Vec<(String, Record)>);

impl Kept {
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how many bytes it takes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(step, record)| step.len() + record.size()).sum()
    }

    /// A field of what was kept of a step's reply.
    pub fn get(&self, step: &str, field: &str) -> Option<&Value> {
        let (_, record) = self.0.iter().find(|(name, _)| name == step)?;
        record.get(field)
    }

    /// The same, and these fields of a step's reply. What the reply does not have is not kept; what was kept of an
    /// earlier reply of the step stays, unless this one has it too.
    #[must_use]
    pub fn with(&self, step: &str, fields: &[String], reply: &Record) -> Self {
        let mut kept = self.clone();
        for field in fields {
            let Some(value) = reply.get(field) else { continue };
            let mut json = Vec::new();
            value.write(&mut json);
            // What a value writes is JSON.
            let Ok(json) = serde_json::from_slice::<Box<RawValue>>(&json) else { continue };
            let place = kept.0.iter().position(|(name, _)| name == step).unwrap_or_else(|| {
                kept.0.push((step.to_owned(), Record::default()));
                kept.0.len() - 1
            });
            let Record(record) = &mut kept.0[place].1;
            record.retain(|(name, _)| name != field);
            record.push((field.clone().into(), Value::Json(json)));
        }
        kept
    }

    /// The JSON object as a text: what is stored. An object of fields for each step.
    pub fn to_json(&self) -> String {
        let steps = self.0.iter().map(|(step, record)| (step.clone().into(), Value::Record(record.clone())));
        Record(steps.collect()).to_json()
    }

    /// Reads what is stored.
    ///
    /// # Errors
    /// When it is not an object of objects.
    pub fn parse(json: &str) -> Result<Self, Misfit> {
        let wrong = |error: serde_json::Error| Misfit { field: String::new(), why: error.to_string() };
        let Members(steps) = serde_json::from_str(json).map_err(wrong)?;
        let read = |json: &RawValue| {
            let Members(fields) = serde_json::from_str(json.get()).map_err(wrong)?;
            let field = |(name, json): (std::borrow::Cow<'_, str>, &RawValue)| {
                (name.into_owned().into(), Value::Json(json.to_owned()))
            };
            Ok(Record(fields.into_iter().map(field).collect()))
        };
        let steps = steps.into_iter().map(|(step, json)| Ok((step.into_owned(), read(json)?)));
        Ok(Self(steps.collect::<Result<_, Misfit>>()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[(&'static str, &str)]) -> Record {
        Record(fields.iter().map(|(name, text)| ((*name).into(), Value::Text((*text).to_owned()))).collect())
    }

    #[test]
    fn what_is_kept_is_what_is_read_back() {
        let fields = ["ref".to_owned(), "note".to_owned()];
        let kept = Kept::default().with("HOTEL_BOOK", &fields, &reply(&[("price", "9"), ("ref", "H-\"1\"")]));
        let kept = kept.with("CAR_RENT", &fields, &reply(&[("note", "blue"), ("ref", "C1")]));

        assert_eq!(kept.to_json(), r#"{"HOTEL_BOOK":{"ref":"H-\"1\""},"CAR_RENT":{"ref":"C1","note":"blue"}}"#);
        assert_eq!(Kept::parse(&kept.to_json()).unwrap(), kept);
        assert!(kept.get("HOTEL_BOOK", "price").is_none(), "the flow does not keep it");
        let Some(Value::Json(json)) = kept.get("CAR_RENT", "note") else { panic!("it was kept") };
        assert_eq!(json.get(), r#""blue""#);
    }

    #[test]
    fn a_later_reply_of_a_step_replaces_only_what_it_has() {
        let fields = ["ref".to_owned(), "note".to_owned()];
        let kept = Kept::default().with("HOTEL_BOOK", &fields, &reply(&[("ref", "H1"), ("note", "a")]));
        let kept = kept.with("HOTEL_BOOK", &fields, &reply(&[("note", "b")]));
        assert_eq!(kept.to_json(), r#"{"HOTEL_BOOK":{"ref":"H1","note":"b"}}"#);
    }

    #[test]
    fn nothing_kept_takes_no_place() {
        let kept = Kept::default().with("HOTEL_BOOK", &["ref".to_owned()], &Record::default());
        assert!(kept.is_empty());
        assert!(Kept::parse(r#"{"HOTEL_BOOK":[]}"#).is_err() && Kept::parse("[]").is_err());
    }
}
