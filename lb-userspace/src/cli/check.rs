//! `lb check`: reads a file as `lb run` and `lb apply` would, and touches nothing.

use std::path::Path;

use serde::Serialize;

use super::output::{Failed, print, print_json, warn};
use crate::config::model::Service;
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
    let count =
        |n: usize, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let sum = |of: fn(&Service) -> usize| -> usize {
        config.services.iter().map(|service| of(service)).sum()
    };
    let mut parts = vec![
        count(config.services.len(), "service", "services"),
        count(sum(|service| service.listen.len()), "frontend", "frontends"),
        count(sum(|service| service.backends.len()), "backend", "backends"),
    ];
    // Only where there are any: most files have none.
    let rarer = [
        (config.alerts.len(), "target of alerts", "targets of alerts"),
        (sum(|service| service.allow.len()), "allowed source", "allowed sources"),
        (
            sum(|service| service.backends.iter().filter(|b| b.server_id.is_some()).count()),
            "server id",
            "server ids",
        ),
        (sum(|service| usize::from(service.rate_limit.is_some())), "rate limit", "rate limits"),
    ];
    parts.extend(rarer.iter().filter(|(n, ..)| *n > 0).map(|(n, one, many)| count(*n, one, many)));
    parts.join(", ")
}
