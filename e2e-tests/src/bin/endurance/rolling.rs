//! Every process is restarted in turn, as for a new release, while checkouts come: nobody notices.

use std::time::Duration;

use anyhow::Result;

use crate::several::Several;

/// By when every client has to have its answer.
const LATEST_ANSWER: Duration = Duration::from_secs(5);

/// Between two restarts.
const BETWEEN: Duration = Duration::from_secs(3);

/// How long a stop may take.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// Answers what is wrong.
pub async fn run(instances: usize, calm: Duration, rate: u32) -> Result<Vec<String>> {
    let mut several = Several::start("rolling", instances, rate).await?;
    tokio::time::sleep(BETWEEN).await;
    let mut wrong = several.calm(calm).await;
    let (whole, mut parts) = (several.span(), Vec::new());
    for instance in several.services.instances() {
        let span = several.span();
        let ended = several.services.stop(instance).await?;
        several.services.start_again(instance).await?;
        let (stop, back) = (ended.after.as_millis(), span.began.elapsed().as_millis());
        tokio::time::sleep(BETWEEN).await;
        parts.push(several.part(span, format!("{instance} stopped in {stop} ms, ready again after {back} ms")));
        if !ended.status.success() || ended.after > STOP_LIMIT {
            wrong.push(format!("{instance} ended with {} after {:?}", ended.status, ended.after));
        }
    }
    parts.push(several.part(whole, "all restarts".to_owned()));
    wrong.extend(several.calm(calm).await);
    let (served, found) = several.ended().await?;
    parts.iter().for_each(|part| println!("{}", part.told(&served).0));
    wrong.extend(found);
    let late = served.iter().filter(|one| one.took > LATEST_ANSWER).count();
    if late > 0 {
        wrong.push(format!("{late} answers came later than {LATEST_ANSWER:?}"));
    }
    several.over(wrong)
}
