//! What a command leaves behind: its result on stdout, its failure on stderr, and an exit code.

use std::io::{ErrorKind as IoKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

use serde::Serialize;

use crate::api::Failure;
use crate::config::{Diagnostics, LoadError};
use crate::report::{Error, ErrorKind};

const FAILED: u8 = 1;
const BAD_INPUT: u8 = 2;
const UNREACHABLE: u8 = 3;
const NOT_FOUND: u8 = 4;

/// A command that did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failed {
    Error {
        error: Error,
        code: u8,
    },
    Invalid(Box<Diagnostics>),
    /// Already told on stdout.
    Told(u8),
}

impl Failed {
    pub(crate) fn unloadable(file: &Path, error: LoadError) -> Self {
        match error {
            LoadError::Invalid(diagnostics) => Self::Invalid(Box::new(diagnostics)),
            LoadError::Unreadable(error) => {
                let message = format!("can't read {}: {error}", file.display());
                let hint = match error.kind() {
                    IoKind::PermissionDenied => "use sudo, or make the file readable",
                    IoKind::NotFound => "name the file: `lb run -c FILE`, `lb check FILE`",
                    _ => "is this a configuration file?",
                };
                Self::bad_input(Error::new(ErrorKind::Invalid, message, hint))
            }
        }
    }

    /// An error of what was typed, whatever its kind.
    pub(crate) fn bad_input(error: Error) -> Self {
        Self::Error { error, code: BAD_INPUT }
    }

    pub(crate) fn invalid_input() -> Self {
        Self::Told(BAD_INPUT)
    }

    /// What failed is in the result.
    pub(crate) fn told_failure() -> Self {
        Self::Told(FAILED)
    }

    /// An error of the daemon's own start; keeps what it says about itself.
    pub(crate) fn from_anyhow(error: anyhow::Error) -> Self {
        let error = match error.downcast::<Diagnostics>() {
            Ok(diagnostics) => return Self::Invalid(Box::new(diagnostics)),
            Err(error) => error,
        };
        match error.downcast::<Error>() {
            Ok(error) => error.into(),
            Err(error) => {
                let message = format!("{error:#}");
                Error { kind: ErrorKind::Internal, message, hint: None }.into()
            }
        }
    }

    fn code(&self) -> u8 {
        match self {
            Self::Error { code, .. } | Self::Told(code) => *code,
            Self::Invalid(_) => BAD_INPUT,
        }
    }

    /// Tells it on stderr; the exit code.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        let text = match self {
            Self::Told(_) => String::new(),
            Self::Error { error, .. } if json => pretty(error),
            Self::Error { error, .. } => {
                let hint = error.hint.as_ref().map(|hint| format!("  {hint}\n"));
                format!(
                    "\u{1b}[1;31merror\u{1b}[0m: {}\n{}",
                    safe(&error.message),
                    safe(&hint.unwrap_or_default())
                )
            }
            Self::Invalid(diagnostics) if json => pretty(&as_error(diagnostics)),
            Self::Invalid(diagnostics) => {
                let count = diagnostics.count();
                let errors = if count == 1 { "error" } else { "errors" };
                format!("{}\n{}: {count} {errors}\n", diagnostics.render(true), diagnostics.file())
            }
        };
        // Nothing is left to do if even stderr is gone.
        let _ = anstream::stderr().write_all(text.as_bytes());
        ExitCode::from(self.code())
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        let code = match error.kind {
            ErrorKind::Invalid => BAD_INPUT,
            ErrorKind::NotFound => NOT_FOUND,
            ErrorKind::Unreachable => UNREACHABLE,
            ErrorKind::Conflict | ErrorKind::Refused | ErrorKind::Internal => FAILED,
        };
        Self::Error { error, code }
    }
}

impl From<Failure> for Failed {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(error) | Failure::Refused(error) => error.into(),
        }
    }
}

/// Prints a result; text that comes with colour loses it where it isn't wanted.
pub(crate) fn print(text: &str) -> Result<(), Failed> {
    let mut stdout = anstream::stdout();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        // `lb status | head` has seen enough.
        Err(error) if error.kind() == IoKind::BrokenPipe => Err(Failed::Told(0)),
        Err(error) => {
            let message = format!("can't write the result: {error}");
            Err(Error { kind: ErrorKind::Internal, message, hint: None }.into())
        }
    }
}

pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failed> {
    print(&pretty(value))
}

/// Tells of something unwise on stderr.
pub(crate) fn warn(text: &str) {
    let line = format!("\u{1b}[1;33mwarning\u{1b}[0m: {}\n", safe(text));
    let _ = anstream::stderr().write_all(line.as_bytes());
}

pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// What the command line itself got wrong, in clap's words.
pub(crate) fn usage(error: &clap::Error, json: bool) -> ExitCode {
    if json && error.use_stderr() {
        let text = error.to_string();
        let message = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
        let error = Error::new(ErrorKind::Invalid, message, "see `lb --help`");
        return Failed::from(error).report(true);
    }
    let _ = error.print();
    ExitCode::from(if error.use_stderr() { BAD_INPUT } else { 0 })
}

fn as_error(diagnostics: &Diagnostics) -> Error {
    let hint = diagnostics.items().first().map(|first| first.hint.clone());
    Error { kind: ErrorKind::Invalid, message: diagnostics.lines().join("\n"), hint }
}

fn pretty(value: &impl Serialize) -> String {
    // The report types have nothing that JSON can't say.
    let mut text = serde_json::to_string_pretty(value).unwrap_or_default();
    text.push('\n');
    text
}

/// Without control characters, which a terminal would obey.
pub(crate) fn safe(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
