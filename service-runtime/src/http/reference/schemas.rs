//! What a schema says, in a few words.

use maud::{Markup, html};
use serde_json::Value;
use utoipa::openapi::{RefOr, Schema};

use super::{example_of, words};

/// A named schema: its fields, or what its value is.
pub fn component(name: &str, schema: &RefOr<Schema>) -> Markup {
    let json = serde_json::to_value(schema).unwrap_or_default();
    html! {
        section id={ "schema-" (name) } {
            h3 { code { (name) } }
            @if let Some(about) = json["description"].as_str() { p { (words(about)) } }
            (fields(schema, &json))
            @for example in json["examples"].as_array().into_iter().flatten().take(3) { (example_of("Example", example)) }
        }
    }
}

fn fields(schema: &RefOr<Schema>, json: &Value) -> Markup {
    match schema {
        RefOr::T(Schema::Object(object)) if !object.properties.is_empty() => html! {
            table { tbody {
                @for (name, field) in &object.properties {
                    @let json = serde_json::to_value(field).unwrap_or_default();
                    tr {
                        td { code { (name) } }
                        td.dim { @if object.required.contains(name) { "required" } }
                        td {
                            (rules(&json))
                            @if let Some(about) = json["description"].as_str() { div { (words(about)) } }
                        }
                    }
                }
            } }
        },
        RefOr::T(Schema::AllOf(all)) => html! {
            @for part in &all.items { (fields(part, &serde_json::to_value(part).unwrap_or_default())) }
        },
        _ => html! { p { (rules(json)) } },
    }
}

/// What a value has to be.
pub fn told(schema: &RefOr<Schema>) -> Markup {
    rules(&serde_json::to_value(schema).unwrap_or_default())
}

fn rules(schema: &Value) -> Markup {
    if let Some(name) = schema["$ref"].as_str().and_then(|target| target.rsplit('/').next()) {
        return html! { a href={ "#schema-" (name) } { (name) } };
    }
    let parts = [("oneOf", " or "), ("anyOf", " or "), ("allOf", " and ")];
    let parts = parts.into_iter().find_map(|(kind, word)| Some((schema[kind].as_array()?, word)));
    if let Some((parts, word)) = parts {
        return html! {
            @for (number, part) in parts.iter().enumerate() { @if number > 0 { (word) } (rules(part)) }
            @if let Some(default) = schema.get("default") { span.dim { " (default " (default) ")" } }
        };
    }
    let kind = match &schema["type"] {
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or "),
        kind => kind.as_str().unwrap_or("anything").to_owned(),
    };
    let bounds: Vec<String> = [
        ("format", ""),
        ("exclusiveMinimum", "more than "),
        ("minimum", "at least "),
        ("maximum", "at most "),
        ("minLength", "min. characters "),
        ("maxLength", "max. characters "),
        ("minItems", "min. items "),
        ("maxItems", "max. items "),
        ("default", "default "),
    ]
    .into_iter()
    .filter_map(|(key, label)| {
        let value = schema.get(key)?;
        Some(format!("{label}{}", value.as_str().map_or_else(|| value.to_string(), str::to_owned)))
    })
    .collect();
    html! {
        span.kind { (kind) }
        @if kind == "array" && !schema["items"].is_null() { " of " (rules(&schema["items"])) }
        @if !bounds.is_empty() { span.dim { " (" (bounds.join(", ")) ")" } }
        @if let Some(values) = schema["enum"].as_array() { (values_of(values)) }
        @if let Some(pattern) = schema["pattern"].as_str() { " " code.pattern { (pattern) } }
    }
}

/// A long list is folded.
fn values_of(values: &[Value]) -> Markup {
    let list = html! { @for value in values { code { (value.as_str().unwrap_or("null")) } " " } };
    match values.len() {
        0..=20 => html! { ": " (list) },
        many => html! { details { summary { "one of " (many) } (list) } },
    }
}
