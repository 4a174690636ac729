//! What happens when a service dies, is held up, or panics at one exact place: at its failpoints. They are there only
//! in programs built for it, so these tests have a cargo feature of their own; `dev/failpoints` runs them.

mod clock;
mod panics;
mod planted;
mod points;
mod published;
mod recovery;
mod timed_out_charge;
