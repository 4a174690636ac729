//! The descriptions of the interfaces in `docs/` against the code that they are made from.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

/// Compares a file in `docs/` with what it should be. With `UPDATE_DOCS` set it is written.
fn check(name: &str, wanted: &str) -> Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a workspace")?.join("docs");
    let (path, wanted) = (docs.join(name), format!("{}\n", wanted.trim_end()));
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().context("a folder")?)?;
        std::fs::write(&path, &wanted)?;
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let refresh = "UPDATE_DOCS=1 cargo test -p e2e-tests --test it descriptions";
    ensure!(found == wanted, "docs/{name} is not what the code says. Refresh it: {refresh}");
    Ok(())
}

#[test]
fn the_descriptions_of_the_http_interfaces_are_those_of_the_code() -> Result<()> {
    for (service, described) in [
        ("saga-orchestrator", saga_orchestrator::openapi()),
        ("order-service", order_service::openapi()),
        ("payment-service", payment_service::openapi()),
        ("inventory-service", inventory_service::openapi()),
    ] {
        check(&format!("openapi/{service}.json"), &described.to_pretty_json()?)?;
    }
    Ok(())
}
