//! `lb check`: reads a file as `lb run` and `lb apply` would, and touches nothing.

use std::path::Path;

use serde::Serialize;

use super::output::{Failed, print, print_json, warn};
use crate::config::{Config, Diagnostic, LoadError, load, warnings};

/// What `lb check -o json` prints, whether the file is valid or not.
#[derive(Serialize)]
struct Checked<'a> {
    file: String,
    valid: bool,
    errors: &'a [Diagnostic],
    warnings: Vec<String>,
}

pub(crate) fn check(file: &Path, json: bool) -> Result<(), Failed> {
    let name = file.display().to_string();
    match load(file) {
        Ok(config) if json => {
            let warnings = warnings(&config);
            print_json(&Checked { file: name, valid: true, errors: &[], warnings })
        }
        Ok(config) => {
            warnings(&config).iter().for_each(|text| warn(text));
            print(&format!("{name} is valid: {}\n", summary(&config)))
        }
        Err(LoadError::Invalid(diagnostics)) if json => {
            let errors = diagnostics.items();
            print_json(&Checked { file: name, valid: false, errors, warnings: vec![] })?;
            Err(Failed::invalid_input())
        }
        Err(error) => Err(Failed::unloadable(file, error)),
    }
}

fn summary(config: &Config) -> String {
    let count = |n: usize, what: &str| format!("{n} {what}{}", if n == 1 { "" } else { "s" });
    let sum =
        |of: fn(&crate::config::model::Service) -> usize| config.services.iter().map(of).sum();
    [
        count(config.services.len(), "service"),
        count(sum(|service| service.listen.len()), "frontend"),
        count(sum(|service| service.backends.len()), "backend"),
    ]
    .join(", ")
}
