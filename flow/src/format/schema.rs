//! The format as a JSON Schema, for editors.

use serde_json::{Map, Value, json};

use super::kind::{Kind, Record};
use super::tables::FILE;

/// The JSON Schema (2020-12) of a flow file.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let mut schema = record(&FILE, &mut definitions);
    schema["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    schema["title"] = json!("A flow file");
    schema["$defs"] = definitions.into();
    schema
}

fn record(record: &'static Record, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    for key in record.keys {
        let mut property = kind(&key.kind, definitions);
        property["description"] = json!(key.meaning);
        properties.insert(key.name.to_owned(), property);
    }
    let required: Vec<_> = record.keys.iter().filter(|key| key.is_required).map(|key| key.name).collect();
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

fn kind(of: &'static Kind, definitions: &mut Map<String, Value>) -> Value {
    match of {
        Kind::Name(sort) => json!({ "type": "string", "pattern": sort.pattern }),
        Kind::Text(most) => json!({ "type": "string", "maxLength": most }),
        Kind::Integer { least, most } => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Flag => json!({ "type": "boolean" }),
        Kind::Duration => json!({ "type": "string", "pattern": "^[1-9][0-9]*(?:ms|s|m|h|d)$" }),
        Kind::Bytes => json!({ "type": ["integer", "string"], "minimum": 1, "pattern": "^[1-9][0-9]*(?:KiB)?$" }),
        Kind::Word(words) => json!({ "enum": words }),
        Kind::Slot => json!({ "type": "string", "pattern": r"^\$" }),
        Kind::Payload => json!({}),
        Kind::Constant => json!({ "type": ["string", "number", "boolean"] }),
        Kind::Record(shape) => {
            let name = shape.what.replace(' ', "-");
            // A shape may hold shapes: each record is described once, and referred to.
            if !definitions.contains_key(&name) {
                definitions.insert(name.clone(), Value::Null);
                let described = record(shape, definitions);
                definitions.insert(name.clone(), described);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
        Kind::List(item, most) => json!({ "type": "array", "items": kind(item, definitions), "maxItems": most }),
        Kind::Map(sort, value) => json!({
            "type": "object",
            "propertyNames": { "pattern": sort.pattern },
            "additionalProperties": kind(value, definitions),
        }),
        Kind::Either(kinds) => {
            let kinds: Vec<_> = kinds.iter().map(|one| kind(one, definitions)).collect();
            json!({ "anyOf": kinds })
        }
    }
}
