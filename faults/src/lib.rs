//! Ways to break the services on purpose, so that it can be shown that they survive, and that the instruments which
//! say so can see. Without this crate's features, which no normal build has, all of it compiles to nothing.
//!
//! - feature `failpoints`: [`reached`] marks a persistence boundary. The environment variable `FAILPOINTS` says what
//!   happens there, as `payment.stored:CHARGED=1*off->return`, several separated by `;`. The syntax is that of the
//!   crate `fail`: `return` ends the process on the spot, as SIGKILL would; `sleep(MS)` holds the one that got there,
//!   and nobody else; `panic` panics.
//!   And `CLOCK_SKEW_MS` sets the process's clock ahead by so much, or behind: see [`clock_skew_ms`].
//! - feature `planted-bugs`: [`planted`] guards a one-line defect. The environment variable `PLANTED_BUG` chooses one;
//!   `none` chooses none.
//!
//! Which points there are, and what dying at each leaves behind: docs/reliability-failpoints.md.

/// Reads the environment. Called once, before the program starts.
///
/// # Errors
/// When the build has planted bugs and `PLANTED_BUG` does not choose one: such a program must not run by mistake.
pub fn init() -> Result<(), String> {
    #[cfg(feature = "failpoints")]
    std::mem::forget(fail::FailScenario::setup());
    #[cfg(feature = "planted-bugs")]
    if let Some(bug) = bugs::chosen()? {
        eprintln!("this process has a planted bug: {}", bug.as_str());
    }
    Ok(())
}

/// A place where the process may be made to die, to wait, or to panic: `boundary` of `what`, named `boundary:what` in
/// `FAILPOINTS`. Not to be called with a lock held.
#[inline(always)]
pub fn reached(boundary: &str, what: &str) {
    #[cfg(feature = "failpoints")]
    points::reached(&format!("{boundary}:{what}"));
    let _ = (boundary, what);
}

/// By how much this process's clock is to be wrong.
#[inline(always)]
pub fn clock_skew_ms() -> i64 {
    #[cfg(feature = "failpoints")]
    return points::clock_skew_ms();
    #[cfg(not(feature = "failpoints"))]
    0
}

#[cfg(feature = "failpoints")]
mod points {
    use std::sync::OnceLock;

    use tokio::runtime::{Handle, RuntimeFlavor};

    pub fn clock_skew_ms() -> i64 {
        static SKEW: OnceLock<i64> = OnceLock::new();
        *SKEW.get_or_init(|| std::env::var("CLOCK_SKEW_MS").ok().and_then(|ms| ms.parse().ok()).unwrap_or(0))
    }

    pub fn reached(point: &str) {
        // One that is held must hold nobody else: the runtime's other tasks move to another thread.
        let shared = Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
        if shared { tokio::task::block_in_place(|| eval(point)) } else { eval(point) }
    }

    fn eval(point: &str) {
        fail::fail_point!(point, |_| {
            eprintln!("failpoint {point}: the process ends here");
            std::process::abort()
        });
    }
}

/// Whether this defect is to be there.
#[inline(always)]
pub fn planted(bug: Bug) -> bool {
    #[cfg(feature = "planted-bugs")]
    return bugs::chosen().is_ok_and(|chosen| chosen == Some(bug));
    #[cfg(not(feature = "planted-bugs"))]
    {
        let _ = bug;
        false
    }
}

macro_rules! bugs {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)+) => {
        /// The defects that can be planted.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Bug {
            $($(#[$doc])* $name,)+
        }

        impl Bug {
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name in `PLANTED_BUG`.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }
    };
}

bugs! {
    /// A participant replies before its row is committed.
    ReplyBeforeCommit => "reply-before-commit",
    /// A participant ignores a command that came before, instead of repeating its reply.
    SilentDuplicate => "silent-duplicate",
    /// The gateway is called without the row that announces the call.
    NoAnnouncement => "no-announcement",
    /// The row that a compensation leaves which comes first does not count, so the late action takes effect.
    NoTombstone => "no-tombstone",
    /// A saga's row is replaced whatever version is stored.
    NoVersionCheck => "no-version-check",
    /// A failed reservation cancels the order without a refund.
    CancelWithoutRefund => "cancel-without-refund",
    /// The saga's row is written after its order is created.
    SagaAfterOrder => "saga-after-order",
    /// Nothing looks for overdue sagas.
    SweeperOff => "sweeper-off",
    /// A reply counts for whatever step is pending.
    ReplyOfAnotherStep => "reply-of-another-step",
    /// A reply counts whatever it is about: another amount, another order, another saga's command.
    UncheckedReply => "unchecked-reply",
    /// A record's offset is committed before it is handled.
    OffsetBeforeCommit => "offset-before-commit",
    /// An entry of the outbox is removed before Kafka has its record.
    RemovedBeforeSent => "removed-before-sent",
}

#[cfg(feature = "planted-bugs")]
mod bugs {
    use std::sync::OnceLock;

    use super::Bug;

    /// `Ok(None)` for "none".
    pub fn chosen() -> Result<Option<Bug>, String> {
        static CHOSEN: OnceLock<Result<Option<Bug>, String>> = OnceLock::new();
        let parse = || {
            let name = std::env::var("PLANTED_BUG").unwrap_or_default();
            let known: Vec<&str> = Bug::ALL.iter().map(|bug| bug.as_str()).collect();
            let bug = Bug::ALL.iter().copied().find(|bug| bug.as_str() == name);
            match bug {
                None if name != "none" => Err(format!(
                    "this build has planted bugs (feature `planted-bugs`): PLANTED_BUG must choose one of {}, or none",
                    known.join(", ")
                )),
                bug => Ok(bug),
            }
        };
        CHOSEN.get_or_init(parse).clone()
    }
}
