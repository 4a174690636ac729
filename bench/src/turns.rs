//! Something to compare with (the floor, or a platform without a past) and ours in turn, several times: a shared machine is quicker in one minute than in the next, and two runs
//! say more of the minutes than of the programs. Told is the middle pair, and how far the others were from it.

use std::fmt;

use serde::Serialize;

use crate::load::Load;
use crate::run::Run;

/// Another's run and ours, one right after the other.
#[derive(Debug)]
pub struct Turn {
    pub other: Option<Run>,
    pub ours: Run,
}

/// What all turns of a load have shown.
#[derive(Debug, Serialize)]
pub struct Spread {
    load: Load,
    turns: usize,
    /// The least and the most: ours / the other's, of the rates; of the medians of the latencies in an open loop, whose rate is
    /// given.
    ratios: Option<(f64, f64)>,
    /// The least and the most of ours.
    per_second: (f64, f64),
}

impl Turn {
    /// By what turns are compared: how ours is to the other; without one, ours.
    fn figure(&self) -> f64 {
        let of = |run: &Run| match run.load {
            Load::Closed { .. } => run.per_second,
            Load::Open { .. } => run.seen.p50_ms,
        };
        of(&self.ours) / self.other.as_ref().map_or(1.0, of)
    }

    pub fn runs(self) -> impl Iterator<Item = Run> {
        self.other.into_iter().chain([self.ours])
    }
}

/// The middle turn, the spread of all, and the others.
///
/// # Panics
/// Without a turn.
pub fn middle(mut turns: Vec<Turn>) -> (Turn, Spread, Vec<Turn>) {
    turns.sort_by(|one, other| one.figure().total_cmp(&other.figure()));
    let rates = || turns.iter().map(|turn| turn.ours.per_second);
    let (first, last) = (&turns[0], &turns[turns.len() - 1]);
    let spread = Spread {
        load: first.ours.load,
        turns: turns.len(),
        ratios: first.other.as_ref().map(|_| (first.figure(), last.figure())),
        per_second: (rates().fold(f64::INFINITY, f64::min), rates().fold(0.0, f64::max)),
    };
    let middle = turns.swap_remove(turns.len() / 2);
    (middle, spread, turns)
}

/// `64: 1700 to 1900/s, 0.70 to 0.80 of the other`.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.load)?;
        match (self.load, self.ratios) {
            (Load::Open { .. }, Some((least, most))) => write!(f, "p50 {least:.2} to {most:.2} of the other's"),
            (_, ratios) => {
                write!(f, "{:.0} to {:.0}/s", self.per_second.0, self.per_second.1)?;
                ratios.map_or(Ok(()), |(least, most)| write!(f, ", {least:.2} to {most:.2} of the other"))
            }
        }
    }
}

impl Spread {
    pub fn turns(&self) -> usize {
        self.turns
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::load::Seen;
    use crate::run::{FLOOR, OURS};

    fn run(who: &'static str, load: Load, per_second: f64, p50_ms: f64) -> Run {
        let (answers, errors) = (BTreeMap::new(), BTreeMap::new());
        let seen = Seen { seconds: 1.0, answers, errors, p50_ms, p99_ms: p50_ms, p999_ms: p50_ms };
        let (wal_bytes, wal_flushes, commits, heap_only) = (0.0, 0.0, 0.0, 0.0);
        Run { who, load, per_second, seen, cpu_ms: Vec::new(), wal_bytes, wal_flushes, commits, heap_only, wrong: None }
    }

    fn turns(load: Load, figures: &[(f64, f64)]) -> Vec<Turn> {
        let turn = |(floor, ours): &(f64, f64)| Turn {
            other: Some(run(FLOOR, load, *floor, *floor)),
            ours: run(OURS, load, *ours, *ours),
        };
        figures.iter().map(turn).collect()
    }

    #[test]
    fn the_middle_pair_is_told_and_how_far_the_others_are() {
        let load = Load::Closed { concurrency: 64 };
        let (middle, spread, others) = super::middle(turns(load, &[(1000.0, 900.0), (500.0, 400.0), (2000.0, 1000.0)]));
        assert_eq!((middle.other.unwrap().per_second, middle.ours.per_second), (500.0, 400.0));
        assert_eq!(others.len(), 2);
        assert_eq!(spread.to_string(), "64: 400 to 1000/s, 0.50 to 0.90 of the other");
    }

    #[test]
    fn an_open_loop_is_compared_by_its_latency() {
        let (middle, spread, _) =
            super::middle(turns(Load::Open { per_second: 100.0 }, &[(10.0, 30.0), (10.0, 10.0), (10.0, 20.0)]));
        assert_eq!(middle.ours.seen.p50_ms, 20.0);
        assert_eq!(spread.to_string(), "100/s: p50 1.00 to 3.00 of the other's");
    }
}
