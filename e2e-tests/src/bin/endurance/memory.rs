//! How much memory the services' processes take.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e2e_tests::Instance;

/// In KiB.
pub const MIB: u64 = 1024;

/// Resident memory of each process, in KiB: now, and at most so far.
#[derive(Clone)]
pub struct Memory {
    processes: Vec<(Instance, u32)>,
    peak: Arc<Mutex<BTreeMap<Instance, u64>>>,
}

impl Memory {
    /// Looks once a second from now on.
    pub fn watch(processes: Vec<(Instance, u32)>) -> Self {
        let memory = Self { processes, peak: Arc::default() };
        let watched = memory.clone();
        tokio::spawn(async move {
            loop {
                watched.look();
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        });
        memory
    }

    /// What each takes now.
    pub fn now(&self) -> BTreeMap<Instance, u64> {
        self.processes.iter().filter_map(|(instance, pid)| Some((*instance, resident(*pid)?))).collect()
    }

    /// The most that each took since the last call.
    pub fn take_peak(&self) -> BTreeMap<Instance, u64> {
        self.look();
        std::mem::take(&mut self.peak.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn look(&self) {
        let mut peak = self.peak.lock().unwrap_or_else(PoisonError::into_inner);
        for (instance, now) in self.now() {
            let most = peak.entry(instance).or_default();
            *most = now.max(*most);
        }
    }
}

/// "saga-orchestrator 31, payment-service 25 MiB".
pub fn in_words(memory: &BTreeMap<Instance, u64>) -> String {
    let each: Vec<String> = memory.iter().map(|(instance, kib)| format!("{instance} {}", kib / MIB)).collect();
    format!("{} MiB", each.join(", "))
}

/// `VmRSS` of proc_pid_status(5), which is in KiB.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}
