//! Colours of words in the output. Pure: whether there is colour is decided by `cli::Output`.
//!
//! Symbols carry the meaning, colour only repeats it, so that nothing is lost without it.

use std::fmt;

use anstyle::{AnsiColor, Style as Ansi};

/// Paints words, or leaves them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Style {
    colour: bool,
}

/// A word with its colour.
#[derive(Debug, Clone, Copy)]
pub struct Painted<T> {
    word: T,
    style: Option<Ansi>,
}

impl<T: fmt::Display> fmt::Display for Painted<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.style {
            Some(style) => {
                write!(f, "{style}")?;
                // The word itself, so that width and alignment do not count the colour.
                self.word.fmt(f)?;
                write!(f, "{style:#}")
            }
            None => self.word.fmt(f),
        }
    }
}

impl Style {
    pub const fn plain() -> Self {
        Self { colour: false }
    }

    pub const fn coloured() -> Self {
        Self { colour: true }
    }

    fn paint<T: fmt::Display>(self, word: T, style: Ansi) -> Painted<T> {
        Painted { word, style: self.colour.then_some(style) }
    }

    /// What is added: green.
    #[expect(clippy::should_implement_trait, reason = "a style is never added to anything")]
    pub fn add<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Green.on_default())
    }

    /// What is changed in place: yellow.
    pub fn change<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Yellow.on_default())
    }

    /// What is removed: red.
    pub fn destroy<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Red.on_default())
    }

    /// What is replaced: magenta, so that it is neither only added nor only removed.
    pub fn replace<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Magenta.on_default())
    }

    /// Places and numbers in a diff: cyan.
    pub fn place<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Cyan.on_default())
    }

    pub fn bold<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, Ansi::new().bold())
    }

    /// Causes and hints.
    pub fn dim<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, Ansi::new().dimmed())
    }

    /// The word `error`.
    pub fn error<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Red.on_default().bold())
    }

    /// The word `warning`.
    pub fn warning<T: fmt::Display>(self, word: T) -> Painted<T> {
        self.paint(word, AnsiColor::Yellow.on_default().bold())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_words_stay_as_they_are_and_painted_ones_keep_their_width() {
        assert_eq!(format!("{:>3}", Style::plain().add("+")), "  +");
        assert_eq!(format!("{:>3}", Style::coloured().add("+")), "\u{1b}[32m  +\u{1b}[0m");
    }
}
