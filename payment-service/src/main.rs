//! The payment service as a process of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    service_runtime::program::run_service("payment-service", &payment_service::DEFAULTS, payment_service::run)
}
