//! Colour, tables and times for a terminal.

use std::io::IsTerminal as _;

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use messages::text::is_hidden;

/// When to use colour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Color {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    Always,
    Never,
}

/// Paints, or does not.
#[derive(Debug, Clone, Copy)]
pub struct Paint(bool);

impl Paint {
    pub fn new(color: Color) -> Self {
        let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self(match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => std::io::stdout().is_terminal() && !no_color,
        })
    }

    /// A status or a step in its colour: green for what is well, red for what failed, yellow for what is undone.
    pub fn state(self, status: &str, text: &str) -> String {
        match status {
            "COMPLETED" | "CONFIRMED" | "CHARGED" | "RESERVED" | "COMMITTED" => {
                self.style(AnsiColor::Green.on_default(), text)
            }
            "FAILED" | "CANCELLED" => self.style(AnsiColor::Red.on_default(), text),
            "COMPENSATING" | "REFUNDING" | "REFUNDED" | "RELEASED" | "VOIDED" | "EXPIRED" => {
                self.style(AnsiColor::Yellow.on_default(), text)
            }
            _ => self.style(AnsiColor::Blue.on_default(), text),
        }
    }

    pub fn bold(self, text: &str) -> String {
        self.style(Style::new().bold(), text)
    }

    pub fn dim(self, text: &str) -> String {
        self.style(Style::new().dimmed(), text)
    }

    fn style(self, style: Style, text: &str) -> String {
        if self.0 { format!("{style}{text}{style:#}") } else { text.to_owned() }
    }
}

/// Text without what a terminal takes for an order: a customer may have written it.
pub fn harmless(text: &str) -> String {
    text.chars().map(|c| if is_hidden(c) { '\u{fffd}' } else { c }).collect()
}

/// A table with its columns aligned; the last one is not padded. `painted` colours a cell after it was padded.
pub fn table(titles: &[&str], rows: &[Vec<String>], painted: impl Fn(usize, usize, String) -> String) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row.get(column).map_or(0, |cell| cell.chars().count()));
        cells.chain([titles[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..titles.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = (usize, String)>, number: usize, plain: bool| {
        let cells = cells.map(|(column, cell)| {
            let is_last = column + 1 == titles.len();
            let cell = if is_last { cell } else { format!("{cell:<width$}", width = widths[column]) };
            if plain { cell } else { painted(number, column, cell) }
        });
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let head = line(&mut titles.iter().map(|title| (*title).to_owned()).enumerate(), 0, true);
    let body = rows.iter().enumerate().map(|(number, row)| line(&mut row.iter().cloned().enumerate(), number, false));
    std::iter::once(head).chain(body).collect::<Vec<_>>().join("\n")
}

/// `12 ms`, `1.25 s`, `3 min 5 s`, `2 h 10 min`, `4 d 2 h`.
pub fn duration(ms: f64) -> String {
    let seconds = (ms / 1000.0).round() as u64;
    match ms {
        _ if ms < 10.0 => format!("{ms:.1} ms"),
        _ if ms < 1000.0 => format!("{ms:.0} ms"),
        _ if ms < 60_000.0 => format!("{:.2} s", ms / 1000.0),
        _ if seconds < 3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ if seconds < 86_400 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_the_last_one_is_not_padded() {
        let rows = [vec!["a".to_owned(), "first".to_owned()], vec!["longer".to_owned(), "x".to_owned()]];
        assert_eq!(table(&["ID", "WHY"], &rows, |_, _, cell| cell), "ID      WHY\na       first\nlonger  x");
    }

    #[test]
    fn what_a_customer_wrote_gives_the_terminal_no_orders() {
        assert_eq!(harmless("a\x1b[2Jb\n"), "a\u{fffd}[2Jb\u{fffd}");
    }

    #[test]
    fn a_duration_has_the_units_that_people_would_choose() {
        for (ms, told) in [
            (1.25, "1.2 ms"),
            (999.0, "999 ms"),
            (1250.0, "1.25 s"),
            (185_000.0, "3 min 5 s"),
            (7_800_000.0, "2 h 10 min"),
            (352_800_000.0, "4 d 2 h"),
        ] {
            assert_eq!(duration(ms), told);
        }
    }

    #[test]
    fn without_colour_there_is_none() {
        assert_eq!(Paint(false).state("FAILED", "x"), "x");
        assert_eq!(Paint(true).state("FAILED", "x"), "\x1b[31mx\x1b[0m");
    }
}
