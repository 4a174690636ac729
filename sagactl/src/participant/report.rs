//! What was found out about one step's participant: a line for each rule, and the evidence where one is broken.

use std::fmt::Write as _;

use serde_json::{Value as Json, json};

use super::rule::Rule;
use crate::paint::{Paint, harmless, table};

/// What is known about the rules at one step.
#[derive(Debug)]
pub struct Report {
    /// The step, and its undo if it has one.
    pub title: String,
    found: Vec<(Rule, Found)>,
}

#[derive(Debug)]
enum Found {
    Holds,
    NotTried(String),
    Broken(Vec<Evidence>),
}

/// How a rule was seen to be broken.
#[derive(Debug, Clone)]
pub struct Evidence {
    pub why: String,
    pub sent: String,
    pub came: String,
}

impl Report {
    /// Nothing was tried yet.
    pub fn new(title: String) -> Self {
        Self { title, found: Vec::new() }
    }

    /// A trial of the rule went well. What was found broken before stays so.
    pub fn holds(&mut self, rule: Rule) {
        if !self.knows(rule) {
            self.found.push((rule, Found::Holds));
        }
    }

    /// A rule was broken.
    pub fn broken(&mut self, rule: Rule, evidence: Evidence) {
        if let Some((_, Found::Broken(all))) = self.found.iter_mut().find(|(known, _)| *known == rule) {
            return all.push(evidence);
        }
        self.found.retain(|(known, _)| *known != rule);
        self.found.push((rule, Found::Broken(vec![evidence])));
    }

    /// A rule can't be tried. What was found out about it stays.
    pub fn not_tried(&mut self, rule: Rule, why: &str) {
        if !self.knows(rule) {
            self.found.push((rule, Found::NotTried(why.to_owned())));
        }
    }

    fn knows(&self, rule: Rule) -> bool {
        self.found.iter().any(|(known, _)| *known == rule)
    }

    /// The rules that are broken.
    pub fn all_broken(&self) -> Vec<Rule> {
        let broken = self.found.iter().filter(|(_, found)| matches!(found, Found::Broken(_)));
        broken.map(|(rule, _)| *rule).collect()
    }

    /// Whether the rules could be tried: the participant did not refuse the very first command.
    pub fn was_tried(&self) -> bool {
        self.found.iter().any(|(rule, found)| *rule == Rule::Repeat && !matches!(found, Found::NotTried(_)))
    }

    fn in_order(&self) -> impl Iterator<Item = (Rule, &Found)> {
        let find = |rule: &Rule| self.found.iter().find(|(known, _)| known == rule);
        Rule::ALL.iter().filter_map(find).map(|(rule, found)| (*rule, found))
    }

    /// A table, and behind it what was seen of each rule that is broken.
    pub fn to_text(&self, paint: Paint) -> String {
        let rows: Vec<_> = self.in_order().map(|(rule, found)| row(rule, found)).collect();
        let painted = |row: usize, column: usize, cell: String| match (column, rows[row][0].as_str()) {
            (0, "holds") => paint.state("COMPLETED", &cell),
            (0, "BROKEN") => paint.state("FAILED", &cell),
            _ => cell,
        };
        let mut text =
            format!("{}\n{}\n", paint.bold(&self.title), table(&["", "RULE", "WHAT IT DEMANDS"], &rows, painted));
        for (rule, found) in self.in_order() {
            let Found::Broken(evidence) = found else { continue };
            for Evidence { why, sent, came } in evidence {
                let _ = writeln!(text, "\n{}: {}", paint.bold(rule.name()), harmless(why));
                let _ = writeln!(text, "  sent: {}\n  came: {}", harmless(sent), harmless(came));
            }
            let _ = writeln!(text, "  mend: {}", rule.mend());
        }
        text
    }

    /// An object for each rule.
    pub fn to_json(&self) -> Vec<Json> {
        let line = |(rule, found): (Rule, &Found)| {
            let (result, why, evidence) = match found {
                Found::Holds => ("holds", None, &[][..]),
                Found::NotTried(why) => ("not tried", Some(why), &[][..]),
                Found::Broken(evidence) => ("broken", None, evidence.as_slice()),
            };
            let seen = evidence.iter().map(|seen| json!({ "why": seen.why, "sent": seen.sent, "came": seen.came }));
            json!({
                "step": self.title, "rule": rule.name(), "result": result, "why": why, "demand": rule.demand(),
                "evidence": seen.collect::<Vec<_>>(),
            })
        };
        self.in_order().map(line).collect()
    }
}

fn row(rule: Rule, found: &Found) -> Vec<String> {
    let (result, demand) = match found {
        Found::Holds => ("holds", rule.demand().to_owned()),
        Found::NotTried(why) => ("-", format!("Not tried: {why}")),
        Found::Broken(_) => ("BROKEN", rule.demand().to_owned()),
    };
    vec![result.to_owned(), rule.name().to_owned(), demand]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::paint::Color;

    #[test]
    fn a_broken_rule_is_shown_with_what_was_sent_what_came_and_how_to_mend_it() {
        let mut report = Report::new("HOTEL_BOOK, undone by HOTEL_CANCEL".to_owned());
        let evidence = Evidence {
            why: "the reply has another eventId than the first one".to_owned(),
            sent: "trip.hotel.book.command: {}".to_owned(),
            came: "trip.replies, partition 0: {}\x1b[2J".to_owned(),
        };
        report.not_tried(Rule::Restart, "--restart-command is not given");
        report.holds(Rule::Repeat);
        report.broken(Rule::Repeat, evidence);
        report.holds(Rule::Repeat);
        report.holds(Rule::Answered);

        assert_eq!(report.all_broken(), [Rule::Repeat]);
        insta::assert_snapshot!(report.to_text(Paint::new(Color::Never)));
        assert_eq!(report.to_json()[1]["evidence"][0]["sent"], "trip.hotel.book.command: {}");
    }
}
