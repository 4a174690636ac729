//! Recovery: what `saga-orchestrator/src/sweeper.rs` does with what `claim_due` of its store finds. A sweep that would
//! find nothing is left out: a process looks when something may be due, at a random moment of its tick.

use saga_orchestrator::saga::{Attention, State};

use crate::coverage::Seen;
use crate::pending::Work;
use crate::plan::Service;
use crate::world::{ProcessId, World};
use saga_orchestrator::rehearsal::clock::{ms_of, timestamp};
use saga_orchestrator::rehearsal::dice::Statement;

/// `resend_first_ms`, `resend_max_ms`, `attention_after`, and the sweeper's tick.
pub const RESEND_FIRST: u64 = 2_000;
const RESEND_MOST: u64 = 10_000;
const ATTENTION_AFTER: u32 = 10;
const TICK: u64 = 250;

impl World {
    /// Something is due then: who is up will look.
    pub fn wake_sweepers(&mut self, due: u64) {
        for process in self.live(Service::Orchestrator) {
            self.expect_sweep(process, due);
        }
    }

    /// Lets a process look within a tick after `due`.
    pub fn expect_sweep(&mut self, process: ProcessId, due: u64) {
        let at = due.max(self.now) + self.dice.between(0, TICK);
        if self.processes[process].sweeps_at.is_none_or(|earlier| at < earlier) {
            self.processes[process].sweeps_at = Some(at);
            self.later(process, at - self.now, Work::Sweep);
        }
    }

    pub fn sweep(&mut self, process: ProcessId) {
        // Another look has been brought forward, and has been.
        if self.processes[process].sweeps_at.is_none_or(|at| self.now < at) {
            return;
        }
        self.processes[process].sweeps_at = None;
        let statement = self.statement(Service::Orchestrator);
        if statement == Statement::Fails {
            return self.expect_sweep(process, self.now + TICK);
        }
        for saga in 0..self.databases.sagas.len() {
            let claimed = self.claim(saga);
            // A claim whose answer is lost has no effect, and is due again later.
            if claimed && statement == Statement::Works {
                self.repeat(process, saga);
            }
        }
        let active = self.databases.sagas.iter().flatten().filter(|row| !row.saga.state.has_ended());
        if let Some(due) = active.map(|row| row.next_attempt_at).min() {
            self.expect_sweep(process, due);
        }
    }

    /// `store.rs`, `claim_due`, of one saga: whether it was due. Its next attempt is noted.
    fn claim(&mut self, saga: usize) -> bool {
        let chance = self.dice.between(0, 250);
        let Some(row) = self.databases.sagas[saga].as_mut() else { return false };
        if row.saga.state.has_ended() || row.next_attempt_at > self.now {
            return false;
        }
        row.attempts += 1;
        let pause = (RESEND_FIRST << row.attempts.min(20)).min(RESEND_MOST);
        let next = self.now + pause - pause * chance / 1_000;
        let deadline = row.saga.deadline.map(ms_of);
        row.next_attempt_at = deadline.filter(|deadline| *deadline > self.now).map_or(next, |limit| limit.min(next));
        if deadline.is_none() && row.attempts >= ATTENTION_AFTER && row.saga.attention.is_none() {
            let reason = format!("{} was repeated {} times without success", row.saga.step_name(), row.attempts);
            row.saga.attention = Some(Attention { since: timestamp(self.now), reason });
            self.saw(Seen::NeedsAttention);
            self.call_operator(saga);
        }
        true
    }

    /// `sweeper.rs`, `repeat`.
    fn repeat(&mut self, process: ProcessId, saga: usize) {
        let Some(claimed) = self.databases.sagas[saga].as_ref().map(|row| row.saga.clone()) else { return };
        let now = timestamp(self.now);
        if claimed.deadline.is_some_and(|deadline| deadline <= now) {
            self.trace(|| format!("orchestrator {process}: saga {saga}: {claimed} has timed out"));
            debug_assert!(matches!(claimed.state, State::Running { .. }), "only a forward step has a deadline");
            return self.time_out(process, saga, now);
        }
        self.saw(Seen::Repetition);
        self.trace(|| format!("orchestrator {process}: saga {saga}: {claimed} is repeated"));
        self.perform(process, &claimed);
    }
}
