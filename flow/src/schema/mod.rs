//! What a JSON Schema says of a flow's values: the request that starts a saga, the payloads of commands, replies and
//! signals, the answer. As strict as the code that reads them ([`crate::read()`]), as far as a schema can say it.

mod asyncapi;
mod pattern;
mod payload;
mod shape;

pub use payload::Carrier;
