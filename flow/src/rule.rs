//! The rules that a flow file has to keep, by name. The names are stable: scripts may match them.

use std::fmt;

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal,)+) => {
        /// A rule that a flow file has to keep.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Rule {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl Rule {
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As it stands in a finding.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it demands, in a sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc,)+).trim_ascii(),)+ }
            }
        }
    };
}

rules! {
    /// The file is at most 64 KiB of UTF-8, nested at most 16 deep.
    Size = "size",
    /// The file is one YAML 1.2 document.
    Yaml = "yaml",
    /// Nothing is anchored, aliased or merged: what a reader sees is what runs.
    Anchor = "anchor",
    /// No value has a tag: the format gives each value its type.
    Tag = "tag",
    /// A key stands once in its mapping.
    DuplicateKey = "duplicate-key",
    /// Only keys of the format are used.
    UnknownKey = "unknown-key",
    /// Keys that the format requires are there.
    MissingKey = "missing-key",
    /// Of keys that exclude each other only one is used.
    Choice = "choice",
    /// A value has the type that the format gives it.
    Type = "type",
    /// A number, a duration, a size or a length lies within its bounds.
    Bounds = "bounds",
    /// A name is written as the names of its kind are.
    Name = "name",
    /// Reserved names are used only by the flows that are built in.
    Reserved = "reserved",
    /// A step's name, and that of its undo, is used once.
    DuplicateStep = "duplicate-step",
    /// A step that is named exists.
    UnknownStep = "unknown-step",
    /// Within one step an event means one thing.
    AmbiguousEvent = "ambiguous-event",
    /// A slot is filled when its payload is sent: by the input, the start, or an earlier step.
    Slot = "slot",
    /// A kept value that may be missing is marked with `?` where it is used.
    Optional = "optional",
    /// A step before the pivot has an `undo`, or says `undo: none`.
    Undo = "undo",
    /// At the pivot and behind it nothing times out, and nothing is undone.
    Pivot = "pivot",
    /// A step that a saga may wait at before the pivot has a limit: `within`.
    Within = "within",
    /// An answer before the pivot says `final: false`.
    Answer = "answer",
    /// A cause that is answered or undone is a cause of this flow.
    Cause = "cause",
    /// What is asked of a participant of the platform, and what is read of its reply, keeps to its messages.
    Platform = "platform",
    /// A test of the file passes.
    Test = "test",
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
