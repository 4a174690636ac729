//! Static members of a consumer group, on real Kafka: the embedded broker shuts nobody out.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e_tests::{Instance, Layout, Service, Services, eventually, real_kafka};

const LIMIT: Duration = Duration::from_secs(60);

#[tokio::test]
async fn of_two_instances_with_one_group_instance_id_one_ends_and_the_other_serves() -> Result<()> {
    if real_kafka().is_none() {
        println!("left out: the embedded broker shuts nobody out");
        return Ok(());
    }
    let layout = Layout { instances: 2, ..Layout::ONE_OF_EACH };
    let mut services = Services::lay_out(layout, &[]).await?;
    services.start_all().await?;
    let client = services.client()?;
    let twins = [1, 2].map(|number| Instance { service: Service::Payment, number });
    // From now on both have the name of the first.
    services.set("KAFKA_GROUP_INSTANCE_ID", "1");
    services.stop(twins[1]).await?;
    services.launch(twins[1])?;

    let one_ends = async || {
        for twin in twins {
            if services.has_ended(twin)?.is_some_and(|status| !status.success()) {
                return Ok(Some(twin));
            }
        }
        Ok(None)
    };
    let ended = eventually("one of the two ends", LIMIT, one_ends).await?;
    let log = services.log(ended)?;
    ensure!(log.contains("has shut this instance out twice") && log.contains("KAFKA_GROUP_INSTANCE_ID"), "{log}");

    let completes = async || {
        let answer = client.checkout(&serde_json::json!({"userId": "u1", "totalAmount": 5})).await?;
        Ok((answer.status == 200).then_some(()))
    };
    eventually("the other one serves", LIMIT, completes).await
}
