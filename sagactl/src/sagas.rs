//! `list`, `stats` and `watch`: many sagas at once.

use std::io::Write;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use clap::Args;
use messages::Timestamp;
use serde_json::Value;
use service_runtime::{Fatal, percent_encoded};
use uuid::Uuid;

use crate::api::Api;
use crate::paint::{Paint, duration, harmless, table};

/// How many sagas one request asks for.
const PAGE: usize = 500;

/// A filter of sagas: what is given must all hold.
#[derive(Debug, Clone, Default, Args)]
pub struct Filter {
    /// RUNNING, WAITING, COMPENSATING, COMPLETED, FAILED; several with commas between
    #[arg(long)]
    pub status: Option<String>,
    /// What is pending (PAYMENT_CHARGE, ...) or how it ended (INVENTORY_FAILED, ...)
    #[arg(long)]
    pub step: Option<String>,
    /// The name of the flow that they run by (pay-first and reserve-first: checkouts)
    #[arg(long)]
    pub flow: Option<String>,
    /// Only those that a person should look at
    #[arg(long)]
    pub needs_attention: bool,
    #[arg(long)]
    pub user: Option<String>,
    #[arg(long)]
    pub order: Option<Uuid>,
    /// Begun at this time (RFC 3339) or so long ago ("15m") or later
    #[arg(long, value_parser = moment)]
    pub since: Option<Timestamp>,
    /// Begun before
    #[arg(long, value_parser = moment)]
    pub until: Option<Timestamp>,
}

/// Which sagas are wanted.
#[derive(Debug, Clone, Args)]
pub struct Wanted {
    #[command(flatten)]
    pub filter: Filter,
    /// At most so many, the newest
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: u32,
    /// However many they are
    #[arg(long, conflicts_with = "limit")]
    pub all: bool,
}

/// A time, or how long ago it was.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = humantime::parse_duration(text).ok().and_then(|ago| TimeDelta::from_std(ago).ok());
    let ago = ago.and_then(|ago| Utc::now().checked_sub_signed(ago));
    ago.ok_or_else(|| "must be a time (2026-01-31T12:00:00Z) or how long ago it was (15m, 2h)".to_owned())
}

impl Filter {
    /// Whether nothing is given: all sagas fit.
    pub fn is_empty(&self) -> bool {
        self.pairs().is_empty()
    }

    /// As a query of the orchestrator: at most `limit` sagas that fit, from the one behind `before` on.
    pub fn query(&self, limit: usize, before: Option<&str>) -> String {
        let mut pairs = vec![format!("limit={limit}")];
        pairs.extend(self.pairs());
        pairs.extend(before.map(|before| format!("before={}", percent_encoded(before))));
        pairs.join("&")
    }

    fn pairs(&self) -> Vec<String> {
        let mut pairs = Vec::new();
        let mut pair = |name: &str, value: Option<String>| {
            pairs.extend(value.map(|value| format!("{name}={}", percent_encoded(&value))));
        };
        pair("status", self.status.clone());
        pair("step", self.step.clone());
        pair("flow", self.flow.clone());
        pair("needsAttention", self.needs_attention.then(|| "true".to_owned()));
        pair("userId", self.user.clone());
        pair("orderId", self.order.map(|order| order.to_string()));
        pair("since", self.since.map(|at| at.to_rfc3339()));
        pair("until", self.until.map(|at| at.to_rfc3339()));
        pairs
    }
}

/// Prints the newest sagas that fit: a table, or an object a line.
///
/// # Errors
/// When the orchestrator can't be asked, or refuses.
pub async fn list(api: &Api, wanted: &Wanted, json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let most = if wanted.all { usize::MAX } else { wanted.limit as usize };
    let mut sagas: Vec<Value> = Vec::new();
    let mut before: Option<String> = None;
    while sagas.len() < most {
        let query = wanted.filter.query(PAGE.min(most - sagas.len()), before.as_deref());
        let page: Value = api.get(&format!("/sagas?{query}")).await?.ok()?;
        sagas.extend(page["sagas"].as_array().cloned().unwrap_or_default());
        before = page["next"].as_str().map(str::to_owned);
        if before.is_none() {
            break;
        }
    }
    if json {
        return sagas.iter().try_for_each(|saga| print(out, &saga.to_string()));
    }
    print(out, &listed(&sagas, paint))
}

/// Sagas of a list as a table.
pub(crate) fn listed(sagas: &[Value], paint: Paint) -> String {
    let text = |saga: &Value, field: &str| harmless(saga[field].as_str().unwrap_or_default());
    let rows: Vec<Vec<String>> = sagas
        .iter()
        .map(|saga| {
            let attention = saga["needsAttention"]["reason"].as_str().map(|reason| format!("ATTENTION: {reason}"));
            let why = attention.map_or_else(|| text(saga, "reason"), |why| harmless(&why));
            let money = saga.get("totalAmount").map(|amount| format!("{amount} {}", text(saga, "currency")));
            let began = text(saga, "createdAt").replace('T', " ").chars().take(19).collect();
            vec![
                text(saga, "sagaId"),
                text(saga, "status"),
                text(saga, "step"),
                text(saga, "userId"),
                money.unwrap_or_default(),
                began,
                age(saga),
                text(saga, "definition"),
                why,
            ]
        })
        .collect();
    let titles = ["SAGA", "STATUS", "STEP", "USER", "AMOUNT", "BEGAN (UTC)", "TOOK", "FLOW", "WHY"];
    let painted = |row: usize, column: usize, cell: String| match column {
        1 | 2 => paint.state(&rows[row][1], &cell),
        _ => cell,
    };
    table(&titles, &rows, painted)
}

/// How long it took to its end; for one that runs, how long it is running.
fn age(saga: &Value) -> String {
    let moment = |field: &str| saga[field].as_str().and_then(|at| at.parse::<Timestamp>().ok());
    let (Some(began), Some(moved)) = (moment("createdAt"), moment("updatedAt")) else { return String::new() };
    let ended = matches!(saga["status"].as_str(), Some("COMPLETED" | "FAILED"));
    let until = if ended { moved } else { Utc::now() };
    let took = duration((until - began).num_milliseconds().max(0) as f64);
    if ended { took } else { format!("{took} so far") }
}

/// Prints how many sagas stand where, and how the newest fared.
///
/// # Errors
/// When the orchestrator can't be asked, or refuses.
pub async fn stats(api: &Api, minutes: u32, json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let stats: Value = api.get(&format!("/stats?minutes={minutes}")).await?.ok()?;
    if json {
        return print(out, &stats.to_string());
    }
    let standing = stats["unfinished"].as_array().cloned().unwrap_or_default();
    let mut rows: Vec<Vec<String>> = Vec::new();
    for at in &standing {
        let text = |field: &str| at[field].as_str().unwrap_or_default().to_owned();
        let oldest = duration(at["oldestAgeSeconds"].as_f64().unwrap_or_default() * 1000.0);
        rows.push(vec![text("status"), text("step"), at["sagas"].to_string(), format!("the oldest for {oldest}")]);
    }
    print(out, &paint.bold(&format!("Unfinished, {} need attention", stats["needingAttention"])))?;
    if rows.is_empty() {
        print(out, "  none")?;
    } else {
        print(
            out,
            &table(&["STATUS", "STEP", "SAGAS", ""], &rows, |row, column, cell| {
                if column < 2 { paint.state(&rows[row][0], &cell) } else { cell }
            }),
        )?;
    }
    let recent = &stats["recent"];
    let rate = recent["perSecond"].as_f64().unwrap_or_default();
    let since = recent["since"].as_str().unwrap_or_default();
    print(out, &format!("\n{} ({} checkouts, {rate:.2}/s)", paint.bold(&format!("Since {since}")), recent["sagas"]))?;
    for (outcome, count) in recent["outcomes"].as_object().into_iter().flatten() {
        print(out, &format!("  {count:>8}  {outcome}"))?;
    }
    if let (Some(p50), Some(p99)) = (recent["duration"]["p50Ms"].as_f64(), recent["duration"]["p99Ms"].as_f64()) {
        print(out, &format!("  from request to outcome: p50 {}, p99 {}", duration(p50), duration(p99)))?;
    }
    Ok(())
}

/// Prints moves as they happen: of one saga until it has ended, or of all until it is interrupted. A connection that
/// is lost is made anew, and goes on after the last move that was told.
///
/// # Errors
/// When the orchestrator can't be reached at all, or refuses.
pub async fn watch(api: &Api, saga: Option<Uuid>, json: bool, paint: Paint, out: &mut dyn Write) -> Result<(), Fatal> {
    let path = saga.map_or_else(|| "/events".to_owned(), |saga| format!("/sagas/{saga}/events"));
    let mut stream = api.stream(&path, None).await?;
    let (mut buffer, mut last, mut ended) = (Vec::new(), None, false);
    loop {
        match stream.chunk().await {
            Ok(Some(chunk)) => buffer.extend_from_slice(&chunk),
            // Complete: a saga's stream ends with it.
            Ok(None) if ended => return Ok(()),
            Ok(None) | Err(_) => {
                buffer.clear();
                eprintln!("sagactl: the connection was lost; trying to go on after the last move");
                tokio::time::sleep(Duration::from_secs(1)).await;
                if let Ok(again) = api.stream(&path, last.as_deref()).await {
                    stream = again;
                }
                continue;
            }
        }
        // An event ends with an empty line.
        while let Some(end) = buffer.windows(2).position(|two| two == b"\n\n") {
            let event = String::from_utf8_lossy(&buffer.drain(..end + 2).collect::<Vec<u8>>()).into_owned();
            let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
            let Some(data) = field("data: ") else { continue };
            last = field("id: ").or(last);
            if json {
                print(out, &data)?;
                ended |= saga.is_some() && ends(&data);
                continue;
            }
            let data: Value = serde_json::from_str(&data).unwrap_or_default();
            if field("event: ").as_deref() == Some("skipped") {
                print(out, &paint.dim(&format!("… more happened than can be told: {data}")))?;
                continue;
            }
            print(out, &moved(&data, paint))?;
            ended |= saga.is_some() && ends(&data.to_string());
        }
    }
}

fn ends(data: &str) -> bool {
    let data: Value = serde_json::from_str(data).unwrap_or_default();
    matches!(data["status"].as_str(), Some("COMPLETED" | "FAILED"))
}

fn moved(data: &Value, paint: Paint) -> String {
    let text = |field: &str| harmless(data[field].as_str().unwrap_or_default());
    let at: String = text("at").chars().skip(11).take(12).collect();
    let why = data["reason"].as_str().map(|reason| format!("  {}", harmless(reason))).unwrap_or_default();
    let state = paint.state(&text("status"), &format!("{}/{}", text("status"), text("step")));
    format!("{at}  {}  {:<20} -> {state}{why}", text("sagaId"), text("input"))
}

pub(crate) fn print(out: &mut dyn Write, text: &str) -> Result<(), Fatal> {
    writeln!(out, "{text}").map_err(|error| Fatal::new(format!("the output can't be written: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_may_be_told_as_how_long_ago_it_was() {
        assert_eq!(moment("2026-01-31T12:00:00Z").unwrap().to_rfc3339(), "2026-01-31T12:00:00+00:00");
        let ago = Utc::now() - moment("15m").unwrap();
        assert!((ago.num_seconds() - 900).abs() < 5, "{ago}");
        assert!(moment("yesterday").unwrap_err().contains("15m"));
    }

    #[test]
    fn a_query_holds_what_was_given_and_nothing_else() {
        let filter = Filter {
            status: Some("FAILED".to_owned()),
            flow: Some("trip".to_owned()),
            needs_attention: true,
            user: Some("a&b".to_owned()),
            ..Filter::default()
        };
        assert_eq!(
            filter.query(10, Some("x")),
            "limit=10&status=FAILED&flow=trip&needsAttention=true&userId=a%26b&before=x"
        );
        assert!(!filter.is_empty() && Filter::default().is_empty());
    }
}
