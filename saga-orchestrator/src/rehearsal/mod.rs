//! A simulation of a flow: the real core ([`crate::saga`]) runs its sagas against modelled participants, in one thread and
//! without a clock. A seed decides all that happens, the faults first of all. At each move, each send and each reply, and
//! at the end, the rules of `docs/ARCHITECTURE.md` are checked. They hold for every flow.
//!
//! - `script`: what is known of the flow beforehand: requests, replies, times;
//! - `plan`: what a seed decides beforehand;
//! - [`clock`], [`dice`]: the modelled clock, and the chance that a seed decides; the crate `simulation` runs by them too;
//! - `world`: the clock, the processes, and what happens next;
//! - `orchestrator`, `applying`, `matching`, `row`: the coordinator's shell, imitated, around the core, and what it stores;
//! - `participant`: the participants, by the rules of `docs/participants.md`, and replies that contradict their saga;
//! - `outside`: who sends the signals that sagas wait for;
//! - `rules`, `moves`: what must hold;
//! - `coverage`: what was seen; `fault`: defects that tests plant.

mod applying;
pub mod clock;
mod coverage;
pub mod dice;
mod fault;
mod matching;
mod moves;
mod orchestrator;
mod outside;
mod participant;
mod plan;
mod row;
mod rules;
mod script;
mod world;

pub use self::coverage::{Coverage, Seen};
#[cfg(test)]
pub use self::fault::Fault;
pub use self::script::{NotRehearsed, Script};
use self::world::World;

/// What became of a seed.
#[derive(Debug)]
pub struct Run {
    /// The rule that was broken, if one was.
    pub violation: Option<String>,
    /// What was seen, and how the sagas ended.
    pub coverage: Coverage,
    /// What happened, in words, if that was asked for.
    pub lines: Vec<String>,
    /// How long it took by the modelled clock, in ms.
    pub modelled: u64,
}

/// A seed that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    /// [`Script::run`] repeats it exactly.
    pub seed: u64,
    /// The rule, and what breaks it.
    pub rule: String,
}

impl Script {
    /// Runs a seed: always the same run for the same seed. `in_words`: with what happened.
    pub fn run(&self, seed: u64, in_words: bool) -> Run {
        let mut unlimited = u64::MAX;
        self.run_within(seed, in_words, &mut unlimited)
    }

    /// Takes its work from `work`. Where that is used up the run ends, and nothing is said of what was still to come.
    fn run_within(&self, seed: u64, in_words: bool, work: &mut u64) -> Run {
        let mut world = World::new(self, seed, in_words, *work);
        world.run();
        *work = world.work;
        let World { violation, mut coverage, lines, now, .. } = world;
        coverage.seeds = 1;
        Run { violation, coverage, lines: lines.unwrap_or_default(), modelled: now }
    }

    /// Runs the seeds from 0 on. `goes_on` is asked before each, with how many have been run.
    ///
    /// # Errors
    /// The first seed that breaks a rule.
    pub fn rehearse(&self, seeds: u64, mut goes_on: impl FnMut(u64) -> bool) -> Result<Coverage, Broken> {
        self.rehearse_some(seeds, u64::MAX, |seed, _| goes_on(seed))
    }

    /// Runs the seeds from 0 on, as many as `work` allows for, the last one in part. It is about the bytes that are copied: a
    /// thousand for each event, and those of the sagas and their messages. The same seeds take the same work each time.
    ///
    /// # Errors
    /// The first seed that breaks a rule.
    pub fn rehearse_within(&self, seeds: u64, work: u64) -> Result<Coverage, Broken> {
        self.rehearse_some(seeds, work, |_, left| left > 0)
    }

    fn rehearse_some(
        &self,
        seeds: u64,
        mut work: u64,
        mut goes_on: impl FnMut(u64, u64) -> bool,
    ) -> Result<Coverage, Broken> {
        let mut coverage = Coverage::default();
        for seed in 0..seeds {
            if !goes_on(seed, work) {
                break;
            }
            let run = self.run_within(seed, false, &mut work);
            if let Some(rule) = run.violation {
                return Err(Broken { seed, rule });
            }
            coverage.merge(&run.coverage);
        }
        Ok(coverage)
    }
}

#[cfg(test)]
mod tests;
