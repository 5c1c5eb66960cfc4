//! The command `lb`: arguments in, one request to the daemon, text or JSON out.
//!
//! Exit codes are part of the interface and listed in `lb --help`. Nothing here decides anything
//! about balancing: that is the daemon's.

mod args;
mod check;
mod commands;
mod decap;
mod output;
pub mod run;
mod text;
mod types;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command, DEFAULT_SOCKET, Format};
use output::Failed;

pub use run::{LogFormat, RunOptions};

/// Runs the command line; `main` does nothing else.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let cli = match Cli::try_parse_from(&arguments) {
        Ok(cli) => cli,
        Err(error) => return output::usage(&error, wants_json(&arguments)),
    };
    cli.global.color.write_global();
    let json = cli.global.output == Format::Json;
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failed) => failed.report(json),
    }
}

fn execute(cli: Cli) -> Result<(), Failed> {
    let json = cli.global.output == Format::Json;
    let socket = socket(cli.global.socket);
    match cli.command {
        Command::Run(args) => run::run(*args, socket),
        Command::Decap(args) => decap::run(*args, json),
        Command::Check { file } => check::check(&file, json),
        Command::Version => commands::version(json),
        command => commands::ask(command, &socket, json),
    }
}

fn socket(given: Option<PathBuf>) -> PathBuf {
    let environment = || std::env::var_os("HOLDFAST_SOCKET").filter(|path| !path.is_empty());
    given
        .or_else(|| environment().map(PathBuf::from))
        .unwrap_or_else(|| PathBuf::from(DEFAULT_SOCKET))
}

/// Whether JSON was asked for on a command line that can't be read otherwise.
fn wants_json(arguments: &[OsString]) -> bool {
    let text = |at: usize| arguments.get(at).and_then(|argument| argument.to_str());
    (0..arguments.len()).any(|at| match text(at) {
        Some("-o" | "--output") => text(at + 1) == Some("json"),
        Some(argument) => ["-ojson", "-o=json", "--output=json"].contains(&argument),
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn json_is_recognised_on_a_broken_command_line() {
        let wants = |line: &str| {
            let arguments: Vec<OsString> = line.split(' ').map(OsString::from).collect();
            wants_json(&arguments)
        };
        for line in ["lb -o json bad", "lb bad -ojson", "lb --output json", "lb x --output=json"] {
            assert!(wants(line), "{line}");
        }
        for line in ["lb", "lb -o text", "lb json -o", "lb check json"] {
            assert!(!wants(line), "{line}");
        }
    }
}
