//! `retry` and `cancel` of all sagas that fit a filter: what they are, a question, and then page by page until none is left.
//! What people read meanwhile goes to standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write};

use clap::Args;
use indicatif::{HumanCount, ProgressBar};
use serde::Deserialize;
use serde_json::{Value, json};
use service_runtime::Fatal;
use uuid::Uuid;

use crate::acts::{self, Act, StepIn};
use crate::api::Api;
use crate::paint::{Paint, harmless, table};
use crate::sagas::{Filter, listed, print};

/// How many sagas one request looks at.
const PAGE: usize = 500;

/// One saga, or those that fit.
#[derive(Debug, Args)]
pub struct OneOrMany {
    /// One saga. Without it, those that fit the filters
    #[arg(conflicts_with_all = ["status", "step", "flow", "needs_attention", "user", "order", "since", "until", "all", "limit", "before", "yes"])]
    saga: Option<Uuid>,
    #[command(flatten)]
    filter: Filter,
    /// Without a filter: all sagas
    #[arg(long)]
    all: bool,
    /// On so many at most, the newest first
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    limit: u32,
    /// Go on where an earlier run has ended: it names the id
    #[arg(long, value_name = "ID")]
    before: Option<Uuid>,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    act: Act,
    /// Print the answer, or the sums, as JSON
    #[arg(long)]
    json: bool,
}

/// What is done to many.
#[derive(Debug, Clone, Copy)]
pub enum MassAct {
    Retry,
    Cancel,
}

impl MassAct {
    /// As the API's path has it.
    const fn name(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Cancel => "cancel",
        }
    }

    const fn done(self) -> &'static str {
        match self {
            Self::Retry => "retried",
            Self::Cancel => "cancelled",
        }
    }

    /// Why one fits.
    const fn whose(self) -> &'static str {
        match self {
            Self::Retry => "have had no answer in time",
            Self::Cancel => "have not turned back",
        }
    }
}

/// What `GET /sagas/retry` answers.
#[derive(Debug, Deserialize)]
struct Preview {
    sagas: u64,
    permitted: u64,
    more: bool,
    places: Vec<PlaceOf>,
    first: Vec<Value>,
    /// The first page's `before`.
    before: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PlaceOf {
    definition: String,
    status: String,
    step: String,
    sagas: u64,
    refused: Option<String>,
}

/// What `POST /sagas/retry` answers.
#[derive(Debug, Deserialize)]
struct Acted {
    done: usize,
    refused: Vec<Refused>,
    next: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Refused {
    reason: String,
    sagas: usize,
}

/// What has become of all pages.
#[derive(Debug, Default)]
struct Sums {
    done: usize,
    refused: BTreeMap<String, usize>,
    /// The next page's `before`: others may fit.
    next: Option<String>,
}

/// Does `one` to the saga that is named, or `act` to those that fit. Whether nothing was refused.
///
/// # Errors
/// When the orchestrator can't be reached or refuses the request, and when nobody can be asked.
pub async fn step_in(
    api: &Api,
    act: MassAct,
    one: &StepIn,
    on: &OneOrMany,
    paint: Paint,
    out: &mut dyn Write,
) -> Result<bool, Fatal> {
    if let Some(saga) = on.saga {
        return acts::step_in(api, saga, one, &on.act, on.json, paint, out).await;
    }
    if on.filter.is_empty() && !on.all {
        let which = "a saga's id, a filter such as --flow, or --all for all sagas";
        return Err(Fatal::new(format!("which sagas are to be {}? Name {which}", act.done())));
    }
    let before = on.before.map(|id| id.to_string());
    let preview = format!("/sagas/{}?{}", act.name(), on.filter.query(PAGE, before.as_deref()));
    let preview: Preview = api.get(&preview).await?.ok()?;
    eprintln!("{}", shown(&preview, act, paint));
    let wanted = usize::try_from(preview.permitted.min(on.limit.into())).unwrap_or(usize::MAX);
    let sums = if wanted == 0 {
        Sums { refused: refused_of(&preview), ..Sums::default() }
    } else {
        if !on.yes && !agreed(&question(act, wanted, &preview))? {
            eprintln!("sagactl: nothing was done");
            return Ok(false);
        }
        all_pages(api, act, on, wanted, preview.before).await?
    };
    print(out, &if on.json { sums.json().to_string() } else { sums.text(act) })?;
    Ok(sums.refused.is_empty())
}

/// On how many it is going to be done, of how many.
fn question(act: MassAct, wanted: usize, preview: &Preview) -> String {
    let wanted = HumanCount(wanted as u64).to_string();
    let permitted = preview.sum(preview.permitted);
    let of = if permitted == wanted { String::new() } else { format!(" of {permitted}") };
    format!("{} {wanted}{of}? [y/N] ", act.name())
}

/// Whether a person agrees.
fn agreed(question: &str) -> Result<bool, Fatal> {
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Fatal::new("nothing was done, since nobody can be asked here: --yes does it without a question"));
    }
    eprint!("{question}");
    let mut answer = String::new();
    let read = stdin.read_line(&mut answer);
    read.map_err(|error| Fatal::new(format!("the answer can't be read: {error}")))?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

/// Acts page by page, until none is left or it is done on as many as were agreed to.
async fn all_pages(
    api: &Api,
    act: MassAct,
    on: &OneOrMany,
    wanted: usize,
    before: Option<String>,
) -> Result<Sums, Fatal> {
    // Hidden where standard error is no terminal.
    let bar = ProgressBar::new(wanted as u64);
    let mut sums = Sums { next: before, ..Sums::default() };
    while sums.done < wanted {
        let (query, body) = page(on, wanted - sums.done, sums.next.as_deref());
        let answer = api.post(&format!("/sagas/{}?{query}", act.name()), &body, &[]).await;
        let acted: Acted = answer.and_then(|told| told.ok()).map_err(|error| {
            bar.abandon();
            Fatal::new(format!("{error}. {} or more were {}{}", sums.done, act.done(), sums.goes_on()))
        })?;
        sums.add(acted);
        bar.set_position(sums.done as u64);
        if sums.next.is_none() {
            break;
        }
    }
    bar.finish_and_clear();
    Ok(sums)
}

/// The query and the body of a page. It is of one size however few are left: those that are refused do not count.
fn page(on: &OneOrMany, left: usize, before: Option<&str>) -> (String, Value) {
    let body = json!({"by": on.act.by, "reason": on.act.reason, "all": on.all, "atMost": PAGE.min(left)});
    (on.filter.query(PAGE, before), body)
}

fn refused_of(preview: &Preview) -> BTreeMap<String, usize> {
    let refused = preview.places.iter().filter_map(|place| Some((place.refused.clone()?, place.sagas)));
    let mut sums = Sums::default();
    refused.for_each(|(reason, sagas)| sums.refuse(&reason, usize::try_from(sagas).unwrap_or(usize::MAX)));
    sums.refused
}

impl Preview {
    /// One of its sums, for a person. `sagas` is cut where more fit, and so is another that is as high.
    fn sum(&self, sum: u64) -> String {
        let at_least = if self.more && sum == self.sagas { "at least " } else { "" };
        format!("{at_least}{}", HumanCount(sum))
    }
}

impl Sums {
    fn add(&mut self, acted: Acted) {
        self.done += acted.done;
        acted.refused.iter().for_each(|refused| self.refuse(&refused.reason, refused.sagas));
        self.next = acted.next;
    }

    fn refuse(&mut self, reason: &str, sagas: usize) {
        *self.refused.entry(reason.to_owned()).or_default() += sagas;
    }

    fn json(&self) -> Value {
        let refused = self.refused.iter().map(|(reason, sagas)| json!({"reason": reason, "sagas": sagas}));
        json!({"done": self.done, "refused": refused.collect::<Vec<_>>(), "more": self.next.is_some(), "next": self.next})
    }

    fn text(&self, act: MassAct) -> String {
        let mut lines = vec![format!("{} {}", HumanCount(self.done as u64), act.done())];
        let refused = self.refused.iter();
        lines.extend(
            refused.map(|(reason, sagas)| format!("{} refused: {}", HumanCount(*sagas as u64), harmless(reason))),
        );
        if self.next.is_some() {
            lines.push(format!("others may fit{}", self.goes_on()));
        }
        lines.join("\n")
    }

    /// How the next run goes on. Without an id it would begin with the newest again, which fit a retry as before.
    fn goes_on(&self) -> String {
        self.next.as_deref().map(|next| format!("; go on with --before {}", harmless(next))).unwrap_or_default()
    }
}

/// What is going to be done, for a person.
fn shown(preview: &Preview, act: MassAct, paint: Paint) -> String {
    let Preview { sagas, permitted, places, first, .. } = preview;
    let mut text = format!("Sagas that fit and {}: {}", act.whose(), preview.sum(*sagas));
    if permitted != sagas {
        text += &format!(", of which {} can be {}", preview.sum(*permitted), act.done());
    }
    if places.is_empty() {
        return text;
    }
    let row = |place: &PlaceOf| {
        let refused = place.refused.as_deref().map(|why| format!("refused: {}", harmless(why)));
        vec![
            HumanCount(place.sagas).to_string(),
            harmless(&place.definition),
            place.status.clone(),
            place.step.clone(),
            refused.unwrap_or_default(),
        ]
    };
    let rows: Vec<Vec<String>> = places.iter().map(row).collect();
    let painted = |row: usize, column: usize, cell: String| match column {
        2 | 3 => paint.state(&rows[row][2], &cell),
        _ => cell,
    };
    let places = table(&["SAGAS", "FLOW", "STATUS", "STEP", ""], &rows, painted);
    format!("{text}\n\n{places}\n\nThe newest:\n{}\n", listed(first, paint))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::paint::Color;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        on: OneOrMany,
    }

    fn line(arguments: &str) -> OneOrMany {
        let line = format!("sagactl {arguments} --by ann --reason x");
        Line::try_parse_from(line.split(' ')).unwrap().on
    }

    fn preview() -> Preview {
        let rule = "the saga is RUNNING/ORDER_CONFIRM: only a saga that has not reached ORDER_CONFIRM can be cancelled";
        let place = |step: &str, sagas: u64, refused: Option<&str>| json!({"definition": "pay-first v1", "status": "RUNNING", "step": step, "sagas": sagas, "refused": refused});
        let preview = json!({
            "sagas": 1250, "permitted": 1200, "more": false, "first": [], "before": "01a2",
            "places": [place("PAYMENT_CHARGE", 1200, None), place("ORDER_CONFIRM", 50, Some(rule))],
        });
        serde_json::from_value(preview).unwrap()
    }

    #[test]
    fn a_preview_says_how_many_there_are_where_they_stand_and_which_are_refused() {
        let text = shown(&preview(), MassAct::Cancel, Paint::new(Color::Never));
        for words in [
            "Sagas that fit and have not turned back: 1,250, of which 1,200 can be cancelled",
            "1,200  pay-first v1  RUNNING  PAYMENT_CHARGE",
            "50     pay-first v1  RUNNING  ORDER_CONFIRM   refused: the saga is RUNNING/ORDER_CONFIRM",
        ] {
            assert!(text.contains(words), "no {words:?} in\n{text}");
        }
        let none = Preview { sagas: 0, permitted: 0, more: false, places: Vec::new(), first: Vec::new(), before: None };
        assert_eq!(
            shown(&none, MassAct::Retry, Paint::new(Color::Never)),
            "Sagas that fit and have had no answer in time: 0"
        );
    }

    #[test]
    fn a_question_names_how_many_of_how_many_and_what_was_cut_is_at_least() {
        let asked = |wanted, sagas, permitted, more| {
            question(MassAct::Cancel, wanted, &Preview { sagas, permitted, more, ..preview() })
        };
        assert_eq!(asked(3, 3, 3, false), "cancel 3? [y/N] ");
        assert_eq!(asked(1000, 1250, 1200, false), "cancel 1,000 of 1,200? [y/N] ");
        assert_eq!(asked(10_000, 10_000, 10_000, true), "cancel 10,000 of at least 10,000? [y/N] ");
        assert_eq!(asked(3, 10_000, 3, true), "cancel 3? [y/N] ", "all others are refused");
        let cut = Preview { sagas: 10_000, permitted: 3, more: true, places: Vec::new(), ..preview() };
        let text = "Sagas that fit and have not turned back: at least 10,000, of which 3 can be cancelled";
        assert_eq!(shown(&cut, MassAct::Cancel, Paint::new(Color::Never)), text);
    }

    #[test]
    fn a_page_is_of_one_size_on_however_many_it_is_done() {
        let on = line("--flow trip");
        let body = |at_most| json!({"by": "ann", "reason": "x", "all": false, "atMost": at_most});
        assert_eq!(page(&on, 3, Some("01a2")), ("limit=500&flow=trip&before=01a2".to_owned(), body(3)));
        assert_eq!(page(&on, 1000, None), ("limit=500&flow=trip".to_owned(), body(500)));
    }

    #[test]
    fn pages_are_added_up_with_one_line_for_each_reason() {
        let page = |done: usize, reason: &str| Acted {
            done,
            refused: vec![Refused { reason: reason.to_owned(), sagas: 2 }],
            next: Some("01a2".to_owned()),
        };
        let mut sums = Sums::default();
        for (done, reason) in [(100, "it has ended"), (7, "it has ended"), (0, "another")] {
            sums.add(page(done, reason));
        }
        let text = "107 retried\n2 refused: another\n4 refused: it has ended\n\
                    others may fit; go on with --before 01a2";
        assert_eq!(sums.text(MassAct::Retry), text);
        let refused = json!([{"reason": "another", "sagas": 2}, {"reason": "it has ended", "sagas": 4}]);
        assert_eq!(sums.json(), json!({"done": 107, "refused": refused, "more": true, "next": "01a2"}));
    }
}
