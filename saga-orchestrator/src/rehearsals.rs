//! Simulates flows before they are published. The seeds and the amount of work are the same each time, so a file passes or
//! does not, however busy the machine is. One flow at a time: a flood of files takes one core.

use std::sync::Arc;

use flow::Flow;
use service_runtime::http::{Finding, Problem};
use tokio::sync::Semaphore;
use tracing::info;

use crate::rehearsal::{Broken, Coverage, Script};

/// Seeds that are run at most. `sagactl flow simulate` runs as many as one wants.
const SEEDS: u64 = 100;

/// About the bytes that are copied at most, see [`Script::rehearse_within`]: 100 seeds of the trip take about 20 million.
const WORK: u64 = 32_000_000;

/// A place to simulate in.
pub struct Rehearsals(Arc<Semaphore>);

impl Default for Rehearsals {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(1)))
    }
}

impl Rehearsals {
    /// What a simulation finds wrong with a flow.
    ///
    /// # Errors
    /// 500 when it could not be run.
    pub async fn of(&self, flow: &Arc<Flow>) -> Result<Option<Finding>, Problem> {
        let place = self.0.clone().acquire_owned().await;
        let place = place.map_err(|closed| Problem::internal(&closed.to_string().into()))?;
        let flow = flow.clone();
        let found = tokio::task::spawn_blocking(move || {
            // Until the work ends, also where the client has gone.
            let _place = place;
            match Script::of(&flow, None) {
                Ok(script) => found(&script),
                // Nothing is wrong with the flow: no value was found that fits its shapes.
                Err(why) => {
                    info!(flow = flow.name, version = flow.version, %why, "a flow is published without a simulation");
                    None
                }
            }
        });
        found.await.map_err(|panic| Problem::internal(&format!("a flow can't be simulated: {panic}").into()))
    }
}

/// The seed that breaks a rule, as a finding.
fn found(script: &Script) -> Option<Finding> {
    let flow = script.flow();
    match script.rehearse_within(SEEDS, WORK) {
        Ok(Coverage { seeds, ends, .. }) => {
            info!(flow = flow.name, version = flow.version, seeds, ?ends, "a flow was simulated");
            None
        }
        Err(Broken { seed, rule }) => {
            let message = format!(
                "seed {seed} of its simulation breaks a rule: {rule}. `sagactl flow simulate FILE --seed {seed}` shows all that happens in it"
            );
            Some(Finding { line: 1, column: 1, rule: "simulation", message })
        }
    }
}

#[cfg(test)]
mod tests {
    use flow::{Origin, check};

    use super::*;
    use crate::rehearsal::Fault;

    const TRIP: &str = include_str!("../../examples/trip/trip.v1.yaml");

    #[test]
    fn a_seed_that_breaks_a_rule_is_a_finding_that_names_it() {
        let mut script = Script::of(&check(TRIP, Origin::User).unwrap(), None).unwrap();
        assert!(found(&script).is_none());
        let enough = script.rehearse_within(SEEDS, WORK).unwrap();
        assert_eq!(enough.seeds, SEEDS, "the work is enough for all seeds of a usual flow");

        script.fault = Some(Fault::UndoSkipped);
        let found = found(&script).unwrap();

        assert_eq!((found.rule, found.line), ("simulation", 1));
        assert!(found.message.starts_with("seed ") && found.message.contains(" --seed "), "{}", found.message);
    }

    #[test]
    fn a_flow_whose_messages_are_large_is_simulated_with_as_much_work_as_another() {
        let large = "x".repeat(40_000);
        let text = TRIP.replacen("guest: $input.traveller", &format!("guest: $input.traveller, note: {large}"), 1);
        let (text, _its_tests) = text.split_once("\ntests:").unwrap();
        let script = |text: &str| Script::of(&check(text, Origin::User).unwrap(), None).unwrap();
        let (large, work) = (script(text), WORK / 8);
        let some = large.rehearse_within(SEEDS, work).unwrap();
        let more = script(TRIP).rehearse_within(SEEDS, work).unwrap();
        assert!(1 < some.seeds && some.seeds < more.seeds, "{} and {}", some.seeds, more.seeds);
        assert_eq!(some, large.rehearse_within(SEEDS, work).unwrap(), "the same each time");
    }
}
