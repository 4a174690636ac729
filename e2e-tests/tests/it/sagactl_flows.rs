//! `sagactl flow` beside a running platform. The flows here have names of their own, and no participants.

use anyhow::{Context as _, Result, ensure};
use e2e_tests::{Client, Ran, Scratch, shared};
use serde_json::Value;

const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

/// A file with the trip under another name, changed further.
struct File {
    _scratch: Scratch,
    path: String,
}

impl File {
    fn of(name: &str, changes: &[(&str, &str)]) -> Result<Self> {
        let mut text = TRIP.replace("flow: trip", &format!("flow: {name}")).replace("trip.", &format!("{name}."));
        for (old, new) in changes {
            ensure!(text.contains(old), "the trip has no {old:?}");
            text = text.replace(old, new);
        }
        let scratch = Scratch::new()?;
        let path = scratch.path().join(format!("{name}.yaml"));
        std::fs::write(&path, text)?;
        Ok(Self { path: path.to_str().context("a path in UTF-8")?.to_owned(), _scratch: scratch })
    }
}

async fn publish(client: &Client, file: &File, more: &[&str]) -> Result<Ran> {
    client.sagactl(&[&["flow", "publish", &file.path, "--by", "ann", "--reason", "a try"], more].concat()).await
}

#[tokio::test]
async fn a_file_is_published_once_and_another_one_under_its_version_is_refused() -> Result<()> {
    let client = shared().await?;
    let (file, other) = (File::of("stay", &[])?, File::of("stay", &[("3m", "4m")])?);

    publish(&client, &file, &[]).await?.says(0, &["stay v1  ACTIVE  0 unfinished  sha256 ", ": published"])?;
    publish(&client, &file, &[]).await?.says(0, &["stay v1  ACTIVE", "the same file is published already"])?;
    let published = publish(&client, &file, &["--json"]).await?.json()?;
    let digest = published["digest"].as_str().context("a digest")?;
    publish(&client, &other, &[]).await?.says(1, &["409", digest])?;

    let listed = client.sagactl(&["flow", "list", "--json"]).await?;
    let flows: Vec<Value> = listed.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let find = |name: &str| flows.iter().find(|flow| flow["name"] == name).context("a flow");
    assert_eq!((&find("stay")?["publishedBy"], &find("stay")?["version"]), (&"ann".into(), &1.into()));
    assert_eq!(find("pay-first")?["builtIn"], true);
    client.sagactl(&["flow", "list"]).await?.says(0, &["FLOW", "stay", "release"])?;
    let shown = client.sagactl(&["flow", "show", "stay/1"]).await?;
    shown.says(0, &["published by ann at ", ": a try", "stay.hotel.book.command", "<- HOTEL_CANCEL"])?;
    client.sagactl(&["flow", "show", "pay-first"]).await?.says(0, &["comes with the platform", "ORDER_CREATE"])?;

    client.sagactl(&["flow", "diff", &file.path]).await?.says(0, &["the same file", "0 sagas still run by v1"])?;
    let diff = client.sagactl(&["flow", "diff", "stay", &other.path]).await?;
    diff.says(1, &["reach_pivot_within: 3m -> 4m", "Both are version 1."])
}

#[tokio::test]
async fn findings_are_printed_as_the_check_prints_them_and_nothing_is_published() -> Result<()> {
    let client = shared().await?;
    let broken = File::of(
        "broken-stay",
        &[("city: $input.to, arrive", "city: $input.nowhere, arrive"), ("until: FLIGHT_TICKET }", "until: FLIGHT }")],
    )?;

    let checked = client.sagactl(&["flow", "check", &broken.path]).await?;
    let published = publish(&client, &broken, &[]).await?;

    assert_eq!((published.code, &published.stdout), (1, &checked.stdout), "{published:?}");
    ensure!(checked.stdout.lines().count() > 1, "{checked:?}");
    let json = publish(&client, &broken, &["--json"]).await?;
    assert_eq!(json.stdout, client.sagactl(&["flow", "check", "--json", &broken.path]).await?.stdout);
    client.sagactl(&["flow", "show", "broken-stay"]).await?.says(2, &["404"])?;
    client.sagactl(&["flow", "diff", &File::of("new-stay", &[])?.path]).await?.says(2, &["no version of new-stay"])
}

#[tokio::test]
async fn what_this_release_can_not_run_is_refused_by_name() -> Result<()> {
    let client = shared().await?;
    let stay = File::of("limited-stay", &[("  - step: CAR_RENT\n", "  - step: CAR_RENT\n    order: RESERVED\n")])?;

    client.sagactl(&["flow", "check", &stay.path]).await?.says(0, &["ok"])?;

    let refused = publish(&client, &stay, &[]).await?;
    refused.says(1, &[&format!("{}:", stay.path), ": not-yet: "])
}

#[tokio::test]
async fn a_version_is_activated_and_retired_with_who_did_it_and_why() -> Result<()> {
    let client = shared().await?;
    let (one, two) = (File::of("old-stay", &[])?, File::of("old-stay", &[("version: 1\n", "version: 2\n")])?);
    let act = |verb: &'static str, version: &'static str| {
        let client = client.clone();
        async move {
            let arguments = ["flow", verb, "old-stay", version, "--by", "bob", "--reason", "on second thought"];
            client.sagactl(&arguments).await
        }
    };
    publish(&client, &one, &[]).await?;

    publish(&client, &two, &["--no-activate"]).await?.says(0, &["old-stay v2  INACTIVE"])?;
    act("activate", "2").await?.says(0, &["old-stay v2  ACTIVE"])?;
    client.sagactl(&["flow", "show", "old-stay/1"]).await?.says(0, &["old-stay v1  INACTIVE"])?;
    act("retire", "2").await?.says(0, &["old-stay v2  RETIRED"])?;

    act("activate", "3").await?.says(2, &["404"])?;
    let shown = client.sagactl(&["flow", "show", "old-stay/2"]).await?;
    shown.says(0, &["v2 ACTIVATED by bob: on second thought", "v2 RETIRED by bob"])?;
    let diff = client.sagactl(&["flow", "diff", "old-stay/1", "old-stay/2", "--json"]).await?;
    assert_eq!((diff.code, &diff.json()?["new"]["version"]), (1, &2.into()), "{diff:?}");
    Ok(())
}
