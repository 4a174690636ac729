//! Shapes: what may stand beside which type.

use std::collections::HashSet;

use serde_json::Value as Json;

use crate::file::{At, Fields, FlowFile};
use crate::finding::{Findings, Position};
use crate::rule::Rule;
use crate::shape::{MAX_MATCHED, Shape, ShapeKind};

pub fn check(file: &FlowFile, findings: &mut Findings) {
    fields(&file.start.input, findings);
    for step in &file.steps {
        step.wait.iter().for_each(|wait| fields(&wait.keep, findings));
        for (_, reply) in &step.done {
            fields(&reply.fields, findings);
            kept(&reply.keep, &reply.fields, findings);
        }
        for (_, progress) in &step.progress {
            fields(&progress.fields, findings);
            kept(&progress.keep, &progress.fields, findings);
        }
    }
}

fn fields(fields: &Fields, findings: &mut Findings) {
    fields.iter().for_each(|(_, field)| shape(field, field.at, 1, findings));
}

fn shape(shape: &Shape, at: Position, depth: usize, findings: &mut Findings) {
    use ShapeKind::{Count, Json, List, Record, Text};
    let kind = shape.kind;
    let mut only = |name: &str, stands: bool, kinds: &[ShapeKind]| {
        if stands && !kinds.contains(&kind) {
            let kinds: Vec<_> = kinds.iter().map(|kind| format!("`{}`", kind.name())).collect();
            let message = format!("`{name}` is for {}, not for `{}`", kinds.join(" and "), kind.name());
            findings.report(at, Rule::Choice, message);
        }
    };
    only("max", shape.max.is_some(), &[Text, Json]);
    only("most", shape.most.is_some(), &[List, Count]);
    only("pattern", shape.pattern.is_some(), &[Text]);
    only("of", !shape.of.is_empty(), &[List, Record]);
    if [List, Record].contains(&kind) && shape.of.is_empty() {
        findings.report(at, Rule::MissingKey, format!("a `{}` needs `of`: the fields that are in it", kind.name()));
    }
    if kind == List && shape.most.is_none() {
        findings.report(at, Rule::MissingKey, "a `list` needs `most`: how many items it may have");
    }
    if let Some(pattern) = &shape.pattern
        && let Some(error) = pattern.error()
    {
        findings.report(
            at,
            Rule::Type,
            format!("`pattern` is no regular expression, or one that is too large: {error}"),
        );
    }
    if shape.pattern.is_some() && shape.max.is_some_and(|max| max > MAX_MATCHED) {
        let message = format!("a text with a `pattern` has at most {MAX_MATCHED} characters: lower `max`");
        findings.report(at, Rule::Bounds, message);
    }
    if let Some(default) = &shape.default {
        if shape.is_optional {
            findings.report(
                at,
                Rule::Choice,
                "`optional` and `default` exclude each other: a default is never missing",
            );
        }
        if !default_fits(kind, default) {
            findings.report(at, Rule::Type, format!("the default {default} is no `{}`", kind.name()));
        }
    }
    if depth > 3 {
        return findings.report(at, Rule::Bounds, "fields stand in each other at most three deep");
    }
    shape.of.iter().for_each(|(_, inner)| self::shape(inner, at, depth + 1, findings));
}

fn default_fits(kind: ShapeKind, default: &Json) -> bool {
    match kind {
        ShapeKind::Boolean => default.is_boolean(),
        ShapeKind::Count => default.is_u64(),
        ShapeKind::Amount => default.is_number() || default.is_string(),
        ShapeKind::List | ShapeKind::Record | ShapeKind::Json | ShapeKind::Money | ShapeKind::Address => false,
        _ => default.is_string(),
    }
}

fn kept(keep: &[At<String>], fields: &Fields, findings: &mut Findings) {
    let mut seen = HashSet::new();
    for name in keep {
        if !fields.iter().any(|(field, _)| field.value == name.value) {
            let message = format!("`{}` is kept and not read: give its shape in `reply`", name.value);
            findings.report(name.at, Rule::Slot, message);
        }
        if !seen.insert(name.as_str()) {
            findings.report(name.at, Rule::DuplicateKey, format!("`{}` is kept twice", name.value));
        }
    }
}
