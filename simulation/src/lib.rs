//! A simulation of the whole platform, in one thread and without a clock: the real core and the real decisions of the
//! participants, on a simulated network, clock and databases. A seed decides everything that happens, the faults
//! first of all; after each step and at the end the rules of `docs/ARCHITECTURE.md` are checked.
//!
//! - `plan`: what a seed decides beforehand;
//! - `world`, `pending`: the clock, the processes, and what happens next;
//! - `orchestrator`, `calls`, `sweeper`, `order`, `payment`, `inventory`, `kafka`, `databases`: the shells of the
//!   services, imitated, each file with the name of what it imitates, around the decisions, which are the real ones;
//! - `forged`: replies of a participant that does something else than it is asked for;
//! - `disturbances`, `operator`: crashes, restarts, outages, and people who step in;
//! - `invariants`: the rules;
//! - `coverage`: what was seen;
//! - `fingerprint`: a hash of all that the core decided, to compare two cores.

mod calls;
mod coverage;
mod databases;
mod disturbances;
mod fingerprint;
mod forged;
mod invariants;
mod inventory;
mod kafka;
mod operator;
mod orchestrator;
mod order;
mod payment;
mod pending;
mod plan;
mod sweeper;
mod trace;
mod world;

pub use coverage::{Coverage, Seen};

use crate::fingerprint::Fingerprint;
use crate::trace::Trace;
use crate::world::World;

/// What became of a seed.
#[derive(Debug)]
pub struct Run {
    /// The rule that was broken, if one was.
    pub violation: Option<String>,
    pub coverage: Coverage,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// A hash of every move and every command, if it was asked for.
    pub fingerprint: Option<u64>,
    /// What happened, in words, if that was asked for.
    pub trace: Vec<String>,
    /// How long it took by the simulated clock, in ms.
    pub simulated: u64,
}

/// Runs a seed: always the same run for the same seed. With `in_words` it also tells what happened.
pub fn run(seed: u64, in_words: bool) -> Run {
    finish(World::new(seed, Trace::new(in_words)))
}

/// Runs a seed, and takes the fingerprint of what the core decided.
pub fn run_with_fingerprint(seed: u64) -> Run {
    let mut world = World::new(seed, Trace::new(false));
    world.fingerprint = Fingerprint::wanted();
    finish(world)
}

fn finish(mut world: World) -> Run {
    world.run();
    let World { violation, coverage, trace, fingerprint, now, .. } = world;
    let (trace_hash, fingerprint) = (trace.hash(), fingerprint.finish());
    Run { violation, coverage, trace_hash, fingerprint, trace: trace.into_lines(), simulated: now }
}
