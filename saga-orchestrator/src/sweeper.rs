//! Finds sagas whose next effect is overdue and repeats it, or times the step out. It is the whole of recovery: a
//! saga that a dead process left behind is one more saga whose effect is overdue.

use std::sync::Arc;
use std::time::Duration;

use service_runtime::CancellationToken;
use sqlx::PgPool;
use tracing::{debug, error, warn};

use crate::SagaSettings;
use crate::coordinator::Coordinator;
use crate::saga::InputKind;
use crate::store::{Due, Resending, Stored, claim_due};

/// How often the sweeper looks. A look that finds nothing reads one small index.
const TICK: Duration = Duration::from_millis(250);

/// Sweeps until `stop`.
pub async fn run(coordinator: Arc<Coordinator>, pool: PgPool, settings: &SagaSettings, stop: CancellationToken) {
    let resending = Resending {
        first: Duration::from_millis(settings.resend_first_ms.into()),
        most: Duration::from_millis(settings.resend_max_ms.into()),
        attention_after: settings.attention_after,
    };
    let limit = (f64::from(settings.resend_per_second) * TICK.as_secs_f64()).ceil().max(1.0) as i64;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        match claim_due(&pool, limit, resending).await {
            Ok(due) => due.into_iter().for_each(|due| repeat(&coordinator, due)),
            // The database is away; the log says so where statements are issued, and readiness tells.
            Err(error) => debug!(%error, "sweeping"),
        }
    }
}

fn repeat(coordinator: &Arc<Coordinator>, due: Due) {
    let saga = match due.saga {
        Stored::Saga(saga) => saga,
        Stored::UnknownDefinition { name, version } => {
            return error!(name, version, "a saga runs by a definition that this release does not know: not touched");
        }
    };
    let saga_id = saga.saga_id;
    if !due.deadline_passed {
        debug!(%saga_id, state = %saga, "repeating");
        return coordinator.perform(&saga);
    }
    let coordinator = coordinator.clone();
    tokio::spawn(async move {
        // It stays due if this fails.
        if let Err(error) = coordinator.apply(saga_id, &InputKind::DeadlinePassed.into(), due.now).await {
            warn!(%saga_id, %error, "a timed-out step can't be compensated yet");
        }
    });
}
