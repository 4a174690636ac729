//! The order service as a process of its own.

use std::process::ExitCode;

#[tokio::main]
async fn main() -> ExitCode {
    service_runtime::program::run_service("order-service", &order_service::DEFAULTS, order_service::run).await
}
