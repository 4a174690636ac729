//! Shapes, and the request that is read by them.

use messages::schema::{Amount, CurrencyInUse, NewUserId, email, one_of, prose, skus, user_id};
use messages::{AmountText, Currency, UserId};
use serde_json::Value as Json;
use utoipa::PartialSchema;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, AllOfBuilder, ArrayBuilder, KnownFormat, ObjectBuilder, OneOfBuilder, Schema, SchemaFormat,
    SchemaType, Type,
};

use super::pattern::Ecma;
use crate::flow::Flow;
use crate::read::{MAX_COUNT, MAX_EMAIL, MAX_JSON, MAX_TEXT, address};
use crate::shape::{Shape, ShapeKind};
use crate::slot::Source;

pub type Described = RefOr<Schema>;

/// Whose value is described: each is read, or written, by other rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A client's request: no field is unknown, and nothing is taken that only earlier releases took.
    Client,
    /// A participant's reply, or a signal.
    Participant,
    /// What the saga has read and sends on.
    Saga,
}

impl Flow {
    /// What the request that starts a saga has to be.
    pub fn request_schema(&self) -> Schema {
        let owner = |field: &str| matches!(&self.start.owner.source, Source::Input(owner) if owner == field);
        object(&self.start.input, By::Client, |field, shape| match owner(field) {
            true => owner_schema(shape),
            false => shape.schema(By::Client),
        })
        .into()
    }
}

/// An object of these fields. Those that may be missing may be null as well.
fn object(fields: &[(String, Shape)], by: By, schema: impl Fn(&str, &Shape) -> Described) -> ObjectBuilder {
    let mut object = ObjectBuilder::new();
    for (field, shape) in fields {
        let schema = schema(field, shape);
        object = match by {
            By::Client | By::Participant if shape.is_optional || shape.default.is_some() => {
                object.property(field, or_null(schema).default(shape.default.clone()))
            }
            // Where a default was missing, the saga has put it in.
            By::Saga if shape.may_be_missing() => object.property(field, schema),
            _ => object.property(field, schema).required(field),
        };
    }
    if by == By::Client { object.additional_properties(Some(AdditionalProperties::FreeForm(false))) } else { object }
}

pub fn or_null(schema: Described) -> OneOfBuilder {
    OneOfBuilder::new().item(schema).item(ObjectBuilder::new().schema_type(Type::Null))
}

pub fn fields(fields: &[(String, Shape)], by: By) -> ObjectBuilder {
    object(fields, by, |_, shape| shape.schema(by))
}

/// The field that says whose saga it is: a user's id as well, whatever its shape.
fn owner_schema(shape: &Shape) -> Described {
    match (shape.kind, &shape.pattern) {
        (ShapeKind::UserId, _) => NewUserId::schema(),
        (ShapeKind::Text, None) => user_id(shape.max_text()).into(),
        _ => AllOfBuilder::new().item(shape.schema(By::Client)).item(NewUserId::schema()).into(),
    }
}

pub fn string() -> ObjectBuilder {
    ObjectBuilder::new().schema_type(Type::String)
}

/// Exact money. Whoever reads it takes a text for its amount as well.
pub fn money(by: By) -> ObjectBuilder {
    let amount = if by == By::Saga { Amount::schema() } else { AmountText::schema() };
    ObjectBuilder::new()
        .property("amount", amount)
        .required("amount")
        .property("currency", Currency::schema())
        .required("currency")
}

impl Shape {
    fn max_text(&self) -> usize {
        self.max.unwrap_or(MAX_TEXT)
    }

    pub fn schema(&self, by: By) -> Described {
        match (self.kind, by) {
            (ShapeKind::Text, _) => self.text(),
            (ShapeKind::UserId, By::Client) => NewUserId::schema(),
            (ShapeKind::UserId, _) => UserId::schema(),
            (ShapeKind::Currency, By::Client) => CurrencyInUse::schema(),
            (ShapeKind::Currency, _) => Currency::schema(),
            (ShapeKind::Email, _) => email(MAX_EMAIL).into(),
            (ShapeKind::Sku, _) => skus().into(),
            (ShapeKind::Date, _) => string()
                .format(Some(SchemaFormat::KnownFormat(KnownFormat::Date)))
                .pattern(Some("^[0-9]{4}-(?:0[1-9]|1[0-2])-(?:0[1-9]|[12][0-9]|3[01])$"))
                .description(Some("A day of the calendar."))
                .examples(["2027-05-01"])
                .into(),
            (ShapeKind::Boolean, _) => ObjectBuilder::new().schema_type(Type::Boolean).into(),
            (ShapeKind::Count, _) => {
                let count = ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0));
                count.maximum(Some(self.most.unwrap_or(MAX_COUNT))).into()
            }
            (ShapeKind::Amount, By::Saga) => Amount::schema(),
            (ShapeKind::Amount, _) => AmountText::schema(),
            (ShapeKind::Money, _) => money(by).into(),
            (ShapeKind::Json, _) => {
                // Null is a value that is missing.
                let kinds = [Type::Object, Type::Array, Type::String, Type::Number, Type::Boolean];
                let max = self.max.unwrap_or(MAX_JSON);
                let about = format!("Any JSON of at most {max} bytes. It is kept byte for byte.");
                ObjectBuilder::new().schema_type(SchemaType::from_iter(kinds)).description(Some(about)).into()
            }
            (ShapeKind::Record, _) => fields(&self.of, by).into(),
            (ShapeKind::Address, _) => fields(&address(), by).into(),
            (ShapeKind::List, _) => {
                let most = self.most.and_then(|most| most.try_into().ok());
                ArrayBuilder::new().items(Described::from(fields(&self.of, by))).max_items(most).into()
            }
        }
    }

    fn text(&self) -> Described {
        let max = self.max_text();
        let Some(pattern) = &self.pattern else { return prose(max).into() };
        match Ecma::of(pattern.as_str()) {
            Some(Ecma { pattern, is_visible: true }) => {
                string().min_length(Some(1)).max_length(Some(max)).pattern(Some(pattern)).into()
            }
            Some(Ecma { pattern, .. }) => {
                AllOfBuilder::new().item(prose(max)).item(string().pattern(Some(pattern))).into()
            }
            None => {
                let about = format!("Matches `{}` as a whole (syntax of Rust's crate regex-lite).", pattern.as_str());
                prose(max).description(Some(about)).into()
            }
        }
    }
}

/// A constant.
pub fn constant(json: &Json) -> ObjectBuilder {
    let kind = match json {
        Json::Null => return ObjectBuilder::new().schema_type(Type::Null),
        Json::Bool(_) => Type::Boolean,
        Json::Number(_) => Type::Number,
        Json::String(text) => return one_of([text.as_str()]),
        Json::Array(_) => Type::Array,
        Json::Object(_) => Type::Object,
    };
    ObjectBuilder::new().schema_type(kind).enum_values(Some([json.clone()]))
}
