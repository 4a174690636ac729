//! Text that comes from outside and is read by people: which characters it may have.
//!
//! Two ids that look the same must be the same, and what is written must be what is read. So a text has no control
//! characters, no separators of lines, and none of Unicode's default-ignorable code points (UAX #44), which have no
//! glyph: zero-width spaces, bidirectional controls, fillers, tags.

use std::ops::RangeInclusive;

/// Which rule a text breaks. The text is meant for the person who sent it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    #[error("must not be blank")]
    Blank,
    #[error("must have at most {0} characters")]
    TooLong(usize),
    #[error("must not contain control characters (U+{:04X})", u32::from(*.0))]
    ControlCharacter(char),
    #[error("must not contain invisible characters (U+{:04X})", u32::from(*.0))]
    Invisible(char),
}

/// Default-ignorable code points, the separators of lines and paragraphs, and the interlinear annotations beside them.
pub(crate) const INVISIBLE: [RangeInclusive<char>; 17] = [
    '\u{ad}'..='\u{ad}',
    '\u{34f}'..='\u{34f}',
    '\u{61c}'..='\u{61c}',
    '\u{115f}'..='\u{1160}',
    '\u{17b4}'..='\u{17b5}',
    '\u{180b}'..='\u{180f}',
    '\u{200b}'..='\u{200f}',
    '\u{2028}'..='\u{202e}',
    '\u{2060}'..='\u{206f}',
    '\u{3164}'..='\u{3164}',
    '\u{fe00}'..='\u{fe0f}',
    '\u{feff}'..='\u{feff}',
    '\u{ffa0}'..='\u{ffa0}',
    '\u{fff0}'..='\u{fffb}',
    '\u{1bca0}'..='\u{1bca3}',
    '\u{1d173}'..='\u{1d17a}',
    '\u{e0000}'..='\u{e0fff}',
];

/// What words and emoji are written with: the joiners of Persian and Indic scripts, and the selectors of a character's
/// text or emoji form. They stay invisible in a name.
pub(crate) const PARTS_OF_WORDS: [char; 4] = ['\u{200c}', '\u{200d}', '\u{fe0e}', '\u{fe0f}'];

/// Whether a character makes a text look other than it is: where it can't be refused, it is shown as a replacement.
pub fn is_hidden(c: char) -> bool {
    c.is_control() || (is_invisible(c) && !PARTS_OF_WORDS.contains(&c))
}

/// Checks a name or an id: not blank, at most `most` characters, all of them to be seen.
pub fn check_name(text: &str, most: usize) -> Result<(), TextError> {
    check(text, most, is_invisible)
}

/// Checks sentences: as [`check_name`], but what belongs to words is allowed.
pub fn check_prose(text: &str, most: usize) -> Result<(), TextError> {
    check(text, most, |c| is_invisible(c) && !PARTS_OF_WORDS.contains(&c))
}

/// Checks what an earlier release may have taken as a name: it may hold invisible characters.
pub(crate) fn check_accepted_name(text: &str, most: usize) -> Result<(), TextError> {
    check(text, most, |_| false)
}

fn check(text: &str, most: usize, is_refused: impl Fn(char) -> bool) -> Result<(), TextError> {
    if text.trim().is_empty() {
        Err(TextError::Blank)
    } else if text.chars().count() > most {
        Err(TextError::TooLong(most))
    } else if let Some(control) = text.chars().find(|c| c.is_control()) {
        Err(TextError::ControlCharacter(control))
    } else if let Some(invisible) = text.chars().find(|c| is_refused(*c)) {
        Err(TextError::Invisible(invisible))
    } else {
        Ok(())
    }
}

fn is_invisible(c: char) -> bool {
    !c.is_ascii() && INVISIBLE.iter().any(|range| range.contains(&c))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn what_can_not_be_seen_is_refused_in_a_name_by_its_code_point() {
        for hidden in ['\u{200b}', '\u{200d}', '\u{202e}', '\u{2066}', '\u{2028}', '\u{feff}', '\u{3164}', '\u{e0041}']
        {
            let error = check_name(&format!("u{hidden}1"), 128).unwrap_err();
            assert_eq!(error, TextError::Invisible(hidden));
            assert!(error.to_string().ends_with(&format!("(U+{:04X})", u32::from(hidden))), "{error}");
        }
        assert_eq!(check_name("u\u{85}1", 128), Err(TextError::ControlCharacter('\u{85}')));
    }

    #[test]
    fn words_of_every_script_and_emoji_may_be_written() {
        for text in ["می‌خواهم", "क्‍ष", "⚠️ the bank is back", "👩‍💻 deployed it", "naïve", "日本"]
        {
            assert_eq!(check_prose(text, 100), Ok(()), "{text}");
        }
        for hidden in ['\u{200b}', '\u{202e}', '\u{2069}', '\u{2029}', '\u{fe00}'] {
            assert_eq!(check_prose(&format!("a{hidden}b"), 100), Err(TextError::Invisible(hidden)));
        }
    }

    #[test]
    fn the_table_has_every_character_that_unicode_calls_default_ignorable() {
        // The planes in which there is something.
        let characters = || ('\0'..='\u{1ffff}').chain('\u{e0000}'..='\u{e1fff}');
        let every: String = characters().collect();
        let ignorable = regex::Regex::new(r"[\p{Default_Ignorable_Code_Point}\p{Zl}\p{Zp}\x{FFF9}-\x{FFFB}]").unwrap();
        let expected: HashSet<_> = ignorable.find_iter(&every).map(|found| found.as_str()).collect();
        let differ: Vec<_> = characters()
            .filter(|c| is_invisible(*c) != expected.contains(&*c.encode_utf8(&mut [0; 4])))
            .map(|c| format!("U+{:04X}", u32::from(c)))
            .collect();
        assert_eq!(differ, Vec::<String>::new());
    }
}
