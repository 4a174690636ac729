//! Some thousands of seeds, and that they see what they are meant to see. `.ci/run` runs many more.

use simulation::{Coverage, Seen, run};

const SEEDS: u64 = 4_000;

#[test]
fn no_seed_breaks_a_rule_and_every_danger_is_met() {
    let mut coverage = Coverage::default();
    for seed in 0..SEEDS {
        let run = run(seed, false);
        assert_eq!(run.violation, None, "cargo run --bin simulation -- --seed {seed} --trace");
        coverage.merge(&run.coverage);
    }
    let missed: Vec<&str> = Seen::ALL.iter().filter(|seen| coverage.of(**seen) == 0).map(|seen| seen.words()).collect();
    assert_eq!(missed, Vec::<&str>::new(), "not seen in {SEEDS} seeds");
}

#[test]
fn a_seed_is_the_same_run_each_time() {
    for seed in 0..200 {
        let (first, second) = (run(seed, true), run(seed, true));
        assert_eq!(first.trace, second.trace, "seed {seed}");
        assert_eq!(first.trace_hash, second.trace_hash, "seed {seed}");
        assert_eq!(first.trace_hash, run(seed, false).trace_hash, "seed {seed}: reading along changed the run");
    }
}

#[test]
fn seeds_are_different_runs() {
    let mut hashes: Vec<u64> = (0..1_000).map(|seed| run(seed, false).trace_hash).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 1_000);
}
