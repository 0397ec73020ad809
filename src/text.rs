//! Text that this crate did not write, such as the name of a file, in reports and labels.

use std::borrow::Cow;

/// Returns whether a character could make a terminal, a log or a reader take a text for something
/// else: a control character, a line separator, or one that changes the direction of writing.
pub(crate) fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{61c}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2066}'..='\u{2069}'
        )
}

/// Replaces deceptive characters by `_`.
pub(crate) fn clean<'t>(text: impl Into<Cow<'t, str>>) -> Cow<'t, str> {
    let text = text.into();
    if text.contains(is_deceptive) { text.replace(is_deceptive, "_").into() } else { text }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_cannot_forge_a_line_or_hide_what_it_says() {
        assert_eq!(clean("a\u{1b}[31mred\r\nERROR forged"), "a_[31mred__ERROR forged");
        assert_eq!(clean("a\u{202e}b\u{2066}c\u{2028}d\u{85}e\u{7f}"), "a_b_c_d_e_");
        assert!(matches!(clean("größe 漢字 – “ok”"), Cow::Borrowed(_)));
    }

    proptest! {
        #[test]
        fn property_a_clean_text_has_nothing_deceptive(text in any::<String>()) {
            let cleaned = clean(&*text);
            prop_assert!(!cleaned.contains(is_deceptive), "{:?}", cleaned);
            prop_assert_eq!(cleaned.chars().count(), text.chars().count());
        }
    }
}
