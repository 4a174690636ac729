//! What the runs have seen. A rehearsal that is never in the dangerous places proves nothing: tests demand that each of
//! these is seen.

use std::collections::BTreeMap;

use flow::Flow;

macro_rules! seen {
    (
        every flow { $($name:ident => $words:literal,)+ }
        with waits { $($wait:ident => $wait_words:literal,)+ }
        with an early answer { $($early:ident => $early_words:literal,)+ }
    ) => {
        /// Something that happened in a run.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Seen { $($name,)+ $($wait,)+ $($early,)+ }

        impl Seen {
            /// All of them.
            const ALL: &[Self] = &[$(Self::$name,)+ $(Self::$wait,)+ $(Self::$early,)+];

            /// All that a flow with a step before its pivot can show.
            pub const EVERY_FLOW: &[Self] = &[$(Self::$name,)+];

            /// All that a flow can show beside them that waits for signals and whose steps report progress.
            const WITH_WAITS: &[Self] = &[$(Self::$wait,)+];

            /// All that a flow can show beside them that answers before its end. Behind a final answer none fails.
            const WITH_EARLY_ANSWER: &[Self] = &[$(Self::$early,)+];

            /// In words.
            pub const fn words(self) -> &'static str {
                match self {
                    $(Self::$name => $words,)+
                    $(Self::$wait => $wait_words,)+
                    $(Self::$early => $early_words,)+
                }
            }
        }
    };
}

seen! {
    every flow {
        Crash => "orchestrators that died",
        WorkLost => "pieces of work lost with them",
        StatementFailed => "statements that failed",
        StatementUnknown => "statements that took effect and seemed to fail",
        StaleCache => "inputs decided on a stale cache first",
        RaceLost => "moves that lost a race",
        Repetition => "effects repeated by the sweeper",
        CommandLost => "commands lost",
        CommandDoubled => "commands doubled",
        DiedBeforeRow => "participants that died before their row was stored",
        DiedBeforeReply => "participants that died between row and reply",
        Silence => "commands that met a silent participant",
        ReplyRepeated => "replies repeated",
        ReplyDoubled => "replies doubled",
        Refusal => "refusals",
        Tombstone => "undos before their action",
        LateAction => "actions refused because of a tombstone",
        Contradiction => "contradicting replies set aside",
        InputIgnored => "inputs ignored",
        DeadlinePassed => "deadlines that passed",
        NeedsAttention => "sagas marked as needing attention",
        Cancelled => "sagas cancelled by an operator or their owner",
        Retried => "sagas retried by an operator",
        Resolved => "undos settled by an operator",
    }
    with waits {
        SignalEarly => "signals stored before their saga waited",
        SignalInTime => "signals stored while their saga waited",
        SignalLate => "signals stored after their saga had gone on",
        SignalRepeated => "signals sent again under their id",
        SignalMisfit => "signals passed over because they did not fit",
        SignalOfAnother => "signals taken by another saga than they were sent for",
        SignalRaceLost => "moves whose signal another saga had taken",
        SignalFound => "signals found by a saga that looked for them",
        SignalUnmatched => "signals that no saga had taken at the end",
        ProgressCounted => "reports of progress that counted",
        ProgressRepeated => "reports of progress repeated",
        UndoneInProgress => "undos of what was in progress",
        LateAttention => "limits that passed and called a person",
        LateGoOn => "limits that passed and let the saga go on",
        CancelledWaiting => "sagas cancelled while they waited",
    }
    with an early answer {
        AnsweredEarly => "clients answered before the end",
        FailedBehindAnswer => "sagas that failed behind their answer",
    }
}

impl Seen {
    /// All that sagas of this flow may show.
    pub fn of(flow: &Flow) -> Vec<Self> {
        let waits = if flow.may_wait() { Self::WITH_WAITS } else { &[] };
        let answers = if flow.answers_early() { Self::WITH_EARLY_ANSWER } else { &[] };
        let mut seen = [Self::EVERY_FLOW, waits, answers].concat();
        seen.retain(|seen| *seen != Self::FailedBehindAnswer || !flow.answer.is_final);
        seen
    }
}

/// How often each was seen, and how the sagas ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Coverage {
    /// How many seeds were run.
    pub seeds: u64,
    seen: [u64; Seen::ALL.len()],
    /// By the end's name: `COMPLETED`, `FAILED/NO_SEAT`.
    pub ends: BTreeMap<String, u64>,
}

impl Default for Coverage {
    fn default() -> Self {
        Self { seeds: 0, seen: [0; Seen::ALL.len()], ends: BTreeMap::new() }
    }
}

impl Coverage {
    pub(super) fn add(&mut self, seen: Seen) {
        self.seen[seen as usize] += 1;
    }

    pub(super) fn ended(&mut self, name: String) {
        *self.ends.entry(name).or_default() += 1;
    }

    /// How often it was seen.
    pub fn of(&self, seen: Seen) -> u64 {
        self.seen[seen as usize]
    }

    /// Adds what other runs have seen.
    pub fn merge(&mut self, other: &Self) {
        self.seeds += other.seeds;
        for (total, more) in self.seen.iter_mut().zip(other.seen) {
            *total += more;
        }
        for (name, more) in &other.ends {
            *self.ends.entry(name.clone()).or_default() += more;
        }
    }
}
