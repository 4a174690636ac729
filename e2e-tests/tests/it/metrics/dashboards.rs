//! What is looked at and what calls somebody at night (`deploy/`) against what the services show: a metric that is
//! renamed would leave a graph empty, and an alert silent for ever.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::path::{Path, PathBuf};
use std::str::CharIndices;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use e2e_tests::{Client, Samples, Service, Standalone, eventually};
use serde_json::{Value, json};

/// What Prometheus itself knows of each target.
const OF_PROMETHEUS: [&str; 1] = ["up"];

/// Words of PromQL that are followed by labels in parentheses.
const BEFORE_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

/// Words of PromQL that stand alone.
const OPERATORS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// Consumers tell their lag two seconds after they were assigned a partition.
const LIMIT: Duration = Duration::from_secs(20);

/// The metrics that an expression of PromQL names: all words but functions, operators, and what stands in quotes,
/// braces, brackets and lists of labels.
fn metrics(expression: &str) -> BTreeSet<&str> {
    let mut found = BTreeSet::new();
    let mut characters = expression.char_indices().peekable();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' | '\'' | '`' => skip_text(&mut characters, character),
            '{' => skip_to(&mut characters, '}'),
            '[' => skip_to(&mut characters, ']'),
            // `5m`, `1e3`; and `$__interval`, which Grafana puts a duration for.
            '0'..='9' | '$' => drop(word(expression, &mut characters, at)),
            'a'..='z' | 'A'..='Z' | '_' | ':' => {
                let word = word(expression, &mut characters, at);
                let rest = expression[at + word.len()..].trim_start();
                let is_aggregation = ["by", "without"].iter().any(|next| rest.split(['(', ' ']).next() == Some(next));
                if BEFORE_LABELS.contains(&word) && rest.starts_with('(') {
                    skip_to(&mut characters, ')');
                } else if !rest.starts_with('(') && !is_aggregation && !OPERATORS.contains(&word) {
                    found.insert(word);
                }
            }
            _ => {}
        }
    }
    found
}

/// The word that begins at `start`.
fn word<'a>(expression: &'a str, characters: &mut Peekable<CharIndices<'_>>, start: usize) -> &'a str {
    let goes_on = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    while characters.next_if(|(_, character)| goes_on(*character)).is_some() {}
    &expression[start..characters.peek().map_or(expression.len(), |(end, _)| *end)]
}

fn skip_text(characters: &mut Peekable<CharIndices<'_>>, quote: char) {
    while let Some((_, character)) = characters.next() {
        match character {
            '\\' if quote != '`' => drop(characters.next()),
            character if character == quote => return,
            _ => {}
        }
    }
}

fn skip_to(characters: &mut Peekable<CharIndices<'_>>, end: char) {
    while let Some((_, character)) = characters.next() {
        match character {
            '"' | '\'' | '`' => skip_text(characters, character),
            character if character == end => return,
            _ => {}
        }
    }
}

/// The metrics that are named in `expressions` and not among those shown.
fn unknown<'a>(expressions: &'a [String], shown: &BTreeSet<&str>) -> BTreeSet<&'a str> {
    let named = expressions.iter().flat_map(|expression| metrics(expression));
    named.filter(|name| !shown.contains(name) && !OF_PROMETHEUS.contains(name)).collect()
}

/// Each `expr` of a dashboard, wherever it stands.
fn of_dashboard(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
            fields.values().for_each(|field| of_dashboard(field, found));
        }
        Value::Array(values) => values.iter().for_each(|value| of_dashboard(value, found)),
        _ => {}
    }
}

/// Each `expr` of a file of alerts. As many as there are alerts, each on its line.
fn of_alerts(text: &str) -> Result<Vec<String>> {
    let after = |start| text.lines().filter_map(move |line| line.trim().trim_start_matches("- ").strip_prefix(start));
    let expressions: Vec<String> = after("expr: ").map(str::to_owned).collect();
    ensure!(expressions.len() == after("alert: ").count(), "not one expr for each alert");
    if let Some(folded) = expressions.iter().find(|expression| expression.starts_with(['|', '>'])) {
        bail!("an expr is to stand on one line, not after {folded:?}");
    }
    Ok(expressions)
}

fn workspace() -> Result<PathBuf> {
    Ok(Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("a crate stands in its workspace")?.to_owned())
}

/// Publishes a flow, whose series are shown from then on.
async fn publish(client: &Client) -> Result<()> {
    let answer = client.publish_flow(include_str!("../../../../examples/trip/trip.v1.yaml")).await?;
    ensure!(matches!(answer.status, 200 | 201), "{} {}", answer.status, answer.text);
    Ok(())
}

/// All expressions in `deploy/`.
fn expressions() -> Result<Vec<String>> {
    let deploy = workspace()?.join("deploy");
    let mut expressions = of_alerts(&std::fs::read_to_string(deploy.join("prometheus/alerts.yml"))?)?;
    ensure!(expressions.len() >= 7, "only {} alerts", expressions.len());
    for entry in std::fs::read_dir(deploy.join("grafana/dashboards"))? {
        let (path, before) = (entry?.path(), expressions.len());
        let dashboard = serde_json::from_slice(&std::fs::read(&path)?).with_context(|| path.display().to_string())?;
        of_dashboard(&dashboard, &mut expressions);
        ensure!(expressions.len() > before, "{} asks for nothing", path.display());
    }
    Ok(expressions)
}

/// Some metrics are there only where events are published.
const PUBLISHING: [(&str, &str); 2] = [("PUBLISH_OUTCOMES", "true"), ("PUBLISH_ORDER_EVENTS", "true")];

#[tokio::test]
async fn every_metric_of_the_dashboards_and_alerts_is_shown_by_a_service() -> Result<()> {
    let (standalone, expressions) = (Standalone::start(&PUBLISHING).await?, expressions()?);
    let client = standalone.client()?;
    for force in ["none", "forcePaymentFail", "forceInventoryFail"] {
        let mut body = json!({"userId": "u1", "totalAmount": 500});
        if force != "none" {
            body[force] = json!(true);
        }
        client.checkout(&body).await?;
    }
    publish(&client).await?;
    eventually("all are shown", LIMIT, async || {
        let mut all = Vec::new();
        for service in Service::ALL {
            all.push(Samples::of(&client, service).await?);
        }
        let shown = all.iter().flat_map(Samples::names).collect();
        let unknown = unknown(&expressions, &shown);
        ensure!(unknown.is_empty(), "nobody shows {unknown:?}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test]
async fn every_metric_that_is_shown_stands_in_the_operators_table() -> Result<()> {
    let standalone = Standalone::start(&PUBLISHING).await?;
    let (client, page) = (standalone.client()?, std::fs::read_to_string(workspace()?.join("docs/operations.md"))?);
    client.checkout(&json!({"userId": "u1", "totalAmount": 500})).await?;
    publish(&client).await?;
    for service in Service::ALL {
        let text = client.get(service, "/metrics").await?.text;
        let named = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
        for (name, kind) in named {
            let row = page.lines().find(|line| line.starts_with("| `") && line.contains(&format!("`{name}`")));
            let row = row.with_context(|| format!("docs/operations.md does not tell of {name}"))?;
            ensure!(row.contains(kind), "docs/operations.md tells another type of {name} than {kind}: {row}");
        }
    }
    Ok(())
}

#[test]
fn the_metrics_of_an_expression_are_found_and_nothing_else() {
    for (expression, expected) in [
        ("up == 0", &["up"][..]),
        ("max(sagas_needing_attention) > 0", &["sagas_needing_attention"]),
        ("time() - max(read_seconds) > 60", &["read_seconds"]),
        (r#"sum by (job, topic) (rate(a_total{outcome="b_total",x!~"/c/.*|d"}[5m])) > 1e3"#, &["a_total"]),
        (
            "sum(rate(a_total[$__rate_interval])) by (job) / on (job) group_left (version) b_info",
            &["a_total", "b_info"],
        ),
        ("histogram_quantile(0.99, sum by (le) (rate(a_seconds_bucket[5m] offset 1h)))", &["a_seconds_bucket"]),
        ("sum without(instance)(a) and b unless c or job:d:rate5m", &["a", "b", "c", "job:d:rate5m"]),
        (r#"label_replace(a, "x", "$1", "y", "b(.*)}\"c")"#, &["a"]),
        (r#"a{x="}"} + b"#, &["a", "b"]),
    ] {
        assert_eq!(metrics(expression), expected.iter().copied().collect(), "{expression}");
    }
}

#[test]
fn a_metric_that_nobody_shows_is_found() -> Result<()> {
    let dashboard =
        json!({"panels": [{"targets": [{"expr": "rate(a_total[5m])"}, {"expr": "sagas_that_need_attention"}]}]});
    let mut expressions = of_alerts("  - alert: A\n    expr: max(b_seconds) > 1\n  - alert: B\n    expr: up == 0\n")?;
    of_dashboard(&dashboard, &mut expressions);
    assert_eq!(expressions.len(), 4);
    assert_eq!(unknown(&expressions, &["a_total"].into()), ["b_seconds", "sagas_that_need_attention"].into());
    assert_eq!(unknown(&expressions, &["a_total", "b_seconds", "sagas_that_need_attention"].into()), [].into());
    Ok(())
}

#[test]
fn an_alert_whose_expression_would_be_missed_is_found() {
    for text in ["- alert: A\n  expr:\n    up == 0\n", "- alert: A\n  expr: >-\n    up == 0\n"] {
        assert!(of_alerts(text).is_err(), "{text}");
    }
}
