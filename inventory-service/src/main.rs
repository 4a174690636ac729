//! The inventory service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::run_service("inventory-service", &inventory_service::DEFAULTS, inventory_service::run)
}
