//! The order service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::run_service("order-service", &order_service::DEFAULTS, order_service::run)
}
