//! As much of a JSON Schema validator as the schemas of this workspace need. A keyword that it does not know is an error,
//! so none is passed over.

use std::cell::RefCell;
use std::collections::HashMap;

use regex::Regex;
use serde_json::{Map, Value};

/// Why a value does not fit a schema; `None` where it fits. References lead into `root`.
pub fn misfit(root: &Value, schema: &Value, value: &Value) -> Option<String> {
    let Value::Object(keywords) = schema else { panic!("no schema: {schema}") };
    let wrong = keywords.iter().find(|(keyword, rule)| !fits(root, keywords, keyword, rule, value));
    wrong.map(|(keyword, rule)| format!("{value} breaks `{keyword}`: {rule}"))
}

fn fits(root: &Value, keywords: &Map<String, Value>, keyword: &str, rule: &Value, value: &Value) -> bool {
    let fit = |schema: &Value, value: &Value| misfit(root, schema, value).is_none();
    let list = |rule: &Value| rule.as_array().unwrap_or_else(|| panic!("no list: {rule}")).clone();
    let limit = || rule.as_f64().unwrap_or_else(|| panic!("no number: {rule}"));
    let number = value.as_f64();
    let length = value.as_str().map(|text| text.chars().count() as f64);
    let items = value.as_array();
    let object = value.as_object();
    match keyword {
        "$ref" => {
            let target = rule.as_str().and_then(|target| root.pointer(target.strip_prefix('#')?));
            fit(target.unwrap_or_else(|| panic!("{rule} leads nowhere")), value)
        }
        "type" => match rule {
            Value::Array(types) => types.iter().any(|one| is(one, value)),
            one => is(one, value),
        },
        "enum" => list(rule).contains(value),
        "oneOf" => list(rule).iter().filter(|schema| fit(schema, value)).count() == 1,
        "anyOf" => list(rule).iter().any(|schema| fit(schema, value)),
        "allOf" => list(rule).iter().all(|schema| fit(schema, value)),
        "minimum" => number.is_none_or(|number| number >= limit()),
        "exclusiveMinimum" => number.is_none_or(|number| number > limit()),
        "maximum" => number.is_none_or(|number| number <= limit()),
        "minLength" => length.is_none_or(|length| length >= limit()),
        "maxLength" => length.is_none_or(|length| length <= limit()),
        "pattern" => value.as_str().is_none_or(|text| matches(rule.as_str().unwrap_or_default(), text)),
        "minItems" => items.is_none_or(|items| items.len() as f64 >= limit()),
        "maxItems" => items.is_none_or(|items| items.len() as f64 <= limit()),
        "prefixItems" => items.is_none_or(|items| items.iter().zip(list(rule)).all(|(item, rule)| fit(&rule, item))),
        "items" => items.is_none_or(|items| {
            let behind = keywords.get("prefixItems").map_or(0, |prefix| list(prefix).len());
            items.iter().skip(behind).all(|item| *rule != Value::Bool(false) && fit(rule, item))
        }),
        "required" => object
            .is_none_or(|object| list(rule).iter().all(|name| object.contains_key(name.as_str().unwrap_or_default()))),
        "properties" => object.is_none_or(|object| {
            object.iter().all(|(name, value)| rule.get(name).is_none_or(|schema| fit(schema, value)))
        }),
        "additionalProperties" => {
            assert_eq!(rule, &Value::Bool(false));
            let known = keywords.get("properties").cloned().unwrap_or_default();
            object.is_none_or(|object| object.keys().all(|name| known.get(name).is_some()))
        }
        // They say nothing about what fits.
        "title" | "description" | "default" | "examples" | "format" => true,
        _ => panic!("an unknown keyword: {keyword}"),
    }
}

fn is(kind: &Value, value: &Value) -> bool {
    match kind.as_str() {
        Some("null") => value.is_null(),
        Some("boolean") => value.is_boolean(),
        Some("string") => value.is_string(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some("number") => value.is_number(),
        Some("integer") => value.as_f64().is_some_and(|number| number.fract() == 0.0),
        _ => panic!("an unknown type: {kind}"),
    }
}

fn matches(pattern: &str, text: &str) -> bool {
    thread_local! {
        /// To compile one takes a millisecond.
        static KNOWN: RefCell<HashMap<String, Regex>> = RefCell::default();
    }
    KNOWN.with_borrow_mut(|known| {
        if !known.contains_key(pattern) {
            known.insert(pattern.to_owned(), regex(pattern));
        }
        known[pattern].is_match(text)
    })
}

/// Of a pattern of ECMA-262, in which escapes have no braces, and digits are those of ASCII.
fn regex(pattern: &str) -> Regex {
    let mut written = String::new();
    let mut rest = pattern;
    while let Some((before, after)) = rest.split_once('\\') {
        let (code, behind) = match after.strip_prefix('u') {
            Some(code) => (format!(r"\x{{{}}}", &code[..4]), &code[4..]),
            None if after.starts_with('d') => ("[0-9]".to_owned(), &after[1..]),
            None => (format!(r"\{}", &after[..1]), &after[1..]),
        };
        written += before;
        written += &code;
        rest = behind;
    }
    written += rest;
    Regex::new(&written).unwrap_or_else(|error| panic!("{pattern}: {error}"))
}
