//! Rules for alerts: targets that can be reached, told apart, and don't hold up what waits for them.

use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::health::whole_milliseconds;
use crate::config::model::{Alert, Target};
use crate::config::place::{Place, Problem};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);
const MOST_RETRIES: u32 = 10;
/// A node that must tell more programs than this has another problem.
const MOST: usize = 32;

pub(crate) fn check(alerts: &[Alert], problems: &mut Vec<Problem>) {
    let mut seen = HashMap::new();
    for (a, alert) in alerts.iter().enumerate() {
        times(a, alert, problems);
        target(a, &alert.target, problems);
        let first = *seen.entry(alert.target.identity()).or_insert(a);
        if first != a {
            let message = "this target has an [[alert]] already";
            let hint = "make it one, with all `events` that it is to be told of";
            problems.push(
                Problem::new(Place::AlertKey(a, key_of(&alert.target)), message, hint)
                    .with(Place::AlertKey(first, key_of(&alert.target)), "first named here"),
            );
        }
    }
    if alerts.len() > MOST {
        let message = format!("there are {} alerts, and {MOST} is the most", alerts.len());
        let hint = "tell one of them, and let it tell the others";
        problems.push(Problem::new(Place::Alert(MOST), message, hint));
    }
}

fn key_of(target: &Target) -> &'static str {
    match target {
        Target::Webhook { .. } => "webhook",
        Target::Exec { .. } => "exec",
    }
}

fn times(a: usize, alert: &Alert, problems: &mut Vec<Problem>) {
    let rows: [(_, _, RangeInclusive<Duration>, _, _); 3] = [
        (
            "timeout",
            alert.timeout,
            10 * MS..=20 * SECOND,
            "10ms to 20s",
            "5s, the default, suits most targets",
        ),
        (
            "repeat",
            alert.repeat,
            MINUTE..=7 * DAY,
            "1m to 168h",
            "4h, the default, reminds twice a working day",
        ),
        (
            "batch",
            alert.batch,
            Duration::ZERO..=MINUTE,
            "0s to 1m",
            "1s, the default, puts what a failure causes into one message",
        ),
    ];
    for (key, value, bounds, words, hint) in rows {
        if !bounds.contains(&value) || !whole_milliseconds(value) {
            let message = format!("`{key}` must be {words}");
            problems.push(Problem::new(Place::AlertKey(a, key), message, hint));
        }
    }
    if alert.retries > MOST_RETRIES {
        let message = format!("`retries` must be 0 to {MOST_RETRIES}");
        let hint = "what could not be told and still holds is tried again a minute later anyway";
        problems.push(Problem::new(Place::AlertKey(a, "retries"), message, hint));
    }
}

fn target(a: usize, target: &Target, problems: &mut Vec<Problem>) {
    let mut add = |key, message: String, hint: &str| {
        problems.push(Problem::new(Place::AlertKey(a, key), message, hint));
    };
    match target {
        Target::Webhook { url, headers_file, ca_file } => {
            for (key, file) in [("headers_file", headers_file), ("ca_file", ca_file)] {
                if file.as_ref().is_some_and(|file| !is_path(file)) {
                    let hint = "write an absolute path, such as \"/etc/holdfast/alert-headers\"";
                    add(key, format!("`{key}` is no absolute path"), hint);
                }
            }
            if ca_file.is_some() && !url.https {
                let hint = "write https://, or remove this key";
                add("ca_file", "the webhook is plain http: nothing is verified".into(), hint);
            }
        }
        Target::Exec { command } => {
            if !command.first().is_some_and(|program| is_path(program)) {
                let message = "the program is no absolute path".to_owned();
                add("exec", message, "write exec = [\"/usr/local/bin/page\", \"ARGUMENT\"]");
            } else if command.iter().any(|argument| argument.contains('\0')) {
                add("exec", "an argument has a NUL byte".into(), "remove it");
            }
        }
    }
}

fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains('\0')
}
