//! What a seed decides before anything happens: the sagas, how often each kind of fault strikes, and the longer
//! disturbances. Each kind is left out of about half of the seeds, so that the others are met undisturbed as well.

use flow::{Request, Role};
use messages::{OrderId, SagaId};
use uuid::Uuid;

use super::dice::{Dice, Rate};
use super::script::Script;

/// A client's request.
#[derive(Debug)]
pub struct Planned {
    pub at: u64,
    pub saga_id: SagaId,
    /// What the saga is about.
    pub subject: OrderId,
    pub request: Request,
}

/// How often faults strike that are a matter of a moment.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// An orchestrator dies instead of taking its next step.
    pub crash: Rate,
    /// A statement of the orchestrator fails: half of these before, half after it took effect.
    pub statement: Rate,
    pub command_lost: Rate,
    pub command_doubled: Rate,
    /// A participant dies: before its row is stored, or between row and reply.
    pub participant_dies: Rate,
    pub reply_doubled: Rate,
    /// A reply is accompanied by one that contradicts its saga.
    pub forged: Rate,
    pub refused: Rate,
    /// A participant reports progress before it decides.
    pub progress: Rate,
    /// Something takes up to `slow` ms instead of some.
    pub delay: Rate,
    pub slow: u64,
}

impl Rates {
    fn new(dice: &mut Dice, slow: u64, may_wait: bool) -> Self {
        // In one seed in eight all strike often.
        let scale = dice.pick(&[1, 1, 1, 1, 1, 2, 2, 5]);
        let mut rate = |per_mille: u32| {
            let struck = dice.chance(Rate::percent(50));
            if struck { Rate::per_mille(per_mille * scale) } else { Rate::NEVER }
        };
        Self {
            crash: rate(12),
            statement: rate(12),
            command_lost: rate(60),
            command_doubled: rate(80),
            participant_dies: rate(60),
            reply_doubled: rate(60),
            forged: rate(40),
            refused: rate(120),
            delay: rate(60),
            slow,
            progress: if may_wait { rate(350) } else { Rate::NEVER },
        }
    }

    /// What happens when no fault does.
    pub const fn calm(&self) -> Self {
        let never = Rate::NEVER;
        Self {
            crash: never,
            statement: never,
            command_lost: never,
            command_doubled: never,
            participant_dies: never,
            reply_doubled: never,
            forged: never,
            delay: never,
            ..*self
        }
    }
}

/// What strikes at a time of its own.
#[derive(Debug, Clone, Copy)]
pub enum Disturbance {
    /// The participant of a step answers nothing until then, to its action or to its undo.
    Silence { step: usize, of_undo: bool, until: u64 },
    /// Both orchestrators die, and are away until then.
    Outage { until: u64 },
    /// An operator steps in, or the owner.
    Operate { saga: usize, act: Act },
}

/// What a person does to a saga.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    Cancel(Role),
    Retry,
    /// Only of what needs attention.
    Resolve,
}

pub struct Plan {
    pub sagas: Vec<Planned>,
    pub rates: Rates,
    /// When the faults end.
    pub calm_at: u64,
    /// When which begins.
    pub disturbances: Vec<(u64, Disturbance)>,
}

impl Plan {
    pub fn new(dice: &mut Dice, script: &Script) -> Self {
        let times = script.times;
        let may_wait = script.flow.may_wait();
        let usual = 10_000.max(4 * times.first);
        // Long enough that faults strike while a saga waits.
        let mut calm_at = dice.between(1_000, if may_wait { usual.max(2 * times.longest) } else { usual });
        let mut disturbances = Vec::new();
        let asking: Vec<usize> = (0..script.flow.steps.len()).filter(|step| is_asking(script, *step)).collect();
        let is_long = dice.chance(Rate::percent(35));
        let slow = if is_long { times.longest + times.longest / 2 } else { 3_000 };
        if is_long {
            // Long enough that a limit passes, or that a person is called.
            let (from, step) = (dice.between(0, 1_500), dice.pick(&asking));
            let of_undo = script.flow.steps[step].undo.is_some() && dice.chance(Rate::percent(40));
            let until = match of_undo {
                true => from + times.first + dice.between(times.most, 14 * times.most),
                false => from + dice.between(times.longest / 2, 2 * times.longest),
            };
            calm_at = calm_at.max(until);
            let disturbance = match dice.between(0, 5) {
                0 => Disturbance::Outage { until },
                _ => Disturbance::Silence { step, of_undo, until },
            };
            disturbances.push((from, disturbance));
        }
        let count = dice.pick(&[1, 1, 1, 1, 2, 2, 3]);
        let sagas = (0..count).map(|index| Planned::new(dice, script, index, calm_at)).collect();
        let rates = Rates::new(dice, slow, may_wait);
        for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2]) {
            let from = dice.between(0, if may_wait { calm_at } else { calm_at.min(5_000) });
            let (until, step) = (from + dice.between(100, 6_000), dice.pick(&asking));
            let (saga, of_undo) = (dice.between(0, count - 1) as usize, dice.chance(Rate::percent(30)));
            let disturbance = match dice.between(0, 5) {
                0 => Disturbance::Outage { until },
                1 | 2 => Disturbance::Silence { step, of_undo, until },
                3 => Disturbance::Operate { saga, act: Act::Retry },
                4 => Disturbance::Operate { saga, act: Act::Cancel(Role::Owner) },
                _ => Disturbance::Operate { saga, act: Act::Cancel(Role::Operator) },
            };
            disturbances.push((from, disturbance));
        }
        Self { sagas, rates, calm_at, disturbances }
    }
}

/// Whether the step has a participant. Its pivot has one in every flow.
fn is_asking(script: &Script, step: usize) -> bool {
    script.flow.steps[step].question().is_some()
}

impl Planned {
    fn new(dice: &mut Dice, script: &Script, index: u64, calm_at: u64) -> Self {
        // An id's last byte is its saga's place.
        let mut id = || Uuid::from_u64_pair(dice.bits(), dice.bits() & !0xff | index);
        let (saga_id, subject) = (id().into(), id().into());
        let request = dice.between(0, script.requests.len() as u64 - 1) as usize;
        Self { at: dice.between(0, calm_at.min(2_000)), saga_id, subject, request: script.requests[request].clone() }
    }
}

/// A saga's place in the plan.
pub fn place_of(saga_id: SagaId) -> usize {
    usize::from(saga_id.as_uuid().as_bytes()[15])
}
