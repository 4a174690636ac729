//! The reference page of an HTTP interface, made from its OpenAPI document: text and style only, for any browser.

mod schemas;

use std::collections::BTreeMap;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;
use utoipa::openapi::example::Example;
use utoipa::openapi::path::{Operation, Parameter, ParameterIn, PathItem};
use utoipa::openapi::request_body::RequestBody;
use utoipa::openapi::{Content, OpenApi, RefOr, Required, Response};

use self::schemas::{component, told};

const STYLE: &str = include_str!("reference/style.css");

/// The whole page.
pub fn page(document: &OpenApi) -> Markup {
    let mut tags: Vec<(&str, Vec<Route<'_>>)> = Vec::new();
    for route in document.paths.paths.iter().flat_map(|(path, item)| routes(path, item)) {
        match tags.iter_mut().find(|(tag, _)| *tag == route.tag()) {
            Some((_, routes)) => routes.push(route),
            None => tags.push((route.tag(), vec![route])),
        }
    }
    let schemas = document.components.as_ref().map(|components| &components.schemas);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (document.info.title) " · HTTP API" }
                style { (PreEscaped(STYLE)) }
            }
            body {
                nav {
                    strong { (document.info.title) }
                    @for (tag, routes) in &tags {
                        h2 { (tag) }
                        ul { @for route in routes { li { a href={ "#" (route.anchor()) } { (route.badge()) " " (route.path) } } } }
                    }
                    h2 { "Bodies" }
                    ul { @for name in schemas.into_iter().flat_map(|all| all.keys()) { li { a href={ "#schema-" (name) } { (name) } } } }
                }
                main {
                    h1 { (document.info.title) }
                    @if let Some(about) = &document.info.description { (prose(about)) }
                    p { "The same for programs: " a href="/openapi.json" { "/openapi.json" } " (OpenAPI 3.1)." }
                    @for (tag, routes) in &tags {
                        h2 { (tag) }
                        @for route in routes { (section(route)) }
                    }
                    h2 { "Bodies" }
                    @for (name, schema) in schemas.into_iter().flatten() { (component(name, schema)) }
                }
            }
        }
    }
}

/// A method of a path.
struct Route<'a> {
    method: &'static str,
    path: &'a str,
    operation: &'a Operation,
}

fn routes<'a>(path: &'a str, item: &'a PathItem) -> impl Iterator<Item = Route<'a>> {
    let all = [
        ("GET", &item.get),
        ("POST", &item.post),
        ("PATCH", &item.patch),
        ("PUT", &item.put),
        ("DELETE", &item.delete),
    ];
    all.into_iter().filter_map(move |(method, operation)| Some(Route { method, path, operation: operation.as_ref()? }))
}

impl<'a> Route<'a> {
    fn tag(&self) -> &'a str {
        self.operation.tags.iter().flatten().next().map_or("Routes", String::as_str)
    }

    fn anchor(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
        format!("{}{}", self.method.to_lowercase(), self.path.chars().map(plain).collect::<String>())
    }

    fn badge(&self) -> Markup {
        html! { b.method data-method=(self.method) { (self.method) } }
    }
}

/// Text with `code` in it.
fn prose(text: &str) -> Markup {
    html! { @for paragraph in text.split("\n\n") { p { (words(paragraph)) } } }
}

fn words(text: &str) -> Markup {
    html! { @for (number, part) in text.split('`').enumerate() { @if number % 2 == 1 { code { (part) } } @else { (part) } } }
}

fn section(route: &Route<'_>) -> Markup {
    let operation = route.operation;
    let parameters: Vec<&Parameter> = operation.parameters.iter().flatten().filter_map(plain).collect();
    html! {
        section id=(route.anchor()) {
            h3 { (route.badge()) " " code { (route.path) } }
            @if let Some(summary) = &operation.summary { p.summary { (words(summary)) } }
            @if let Some(description) = &operation.description { (prose(description)) }
            @if !parameters.is_empty() {
                h4 { "Parameters" }
                table { tbody { @for parameter in parameters { (self::parameter(parameter)) } } }
            }
            @if let Some(body) = operation.request_body.as_ref().and_then(plain) { (request(body)) }
            h4 { "Answers" }
            table { tbody {
                @for (status, response) in &operation.responses.responses {
                    @if let Some(response) = plain(response) { (answer(status, response)) }
                }
            } }
        }
    }
}

fn plain<T>(it: &RefOr<T>) -> Option<&T> {
    match it {
        RefOr::T(it) => Some(it),
        RefOr::Ref(_) => None,
    }
}

fn parameter(parameter: &Parameter) -> Markup {
    let place = match parameter.parameter_in {
        ParameterIn::Path => "path",
        ParameterIn::Query => "query",
        ParameterIn::Header => "header",
        _ => "elsewhere",
    };
    html! {
        tr {
            td { code { (parameter.name) } }
            td.dim { (place) @if parameter.required == Required::True { ", required" } }
            td {
                @if let Some(schema) = &parameter.schema { (told(schema)) }
                @if let Some(description) = &parameter.description { div { (words(description)) } }
            }
        }
    }
}

fn request(body: &RequestBody) -> Markup {
    html! {
        h4 { "Body" }
        @for (kind, content) in &body.content {
            @if let Some(content) = plain(content) {
                p { code { (kind) } ": " @if let Some(schema) = &content.schema { (told(schema)) } }
                (examples(content))
            }
        }
    }
}

fn answer(status: &str, response: &Response) -> Markup {
    html! {
        tr {
            td { code.status data-class=(status.chars().next().unwrap_or('0')) { (status) } }
            td colspan="2" {
                (words(&response.description))
                @for (name, header) in &response.headers {
                    @if let Some(header) = plain(header) {
                        div.dim { "Header " code { (name) } @if let Some(about) = &header.description { ": " (words(about)) } }
                    }
                }
                @for (kind, content) in &response.content {
                    @if let Some(content) = plain(content) {
                        div { code.dim { (kind) } " " @if let Some(schema) = &content.schema { (told(schema)) } }
                        (examples(content))
                    }
                }
            }
        }
    }
}

fn examples(content: &Content) -> Markup {
    html! {
        @if let Some(example) = &content.example { (example_of("Example", example)) }
        (named(&content.examples))
    }
}

fn named(examples: &BTreeMap<String, RefOr<Example>>) -> Markup {
    html! {
        @for (name, example) in examples {
            @if let Some(example) = plain(example) {
                @if let Some(value) = &example.value {
                    (example_of(if example.summary.is_empty() { name } else { &example.summary }, value))
                }
            }
        }
    }
}

fn example_of(name: &str, value: &Value) -> Markup {
    let text = value.as_str().map_or_else(|| serde_json::to_string_pretty(value).unwrap_or_default(), str::to_owned);
    html! { details { summary { (name) } pre { (text) } } }
}
