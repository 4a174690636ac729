//! The format as a page for people: each key with what it means and an example, and each rule.

use std::fmt::Write as _;

use super::conform::described;
use super::kind::{Kind, Record};
use super::tables::FILE;
use crate::rule::Rule;

/// The page, in Markdown.
pub fn reference() -> String {
    let mut page = String::from(
        "# The format of flow files\n\nMade from the code that reads them. [flows.md](flows.md) shows how they are used; [flow.schema.json](flow.schema.json) lets editors complete them.\n",
    );
    let mut records: Vec<&'static Record> = vec![&FILE];
    let mut next = 0;
    while let Some(record) = records.get(next).copied() {
        section(record, &mut page);
        for key in record.keys {
            collect(&key.kind, &mut records);
        }
        next += 1;
    }
    page.push_str("\n## Rules\n\nA finding names the rule that is broken. The names are stable.\n\n| rule | what it demands |\n|---|---|\n");
    for rule in Rule::ALL {
        let _ = writeln!(page, "| `{rule}` | {} |", rule.meaning());
    }
    page
}

fn section(record: &Record, page: &mut String) {
    let title = record.what.strip_prefix("a ").or(record.what.strip_prefix("an ")).unwrap_or(record.what);
    let title: String = title.chars().take(1).flat_map(char::to_uppercase).chain(title.chars().skip(1)).collect();
    let _ =
        write!(page, "\n## {title}\n\n| key | needed | what it is | what it says | example |\n|---|---|---|---|---|\n");
    for key in record.keys {
        let needed = if key.is_required { "yes" } else { "" };
        let (kind, example) = (described(&key.kind).replace('|', "\\|"), key.example.replace('|', "\\|"));
        let _ = writeln!(page, "| `{}` | {needed} | {kind} | {} | `{example}` |", key.name, key.meaning);
    }
}

/// The records that a kind leads to, each once.
fn collect(kind: &'static Kind, records: &mut Vec<&'static Record>) {
    match kind {
        Kind::Record(record) if !records.iter().any(|known| known.what == record.what) => records.push(record),
        Kind::List(item, _) | Kind::Map(_, item) => collect(item, records),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| collect(kind, records)),
        _ => {}
    }
}
