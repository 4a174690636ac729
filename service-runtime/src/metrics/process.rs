//! What the whole process uses. In `standalone` all services share one, and each shows the same.

use std::time::Duration;

use prometheus::{Counter, IntGauge, Registry};
use rustix::time::{ClockId, clock_gettime};

use super::{VALID, registered};

/// Under the names that Prometheus' own client libraries give it.
#[derive(Clone)]
pub(super) struct Process {
    cpu_seconds: Counter,
    resident_bytes: IntGauge,
}

impl Process {
    pub(super) fn in_registry(registry: &Registry) -> Self {
        let cpu = Counter::new("process_cpu_seconds_total", "Processor time of the whole process, in seconds.");
        let resident =
            IntGauge::new("process_resident_memory_bytes", "Resident memory of the whole process, in bytes.");
        Self {
            cpu_seconds: registered(registry, cpu.expect(VALID)),
            resident_bytes: registered(registry, resident.expect(VALID)),
        }
    }

    /// Brings them up to date.
    pub(super) fn look(&self) {
        self.cpu_seconds.inc_by((cpu_time().as_secs_f64() - self.cpu_seconds.get()).max(0.0));
        if let Some(bytes) = resident_bytes() {
            self.resident_bytes.set(bytes);
        }
    }
}

/// Of all threads, since the process began.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// `VmRSS` of proc_pid_status(5), which is in KiB. `None` where there is no such file.
fn resident_bytes() -> Option<i64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.trim().parse::<i64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::super::Metrics;

    #[tokio::test]
    async fn the_process_is_measured() {
        let text = Metrics::of("s").text().await;
        let value = |name: &str| -> f64 {
            let line = text.lines().find(|line| line.starts_with(name)).unwrap();
            line.split(' ').nth(1).unwrap().parse().unwrap()
        };
        assert!(value("process_cpu_seconds_total") > 0.0, "{text}");
        assert!(value("process_resident_memory_bytes") > 100_000.0, "{text}");
    }
}
