//! The saga orchestrator as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::run_service("saga-orchestrator", &saga_orchestrator::DEFAULTS, saga_orchestrator::run)
}
