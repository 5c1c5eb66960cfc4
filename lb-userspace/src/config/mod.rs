//! The configuration: from TOML to a checked [`model::Config`], and back.
//!
//! [`parse`] and [`load`] read a file; [`validate`] checks a configuration that came another way
//! (the API, the command line). Both use the same cross-checks, so nothing reaches the control
//! loop that a file could not have said. Nothing here panics, whatever the input.

mod alert;
mod check;
mod diagnostics;
mod diff;
mod edit;
mod failover;
mod frontend;
mod host;
mod lower;
mod malformed;
pub mod model;
mod nets;
mod percent;
mod pieces;
mod place;
mod prefix;
mod probe;
mod raw;
mod server_id;
mod suggest;
mod url;
mod value;
mod warn;
mod write;

#[cfg(test)]
mod props;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::io::Read;
use std::path::Path;

pub use check::is_name;
pub use diagnostics::{Diagnostic, Diagnostics};
pub use diff::diff;
pub use edit::{apply_backend_change, find_service, locate};
pub use malformed::Malformed;
pub use model::Config;
pub use place::Place;
pub use suggest::{closest, one_of};
pub use value::{format_duration, parse_duration};
pub use warn::warnings;
pub use write::to_toml;

use crate::report::{Error, ErrorKind};

/// Larger files are refused: room for a million backends, and no more to chew on by accident.
pub const MAX_BYTES: usize = 64 << 20;

/// Reads a configuration; on error, everything that is wrong with it.
pub fn parse(source: &str, file_name: &str) -> Result<Config, Diagnostics> {
    if source.len() > MAX_BYTES {
        return Err(Diagnostics::whole_file(
            file_name,
            &format!("the file has {} bytes; at most {MAX_BYTES} are read", source.len()),
            "split the services over several nodes, or check that this is the right file",
        ));
    }
    let sound = pieces::read(source).filter(|config| validate(config).is_ok());
    if let Some(config) = sound {
        return Ok(config);
    }
    read_whole(source, file_name)
}

/// Reads what has something wrong with it, as a rule, and says what and where.
fn read_whole(source: &str, file_name: &str) -> Result<Config, Diagnostics> {
    let raw =
        raw::read(source).map_err(|found| Diagnostics::new(file_name, source, vec![found]))?;
    let lowered = lower::lower(raw);
    let mut findings = lowered.findings;
    findings.extend(
        check::check(&lowered.config, &lowered.gaps)
            .into_iter()
            .map(|problem| lowered.spans.resolve(problem)),
    );
    if findings.is_empty() {
        Ok(lowered.config)
    } else {
        Err(Diagnostics::new(file_name, source, findings))
    }
}

/// Reads a configuration from bytes that need not be UTF-8.
pub fn parse_bytes(bytes: &[u8], file_name: &str) -> Result<Config, Diagnostics> {
    match std::str::from_utf8(bytes) {
        Ok(source) => parse(source, file_name),
        Err(error) => Err(Diagnostics::not_utf8(file_name, bytes, error.valid_up_to())),
    }
}

/// Why a file gave no configuration.
#[derive(Debug)]
pub enum LoadError {
    Unreadable(std::io::Error),
    Invalid(Diagnostics),
}

impl std::fmt::Display for LoadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Self::Invalid(diagnostics) => diagnostics.fmt(f),
        }
    }
}

/// Reads a configuration file.
pub fn load(path: &Path) -> Result<Config, LoadError> {
    let mut bytes = Vec::new();
    let limit = MAX_BYTES as u64 + 1;
    File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(LoadError::Unreadable)?;
    let name = path.display().to_string();
    if bytes.len() > MAX_BYTES {
        return Err(LoadError::Invalid(Diagnostics::whole_file(
            &name,
            &format!("the file has more than {MAX_BYTES} bytes, the most that is read"),
            "split the services over several nodes, or check that this is the right file",
        )));
    }
    parse_bytes(&bytes, &name).map_err(LoadError::Invalid)
}

/// The same cross-checks for a configuration that did not come from a file.
pub fn validate(config: &Config) -> Result<(), Error> {
    let problems = check::check(config, &place::Gaps::default());
    let Some(first) = problems.first() else { return Ok(()) };
    let kind = if problems.iter().all(|problem| problem.conflict) {
        ErrorKind::Conflict
    } else {
        ErrorKind::Invalid
    };
    let lines: Vec<String> = problems
        .iter()
        .take(diagnostics::MAX_SHOWN)
        .map(|problem| format!("{}: {}", problem.place.describe(config), problem.message))
        .collect();
    let hint = match problems.len() {
        1 => first.hint.clone(),
        _ => problems.iter().take(3).map(|p| p.hint.as_str()).collect::<Vec<_>>().join("; "),
    };
    Err(Error { kind, message: lines.join("\n"), hint: Some(hint) })
}
