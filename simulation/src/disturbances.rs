//! Crashes, restarts, outages, and the end of them all.

use crate::coverage::Seen;
use crate::pending::Event;
use crate::plan::{Disturbance, Service};
use crate::world::{PROCESSES_OF_A_SERVICE, ProcessId, World, service_of};
use saga_orchestrator::rehearsal::dice::Rate;

/// How long a killed consumer keeps its partitions: `kafka_session_timeout_ms`.
const SESSION_TIMEOUT: u64 = 6_000;

impl World {
    /// The process is gone, with all that it had in memory. It is started again before long.
    pub fn crash(&mut self, process: ProcessId) {
        self.saw(Seen::Crash);
        let long = self.dice.chance(Rate::percent(10));
        let down = if long { self.dice.between(1_000, 30_000) } else { self.dice.between(50, 1_500) };
        self.kill(process, self.now + down);
    }

    /// Kills a process that is started again then, at the latest when the faults end.
    fn kill(&mut self, process: ProcessId, until: u64) {
        let service = service_of(process);
        self.trace(|| format!("{service:?} {process} dies"));
        let dead = &mut self.processes[process];
        dead.up = false;
        dead.life += 1;
        dead.cache.clear();
        dead.calling.clear();
        dead.sweeps_at = None;
        self.schedule(until.min(self.calm_at), Event::Restart { process });
        let noticed = self.now + self.dice.between(100, SESSION_TIMEOUT);
        self.schedule(noticed, Event::Rebalance(service));
    }

    pub fn restart(&mut self, process: ProcessId) {
        if self.processes[process].up {
            return;
        }
        let service = service_of(process);
        self.trace(|| format!("{service:?} {process} starts"));
        self.processes[process].up = true;
        let joined = self.now + self.dice.between(10, 500);
        self.schedule(joined, Event::Rebalance(service));
        if service == Service::Orchestrator {
            self.expect_sweep(process, self.now);
        }
    }

    pub fn disturb(&mut self, disturbance: Disturbance) {
        self.trace(|| format!("{disturbance:?}"));
        match disturbance {
            Disturbance::Outage { service, until } => {
                self.saw(Seen::Outage);
                let first = service as usize * PROCESSES_OF_A_SERVICE;
                for process in first..first + PROCESSES_OF_A_SERVICE {
                    // One that is down already comes back earlier: an outage is not always complete.
                    if self.processes[process].up {
                        self.kill(process, until);
                    }
                }
            }
            Disturbance::Freeze { process, until } => {
                self.saw(Seen::Freeze);
                let (service, until) = (service_of(process), until.min(self.calm_at));
                self.processes[process].frozen_until = until;
                let noticed = self.now + self.dice.between(100, SESSION_TIMEOUT);
                self.schedule(noticed, Event::Rebalance(service));
                self.schedule(until + 1, Event::Rebalance(service));
            }
            Disturbance::DatabaseAway { service, until } => {
                self.saw(Seen::DatabaseAway);
                self.database_away_until[service as usize] = until.min(self.calm_at);
            }
            Disturbance::BrokerAway { until } => {
                self.saw(Seen::BrokerAway);
                self.broker_away_until = until.min(self.calm_at);
            }
            Disturbance::BrokerForgets => self.broker_forgets(),
            Disturbance::Rebalance { service } => {
                self.saw(Seen::Rebalance);
                self.rebalance(service);
            }
            Disturbance::CancelOrder { saga } => self.cancel_order_by_hand(saga),
            Disturbance::Operate { saga, act } => self.operate(saga, act),
        }
    }

    /// No fault strikes from now on.
    pub fn calm(&mut self) {
        self.trace(|| "the faults end".to_owned());
        self.rates = self.rates.calm();
    }
}
