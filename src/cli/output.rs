//! What a command prints for its caller: stdout, and progress on stderr.
//!
//! A closed pipe is no error, and ends nothing: `reeve apply | head` must not stop half-way, so that what can no longer be
//! printed is dropped without a word. `println!` panics there and is used nowhere.

use std::fmt;
use std::io::{self, IsTerminal as _, Write};

use anstream::{AutoStream, ColorChoice};
use serde::Serialize;

use crate::style::Style;

/// `--color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

impl Color {
    fn choice(self) -> ColorChoice {
        match self {
            Self::Auto => ColorChoice::Auto,
            Self::Always => ColorChoice::AlwaysAnsi,
            Self::Never => ColorChoice::Never,
        }
    }

    fn style<S: anstream::stream::RawStream>(self, stream: &S) -> Style {
        let coloured = match self {
            Self::Auto => AutoStream::choice(stream) != ColorChoice::Never,
            Self::Always => true,
            Self::Never => false,
        };
        if coloured { Style::coloured() } else { Style::plain() }
    }

    /// Whether what goes to stderr is coloured.
    pub fn coloured_stderr(self) -> bool {
        self.style_of_stderr() != Style::plain()
    }

    /// For what goes to stderr.
    pub fn style_of_stderr(self) -> Style {
        self.style(&io::stderr())
    }
}

/// Stdout of a command.
pub struct Output {
    writer: Box<dyn Write + Send>,
    style: Style,
    terminal: bool,
    closed: bool,
}

impl fmt::Debug for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Output")
            .field("style", &self.style)
            .field("terminal", &self.terminal)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

impl Output {
    pub fn stdout(color: Color) -> Self {
        let stdout = io::stdout();
        let style = color.style(&stdout);
        let terminal = stdout.is_terminal();
        Self { writer: Box::new(AutoStream::new(stdout, color.choice())), style, terminal, closed: false }
    }

    /// Into anything, without colour.
    pub fn plain(writer: impl Write + Send + 'static) -> Self {
        Self { writer: Box::new(writer), style: Style::plain(), terminal: false, closed: false }
    }

    pub fn style(&self) -> Style {
        self.style
    }

    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// The reader is gone: nothing more can be printed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Columns of the terminal; none elsewhere.
    pub fn width(&self) -> Option<u16> {
        if !self.terminal {
            return None;
        }
        let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
        Some(size.ws_col).filter(|columns| *columns > 0)
    }

    /// Prints text as it is.
    ///
    /// # Errors
    /// What the system says, a closed pipe excepted.
    pub fn text(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.write(format_args!("{text}"))
    }

    /// Prints a line.
    ///
    /// # Errors
    /// As [`Output::text`].
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        self.write(format_args!("{text}\n"))
    }

    /// Prints a value as indented JSON and a newline.
    ///
    /// # Errors
    /// As [`Output::text`]; also when the value cannot be serialised.
    pub fn json(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string_pretty(value)?;
        self.line(text)
    }

    /// Prints a value as JSON on one line.
    ///
    /// # Errors
    /// As [`Output::json`].
    pub fn json_line(&mut self, value: &impl Serialize) -> io::Result<()> {
        let text = serde_json::to_string(value)?;
        self.line(text)
    }

    fn write(&mut self, arguments: fmt::Arguments<'_>) -> io::Result<()> {
        if self.closed {
            return Ok(());
        }
        // One write for the whole text: a reader sees no half lines.
        let text = arguments.to_string();
        match self.writer.write_all(text.as_bytes()).and_then(|()| self.writer.flush()) {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.closed = true;
                Ok(())
            }
            other => other,
        }
    }
}

/// Progress of long work, on stderr: one line that changes on a terminal, a line for each change elsewhere.
pub struct Progress {
    writer: Box<dyn Write + Send>,
    terminal: bool,
    last: String,
}

impl fmt::Debug for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Progress").field("terminal", &self.terminal).field("last", &self.last).finish_non_exhaustive()
    }
}

impl Progress {
    pub fn stderr() -> Self {
        let stderr = io::stderr();
        let terminal = stderr.is_terminal();
        Self { writer: Box::new(stderr), terminal, last: String::new() }
    }

    /// What is being done now. The same text twice shows once.
    pub fn now(&mut self, text: &str) {
        if text == self.last {
            return;
        }
        self.last = text.to_owned();
        // Progress that cannot be shown must not stop the work.
        let _ = if self.terminal {
            write!(self.writer, "\r\u{1b}[2K{text}").and_then(|()| self.writer.flush())
        } else {
            writeln!(self.writer, "{text}")
        };
    }

    /// A line that stays: something is done.
    pub fn done(&mut self, text: &str) {
        let clear = if self.terminal { "\r\u{1b}[2K" } else { "" };
        self.last.clear();
        let _ = writeln!(self.writer, "{clear}{text}");
    }

    /// Takes the changing line away.
    pub fn clear(&mut self) {
        if self.terminal && !self.last.is_empty() {
            let _ = write!(self.writer, "\r\u{1b}[2K").and_then(|()| self.writer.flush());
        }
        self.last.clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    /// A writer that takes so many bytes and then is a closed pipe.
    struct Pipe {
        taken: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut taken = self.taken.lock().expect("not poisoned");
            if taken.len() >= self.room {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            taken.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_closed_pipe_is_no_error_and_is_told() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let mut output = Output::plain(Pipe { taken: Arc::clone(&taken), room: 3 });
        for _ in 0..3 {
            output.line("one").expect("no error");
        }
        assert!(output.is_closed());
        assert_eq!(taken.lock().expect("not poisoned").as_slice(), b"one\n");
    }

    #[test]
    fn progress_elsewhere_than_on_a_terminal_is_plain_lines_without_repetition() {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let pipe = Pipe { taken: Arc::clone(&taken), room: usize::MAX };
        let mut progress = Progress { writer: Box::new(pipe), terminal: false, last: String::new() };
        progress.now("waits for web");
        progress.now("waits for web");
        progress.done("web is there");
        drop(progress);
        assert_eq!(taken.lock().expect("not poisoned").as_slice(), b"waits for web\nweb is there\n");
    }
}
