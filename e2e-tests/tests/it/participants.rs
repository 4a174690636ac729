//! `sagactl participant check` against the participants of the platform, and the way in for those of others.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::Result;
use e2e_tests::Standalone;
use serde_json::Value;

const PAY_FIRST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../flows/pay-first.v1.yaml");

#[tokio::test]
async fn the_payment_and_the_inventory_service_keep_the_rules_of_participants() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let client = standalone.client()?;

    for (step, not_held) in [("PAYMENT_CHARGE", &["restart"][..]), ("INVENTORY_RESERVE", &["agrees", "restart"])] {
        let check = ["participant", "check", PAY_FIRST, "--step", step, "--patience", "30s", "--json"];
        let checked = client.sagactl(&check).await?;

        assert_eq!(checked.code, 0, "{checked:?}");
        let mut not_tried = Vec::new();
        for line in checked.stdout.lines() {
            let line: Value = serde_json::from_str(line)?;
            match line["result"].as_str() {
                Some("holds") => {}
                result => {
                    not_tried.push((line["rule"].as_str().unwrap_or_default().to_owned(), result == Some("not tried")))
                }
            }
        }
        assert_eq!(not_tried, not_held.iter().map(|rule| ((*rule).to_owned(), true)).collect::<Vec<_>>());
    }
    Ok(())
}

#[tokio::test]
async fn a_step_that_no_participant_carries_out_can_not_be_checked() -> Result<()> {
    let client = e2e_tests::shared().await?;

    let checked = client.sagactl(&["participant", "check", PAY_FIRST, "--step", "ORDER_CREATE"]).await?;

    assert_eq!(checked.code, 2, "{checked:?}");
    assert!(checked.stderr.contains("these do: PAYMENT_CHARGE, INVENTORY_RESERVE"), "{checked:?}");
    Ok(())
}

#[tokio::test]
async fn standalone_writes_its_kafkas_address_for_programs_that_join_in() -> Result<()> {
    let standalone = Standalone::start(&[]).await?;
    let file = standalone.data_dir().join("kafka");

    let address = std::fs::read_to_string(&file)?;

    assert!(standalone.output().contains(&format!(" at {}. Stop with Ctrl-C.", address.trim_end())), "{address}");
    assert_eq!(std::fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    Ok(())
}
