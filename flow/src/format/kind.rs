//! What a value of a flow file may be. The tables in [`super::tables`] are made of these; reading, the JSON Schema and
//! the reference are derived from the tables.

/// What a value may be.
#[derive(Debug)]
pub enum Kind {
    /// A name of this sort.
    Name(&'static Sort),
    /// A text of at most so many characters.
    Text(usize),
    /// A whole number from `least` to `most`.
    Integer { least: i64, most: i64 },
    /// `true` or `false`.
    Flag,
    /// A whole number with `ms`, `s`, `m`, `h` or `d`: `90s`.
    Duration,
    /// A whole number of bytes, or with `KiB`: `2KiB`.
    Bytes,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A reference to a value that the saga has: `$input.userId`.
    Slot,
    /// Constants and slots, in any nesting.
    Payload,
    /// A text, a number or a flag.
    Constant,
    /// A mapping with these keys.
    Record(&'static Record),
    /// At most so many values.
    List(&'static Self, usize),
    /// A mapping from names of this sort.
    Map(&'static Sort, &'static Self),
    /// One of these, told apart by being a word, a list or a mapping.
    Either(&'static [Self]),
}

/// A sort of names.
#[derive(Debug)]
pub struct Sort {
    /// What such a name names: "a step".
    pub what: &'static str,
    /// How it is written, in words.
    pub written: &'static str,
    /// The same as a regular expression, anchored.
    pub pattern: &'static str,
}

/// A mapping whose keys the format gives.
#[derive(Debug)]
pub struct Record {
    /// What it describes: "a step".
    pub what: &'static str,
    pub keys: &'static [Key],
}

#[derive(Debug)]
pub struct Key {
    pub name: &'static str,
    pub kind: Kind,
    pub is_required: bool,
    /// What it says, in a sentence, for the JSON Schema and the reference.
    pub meaning: &'static str,
    /// As it may stand in a file.
    pub example: &'static str,
}

/// A key that has to be there.
pub const fn required(name: &'static str, kind: Kind, meaning: &'static str, example: &'static str) -> Key {
    Key { name, kind, is_required: true, meaning, example }
}

/// A key that may be there.
pub const fn optional(name: &'static str, kind: Kind, meaning: &'static str, example: &'static str) -> Key {
    Key { name, kind, is_required: false, meaning, example }
}
