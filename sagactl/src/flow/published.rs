//! Published flows, as the orchestrator has them: publish, list, activate, retire, show.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use flow::{Flow, Origin, check};
use messages::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use service_runtime::{Fatal, percent_encoded};

use super::file::finding_line;
use super::{VersionAct, draw};
use crate::acts::Act;
use crate::api::{Api, Told};
use crate::paint::{Paint, harmless, table};
use crate::sagas::print;

/// A version of a flow, as `GET /flows` has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Published {
    pub name: String,
    pub version: i32,
    pub digest: String,
    /// ACTIVE: new sagas run by it; INACTIVE; RETIRED.
    pub state: String,
    pub built_in: bool,
    pub published_by: Option<String>,
    pub reason: Option<String>,
    pub published_at: Option<Timestamp>,
    /// Sagas that run by it and have not ended.
    pub unfinished: u64,
    /// The file. Only where one version was asked for.
    pub source: Option<String>,
}

/// A version was activated or retired.
#[derive(Debug, Clone, Deserialize)]
struct Change {
    version: i32,
    change: String,
    by: Option<String>,
    reason: Option<String>,
    at: Timestamp,
}

/// What is to become of a published version.
#[derive(Debug, Clone, Copy)]
pub enum Becomes {
    Active,
    Retired,
}

#[derive(Debug, Deserialize)]
struct Finding {
    line: u64,
    column: u64,
    rule: String,
    message: String,
}

#[derive(Deserialize)]
struct Versions {
    flows: Vec<Published>,
    #[serde(default)]
    changes: Vec<Change>,
}

/// Publishes a file. Whether that was done: findings, and another file under the same version, are printed.
///
/// # Errors
/// When the file can't be read, or the orchestrator can't be reached or fails.
pub async fn publish(
    api: &Api,
    file: &Path,
    act: &Act,
    activate: bool,
    as_json: bool,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let source = fs::read(file).map_err(|error| Fatal::new(format!("{}: {error}", file.display())))?;
    let activate = if activate { "" } else { "&activate=false" };
    let path = format!("/flows?by={}&reason={}{activate}", percent_encoded(&act.by), percent_encoded(&act.reason));
    let told = api.post_text(&path, "application/yaml", source).await?;
    let status = told.status.as_u16();
    let findings = told.body.get("findings").cloned().map(serde_json::from_value::<Vec<Finding>>);
    match (status, findings) {
        (200 | 201, _) if as_json => print(out, &told.body.to_string()).map(|()| true),
        (200 | 201, _) => {
            let flow: Published = told.read()?;
            let done = if status == 201 { "published" } else { "the same file is published already" };
            print(out, &format!("{}: {done}", state_line(&flow, paint))).map(|()| true)
        }
        (422, Some(Ok(findings))) if !findings.is_empty() => {
            for Finding { line, column, rule, message } in findings {
                print(out, &finding_line(file, (line, column), &rule, &message, as_json))?;
            }
            Ok(false)
        }
        (409 | 413 | 422, _) => Ok(refused(&told)),
        _ => Err(told.refusal()),
    }
}

/// Activates or retires a published version. Whether that was done.
///
/// # Errors
/// When there is no such version, or the orchestrator can't be reached or fails.
pub async fn change(
    api: &Api,
    VersionAct { name, version, act, json: as_json }: VersionAct,
    becomes: Becomes,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    let verb = match becomes {
        Becomes::Active => "activate",
        Becomes::Retired => "retire",
    };
    let path = format!("/flows/{}/{version}/{verb}", percent_encoded(&name));
    let told = api.post(&path, &json!({"by": act.by, "reason": act.reason}), &[]).await?;
    match told.status.as_u16() {
        200 if as_json => print(out, &told.body.to_string())?,
        200 => print(out, &state_line(&told.ok()?, paint))?,
        409 => return Ok(refused(&told)),
        _ => return Err(told.refusal()),
    }
    Ok(true)
}

fn refused(told: &Told) -> bool {
    eprintln!("sagactl: {}", told.refusal());
    false
}

/// Prints all published versions: a table, or an object a line.
///
/// # Errors
/// When the orchestrator can't be asked, or refuses.
pub async fn list(api: &Api, as_json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let answer: Value = api.get("/flows").await?.ok()?;
    if as_json {
        return answer["flows"].as_array().into_iter().flatten().try_for_each(|flow| print(out, &flow.to_string()));
    }
    print(out, &listing(&read::<Versions>(answer)?.flows, paint))
}

fn listing(flows: &[Published], paint: Paint) -> String {
    let row = |flow: &Published| {
        let at = flow.published_at.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default();
        vec![
            harmless(&flow.name),
            format!("v{}", flow.version),
            harmless(&flow.state),
            flow.unfinished.to_string(),
            at,
            by(flow),
            flow.reason.as_deref().map(harmless).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = flows.iter().map(row).collect();
    let titles = ["FLOW", "VERSION", "STATE", "UNFINISHED", "PUBLISHED (UTC)", "BY", "WHY"];
    table(&titles, &rows, |row, column, cell| match column {
        2 => painted(&flows[row].state, &cell, paint),
        _ => cell,
    })
}

/// A published version with its source: the one of this number; without, the active one, else the newest.
///
/// # Errors
/// When there is none, or the orchestrator can't be asked.
pub async fn fetch(api: &Api, name: &str, version: Option<i32>) -> Result<Published, Fatal> {
    let version = match version {
        Some(version) => version,
        None => {
            let flows = versions(api, name).await?.flows;
            let chosen = flows.iter().find(|flow| flow.state == "ACTIVE").or(flows.first());
            chosen.ok_or_else(|| Fatal::new(format!("no version of {name} is published")))?.version
        }
    };
    api.get(&format!("/flows/{}/{version}", percent_encoded(name))).await?.ok()
}

/// The active version of a flow, with its source. `None`: no version is active, or none is published.
///
/// # Errors
/// When the orchestrator can't be asked.
pub async fn active(api: &Api, name: &str) -> Result<Option<Published>, Fatal> {
    let told = api.get(&format!("/flows/{}", percent_encoded(name))).await?;
    if told.status.as_u16() == 404 {
        return Ok(None);
    }
    let flows = told.ok::<Versions>()?.flows;
    let Some(active) = flows.iter().find(|flow| flow.state == "ACTIVE") else { return Ok(None) };
    fetch(api, name, Some(active.version)).await.map(Some)
}

async fn versions(api: &Api, name: &str) -> Result<Versions, Fatal> {
    api.get(&format!("/flows/{}", percent_encoded(name))).await?.ok()
}

/// Draws a published version, with its state, who published it and why, and what became of the flow's versions since.
///
/// # Errors
/// When there is none, or the orchestrator can't be asked.
pub async fn show(api: &Api, name: &str, version: Option<i32>, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let flow = fetch(api, name, version).await?;
    let changes = versions(api, name).await?.changes;
    print(out, &drawing(&flow, &changes, paint))
}

fn drawing(flow: &Published, changes: &[Change], paint: Paint) -> String {
    let mut lines = vec![state_line(flow, paint), format!("  {}", paint.dim(&origin(flow)))];
    match flow.compiled() {
        Ok(compiled) => lines.push(draw::steps(&compiled, paint)),
        Err(why) => lines.push(format!("  {why}")),
    }
    for Change { version, change, by, reason, at } in changes {
        let (by, reason) = (by.as_deref().map(harmless), reason.as_deref().map(harmless));
        let who = by.map(|by| format!(" by {by}")).unwrap_or_default();
        let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        let at = at.format("%Y-%m-%d %H:%M:%S UTC");
        lines.push(paint.dim(&format!("  {at}  v{version} {}{who}{why}", harmless(change))));
    }
    lines.join("\n")
}

impl Published {
    /// Its file, checked by this release.
    ///
    /// # Errors
    /// When this release finds something wrong in it: another one may have published it.
    pub fn compiled(&self) -> Result<Arc<Flow>, String> {
        let origin = if self.built_in { Origin::BuiltIn } else { Origin::User };
        let source = self.source.as_deref().ok_or("the orchestrator sent no file")?;
        check(source, origin).map_err(|findings| {
            let first = findings.first().map(|finding| harmless(&finding.to_string())).unwrap_or_default();
            format!("this sagactl can't read {} v{}: {first}", harmless(&self.name), self.version)
        })
    }
}

/// `trip v1  ACTIVE  3 unfinished  sha256 0123456789ab`
fn state_line(flow: &Published, paint: Paint) -> String {
    let name = paint.bold(&format!("{} v{}", harmless(&flow.name), flow.version));
    let state = painted(&flow.state, &harmless(&flow.state), paint);
    let digest: String = flow.digest.chars().take(12).collect();
    format!("{name}  {state}  {} unfinished  sha256 {}", flow.unfinished, harmless(&digest))
}

fn origin(flow: &Published) -> String {
    if flow.built_in {
        return "comes with the platform".to_owned();
    }
    let at = flow.published_at.map(|at| at.format(" at %Y-%m-%d %H:%M:%S UTC").to_string()).unwrap_or_default();
    let why = flow.reason.as_deref().map(|reason| format!(": {}", harmless(reason))).unwrap_or_default();
    format!("published by {}{at}{why}", by(flow))
}

fn by(flow: &Published) -> String {
    match &flow.published_by {
        Some(by) => harmless(by),
        None if flow.built_in => "(built in)".to_owned(),
        None => String::new(),
    }
}

fn painted(state: &str, text: &str, paint: Paint) -> String {
    match state {
        "ACTIVE" => paint.state("COMPLETED", text),
        "RETIRED" => paint.state("CANCELLED", text),
        _ => paint.dim(text),
    }
}

fn read<T: serde::de::DeserializeOwned>(answer: Value) -> Result<T, Fatal> {
    serde_json::from_value(answer).map_err(|error| Fatal::new(format!("an answer that is not understood: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Color;

    const TRIP: &str = include_str!("../../../examples/trip/trip.v1.yaml");

    fn published(version: i32, state: &str, more: Value) -> Published {
        let mut whole = json!({
            "name": "trip", "version": version, "digest": "0123456789abcdef0123", "state": state, "builtIn": false,
            "publishedBy": "ann", "reason": "first\u{1b}[2J try", "publishedAt": "2026-11-29T10:00:00.123456Z",
            "unfinished": 3, "later": "fields do no harm",
        });
        if let (Some(whole), Value::Object(more)) = (whole.as_object_mut(), more) {
            whole.extend(more);
        }
        serde_json::from_value(whole).unwrap()
    }

    fn changes() -> Vec<Change> {
        let change = |version: i32, change: &str, second: u32| {
            let at = format!("2026-11-29T10:00:{second:02}Z");
            json!({"version": version, "change": change, "by": "ann", "reason": "first try", "at": at})
        };
        serde_json::from_value(json!([change(1, "ACTIVATED", 0), change(1, "RETIRED", 40)])).unwrap()
    }

    #[test]
    fn a_published_flow_is_drawn_with_its_state_and_what_became_of_it() {
        let flow = published(1, "RETIRED", json!({ "source": TRIP }));

        insta::assert_snapshot!(drawing(&flow, &changes(), Paint::new(Color::Never)));
    }

    #[test]
    fn a_published_flow_that_this_release_can_not_read_is_shown_without_its_steps() {
        let flow = published(1, "ACTIVE", json!({ "source": TRIP.replace("format: 1", "format: 2") }));

        let text = drawing(&flow, &[], Paint::new(Color::Never));

        assert!(text.contains("this sagactl can't read trip v1: 2:9: bounds: "), "{text}");
        assert!(!text.contains("HOTEL_BOOK"), "{text}");
    }

    #[test]
    fn versions_are_listed_with_their_state_and_who_published_them() {
        let built_in = json!({"name": "pay-first", "builtIn": true, "publishedBy": null, "reason": null});
        let flows =
            [published(1, "ACTIVE", built_in), published(2, "ACTIVE", json!({})), published(1, "INACTIVE", json!({}))];

        insta::assert_snapshot!(listing(&flows, Paint::new(Color::Never)));
    }
}
