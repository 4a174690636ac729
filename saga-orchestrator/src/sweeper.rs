//! Finds sagas whose next effect is overdue and repeats it, or times the step out. It is the whole of recovery: a
//! saga that a dead process left behind is one more saga whose effect is overdue.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use faults::Bug;
use service_runtime::CancellationToken;
use service_runtime::database::{Session, StoreError, within_limit};
use tracing::{debug, error, info, warn};

use crate::SagaSettings;
use crate::coordinator::Coordinator;
use crate::saga::Input;
use crate::signals;
use crate::store::{Due, Stored, Sweep, claim_due};

/// How often the sweeper looks. A look that finds nothing reads one small index.
const TICK: Duration = Duration::from_millis(250);

/// Sweeps until `stop`.
pub async fn run(coordinator: Arc<Coordinator>, session: Session, settings: &SagaSettings, stop: CancellationToken) {
    let most = f64::from(settings.resend_per_second) * TICK.as_secs_f64();
    let mut paces: HashMap<String, Pace> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut sweeping = true;
    if faults::planted(Bug::SweeperOff) {
        return stop.cancelled().await;
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let mut failure = None;
        // Each flow by itself: sagas of one whose participant does not answer take nothing from the others.
        for versions in coordinator.flows.by_name() {
            let Some(name) = versions.first().map(|flow| flow.name.clone()) else { continue };
            let ignored = coordinator.counts.ignored_replies(&name);
            let pace = paces.entry(name).or_insert_with(|| Pace::new(most, ignored));
            pace.begin_tick(ignored);
            // What has timed out is not repeated: it has the whole rate.
            let late = pace.is_slowed().then_some((Sweep::Late, most));
            let waiting = versions.iter().any(|flow| flow.may_wait()).then_some((Sweep::Waiting, most));
            for (sweep, limit) in late.into_iter().chain([(Sweep::Running, pace.now)]).chain(waiting) {
                let limit = limit.ceil().max(1.0) as i64;
                let claim = claim_due(&session, &coordinator.flows, sweep, limit, &versions);
                let claimed = tokio::select! {
                    () = stop.cancelled() => return,
                    claimed = within_limit(claim) => claimed,
                };
                match claimed {
                    Ok(due) => {
                        let is_repeated = |due: &&_| matches!(due, Ok(Due { deadline_passed: false, .. }));
                        if sweep == Sweep::Running {
                            pace.repeated += due.iter().filter(is_repeated).count() as u64;
                        }
                        due.into_iter().for_each(|due| repeat(&coordinator, due));
                    }
                    Err(error) => failure = Some(error),
                }
            }
        }
        match &failure {
            Some(error) if sweeping => warn!(error = error.for_log(), "overdue sagas can't be looked for; trying on"),
            None if !sweeping => info!("overdue sagas are looked for again"),
            _ => {}
        }
        sweeping = failure.is_none();
    }
}

/// How many sagas of a flow are repeated in a tick.
///
/// After an outage all participants have queues, and what is repeated meanwhile only makes these longer: each of its replies
/// is read, ignored and noted, which costs more than a move. So the rate is halved for each second in which more replies were
/// ignored than half of what was repeated, down to a sixteenth of RESEND_PER_SECOND, and doubled for each other one.
struct Pace {
    most: f64,
    now: f64,
    ticks: u32,
    /// In this second.
    repeated: u64,
    /// Since the start, as of this second's beginning.
    ignored_before: u64,
}

impl Pace {
    /// A second.
    const TICKS: u32 = 4;
    /// Of the most.
    const SLOWEST: f64 = 1.0 / 16.0;

    const fn new(most: f64, ignored_before: u64) -> Self {
        Self { most, now: most, ticks: 0, repeated: 0, ignored_before }
    }

    const fn is_slowed(&self) -> bool {
        self.now < self.most
    }

    /// `ignored`: since the start.
    fn begin_tick(&mut self, ignored: u64) {
        self.ticks += 1;
        if self.ticks > Self::TICKS {
            let is_in_vain = (ignored - self.ignored_before) * 2 > self.repeated;
            // A few repetitions harm nobody.
            let is_much = self.repeated as f64 > self.most * f64::from(Self::TICKS) * Self::SLOWEST / 2.0;
            match is_in_vain && is_much {
                true => self.now = (self.now / 2.0).max(self.most * Self::SLOWEST),
                false => self.now = (self.now * 2.0).min(self.most),
            }
            (self.ticks, self.repeated, self.ignored_before) = (1, 0, ignored);
        }
    }
}

fn repeat(coordinator: &Arc<Coordinator>, due: Result<Due, StoreError>) {
    let due = match due {
        Ok(due) => due,
        Err(error) => return error!(error = error.for_log(), "a saga can't be repeated"),
    };
    // Only sagas of known definitions are claimed.
    let Stored::Saga(saga) = due.saga else { return };
    let saga_id = saga.saga_id;
    if let Some(attention) = saga.attention.as_ref().filter(|_| due.newly_needs_attention) {
        let (order_id, reason) = (saga.order_id, &attention.reason);
        let trace_id = saga.trace_id();
        warn!(%saga_id, %order_id, trace_id, state = %saga, reason, "a saga needs attention; it is still repeated");
    }
    faults::reached("orchestrator.claimed", saga.step_name());
    if !due.deadline_passed {
        debug!(%saga_id, state = %saga, "repeating");
        if saga.wait().is_none() {
            coordinator.counts.repeated(&saga);
        }
        return coordinator.repeat(&saga);
    }
    let coordinator = coordinator.clone();
    tokio::spawn(async move {
        if saga.wait().is_some() {
            // It may have come in time, to a process that died before it offered it.
            signals::look(&coordinator, &saga).await;
        }
        // It stays due if this fails.
        if let Err(error) = coordinator.apply(saga_id, &Input::DeadlinePassed, due.now).await {
            warn!(%saga_id, %error, "a timed-out step can't be compensated yet");
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The limits of so many seconds, in each of which so many were repeated and ignored.
    fn limits(pace: &mut Pace, seconds: &[(u64, u64)]) -> Vec<i64> {
        let mut ignored = pace.ignored_before;
        let mut limits = Vec::new();
        for (repeated, in_vain) in seconds {
            for _ in 0..Pace::TICKS {
                pace.begin_tick(ignored);
                limits.push(pace.now.round() as i64);
            }
            pace.repeated += repeated;
            ignored += in_vain;
        }
        pace.begin_tick(ignored);
        limits.push(pace.now.round() as i64);
        limits.into_iter().step_by(Pace::TICKS as usize).collect()
    }

    #[test]
    fn the_rate_falls_while_most_is_repeated_in_vain_and_comes_back() {
        let mut pace = Pace::new(250.0, 0);
        assert_eq!(limits(&mut pace, &[(1000, 0), (1000, 499), (1000, 501)]), [250, 250, 250, 125]);
        assert_eq!(limits(&mut Pace::new(250.0, 0), &[(1000, 2000); 6]), [250, 125, 63, 31, 16, 16, 16]);
        let mut slow = Pace { now: 16.0, ..Pace::new(250.0, 0) };
        assert_eq!(limits(&mut slow, &[(60, 10), (120, 0), (0, 0)]), [16, 32, 64, 128]);
    }

    #[test]
    fn a_few_repetitions_in_vain_slow_nothing_down() {
        assert_eq!(limits(&mut Pace::new(250.0, 0), &[(30, 100); 3]), [250; 4]);
    }
}
