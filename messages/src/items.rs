//! What an order is of: pieces of products.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use crate::Sku;
use crate::object::Object;

/// The most lines of an order.
const MOST_LINES: usize = 100;

/// The most pieces of one line: more than a warehouse has, and a hundred lines of it are counted without care.
const MOST_PIECES: u32 = 1_000_000;

/// A line of an order: so many pieces of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Item {
    pub sku: Sku,
    /// Pieces.
    #[schema(minimum = 1, maximum = 1_000_000)]
    #[serde(deserialize_with = "pieces")]
    pub qty: u32,
}

fn pieces<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u32, D::Error> {
    struct Pieces;

    impl Visitor<'_> for Pieces {
        type Value = u32;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a whole number from 1 to 1000000")
        }

        fn visit_u64<E: serde::de::Error>(self, count: u64) -> Result<u32, E> {
            let pieces = u32::try_from(count).ok().filter(|pieces| (1..=MOST_PIECES).contains(pieces));
            pieces.ok_or_else(|| E::invalid_value(serde::de::Unexpected::Unsigned(count), &self))
        }
    }

    deserializer.deserialize_u32(Pieces)
}

/// The lines of an order, at most 100; none where its goods are not counted. A product may have several: they are added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Object<Item>>", into = "Vec<Item>")]
pub struct Items(Vec<Item>);

/// More lines than an order may have. Meant for the person who sent them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("has {0} lines, and may have 100")]
pub struct TooManyLines(usize);

impl Items {
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn lines(&self) -> &[Item] {
        &self.0
    }

    /// The pieces of each product.
    pub fn by_sku(&self) -> BTreeMap<Sku, i64> {
        let mut pieces = BTreeMap::new();
        for Item { sku, qty } in &self.0 {
            *pieces.entry(sku.clone()).or_default() += i64::from(*qty);
        }
        pieces
    }
}

impl TryFrom<Vec<Object<Item>>> for Items {
    type Error = TooManyLines;

    fn try_from(items: Vec<Object<Item>>) -> Result<Self, TooManyLines> {
        if items.len() > MOST_LINES {
            return Err(TooManyLines(items.len()));
        }
        Ok(Self(items.into_iter().map(|Object(item)| item).collect()))
    }
}

impl From<Items> for Vec<Item> {
    fn from(items: Items) -> Self {
        items.0
    }
}

/// A product of which there were too few pieces.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Short {
    pub sku: Sku,
    /// Pieces that the order is of.
    #[schema(minimum = 1)]
    pub wanted: i64,
    /// Pieces that were free.
    #[schema(minimum = 0)]
    pub available: i64,
    /// No product has this SKU.
    #[serde(default, skip_serializing_if = "is_false")]
    pub unknown: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
const fn is_false(it: &bool) -> bool {
    !*it
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Items, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn the_lines_of_a_product_are_added_up() {
        let items = read(r#"[{"sku":"b","qty":2},{"sku":"a","qty":1},{"sku":"b","qty":3}]"#).unwrap();
        let pieces: Vec<(String, i64)> = items.by_sku().into_iter().map(|(sku, n)| (sku.to_string(), n)).collect();
        assert_eq!(pieces, [("a".to_owned(), 1), ("b".to_owned(), 5)]);
        assert!(read("[]").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_with_lines_is_named() {
        let lines = |count| format!("[{}]", vec![r#"{"sku":"a","qty":1}"#; count].join(","));
        assert!(read(&lines(100)).is_ok());
        assert!(read(&lines(101)).unwrap_err().contains("101 lines"));
        for qty in ["0", "1000001"] {
            let error = read(&format!(r#"[{{"sku":"a","qty":1}},{{"sku":"a","qty":{qty}}}]"#)).unwrap_err();
            assert!(error.contains("a whole number from 1 to 1000000"), "{error}");
        }
        for line in [r#"{"sku":"","qty":1}"#, r#"{"sku":"a","qty":-1}"#, r#"{"sku":"a","qty":1.5}"#, r#"{"sku":"a"}"#] {
            assert!(read(&format!("[{line}]")).is_err(), "{line}");
        }
    }
}
