//! Finds sagas whose next effect is overdue and repeats it, or times the step out. It is the whole of recovery: a
//! saga that a dead process left behind is one more saga whose effect is overdue.

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
    let limit = (f64::from(settings.resend_per_second) * TICK.as_secs_f64()).ceil().max(1.0) as i64;
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
            let may_wait = versions.iter().any(|flow| flow.may_wait());
            for sweep in [Sweep::Running, Sweep::Waiting].into_iter().take(1 + usize::from(may_wait)) {
                let claim = claim_due(&session, &coordinator.flows, sweep, limit, &versions);
                let claimed = tokio::select! {
                    () = stop.cancelled() => return,
                    claimed = within_limit(claim) => claimed,
                };
                match claimed {
                    Ok(due) => due.into_iter().for_each(|due| repeat(&coordinator, due)),
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
