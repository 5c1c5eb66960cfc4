//! What is wrong and who was told; what became of test messages.

use super::WIDTH;
use super::format::{count, wrap};
use super::status::problem;
use super::table::Table;
use crate::report::{AlertTest, Alerts, age};

/// What is wrong, as in `lb status`, with who was told; then the targets. `now_ms` is since the
/// epoch.
pub(crate) fn alerts(alerts: &Alerts, now_ms: u64) -> String {
    let mut out = String::new();
    for state in &alerts.alerts {
        let condition = &state.condition;
        problem(condition, WIDTH, &mut out);
        let since = condition.since_ms.map_or(0, |since| now_ms.saturating_sub(since));
        let told = match state.notified.as_slice() {
            [] => "nobody was told".to_owned(),
            names => format!("told: {}", names.join(", ")),
        };
        let (severity, kind) = (condition.severity, condition.kind);
        let text = format!("{severity}, {kind}, for {}; {told}", age(since));
        out.push_str(&wrap(&text, "    ", "      ", WIDTH));
    }
    if alerts.alerts.is_empty() {
        out.push_str("ok nothing is wrong\n");
    }
    if alerts.left_out > 0 {
        let text = format!("{} more are not followed: nobody is told of them", alerts.left_out);
        out.push_str(&wrap(&text, "! ", "  ", WIDTH));
    }
    out.push('\n');
    targets(alerts, now_ms, &mut out);
    out
}

fn targets(alerts: &Alerts, now_ms: u64, out: &mut String) {
    if alerts.targets.is_empty() {
        let text = "nobody is told: add an [[alert]] to the configuration";
        out.push_str(&wrap(text, "", "", WIDTH));
        return;
    }
    let mut table = Table::new(&["TARGET", "SENT", "FAILED", "WAITING", "LAST SENT"], &[0]);
    for target in &alerts.targets {
        let last = target.last_sent_ms.map(|at| format!("{} ago", age(now_ms.saturating_sub(at))));
        table.row([
            target.name.clone(),
            count(target.sent),
            count(target.failed),
            count(target.waiting),
            last.unwrap_or_else(|| "never".into()),
        ]);
    }
    out.push_str(&table.render(WIDTH));
    for target in &alerts.targets {
        if let Some(error) = &target.last_error {
            out.push_str(&wrap(&format!("{}: {error}", target.name), "! ", "  ", WIDTH));
        }
    }
}

/// A line for each target.
pub(crate) fn alert_tests(tests: &[AlertTest]) -> String {
    if tests.is_empty() {
        return "nobody to tell: add an [[alert]] to the configuration\n".into();
    }
    let mut out = String::new();
    for AlertTest { target, error, took_ms } in tests {
        let (text, first) = match error {
            None => (format!("{target} took it within {took_ms} ms"), "ok "),
            Some(error) => (format!("{target} failed after {took_ms} ms: {error}"), "! "),
        };
        out.push_str(&wrap(&text, first, "  ", WIDTH));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{AlertState, AlertTarget, sample};

    fn target(name: &str, last_error: Option<&str>) -> AlertTarget {
        AlertTarget {
            name: name.into(),
            sent: 12,
            failed: 0,
            waiting: 1,
            last_sent_ms: last_error.is_none().then_some(10_000),
            last_error: last_error.map(Into::into),
        }
    }

    #[test]
    fn what_is_wrong_and_who_was_told() {
        let mut condition = sample().warnings.remove(0);
        condition.since_ms = Some(8_000);
        let notified = vec!["https://hooks.example.org/…".to_owned()];
        let all = Alerts {
            alerts: vec![AlertState { condition, notified }],
            left_out: 0,
            targets: vec![
                target("https://hooks.example.org/…", None),
                target("exec /usr/local/bin/page", Some("/usr/local/bin/page failed: exit 1")),
            ],
        };
        let expect = "\
! web/web-02 is down for 4m 12s: connection refused on 10.0.0.12:80
    next: curl -v -m 5 http://10.0.0.12:80/healthz
    warning, backend-down, for 4m; told: https://hooks.example.org/…

TARGET                       SENT  FAILED  WAITING  LAST SENT
https://hooks.example.org/…  12    0       1        4m ago
exec /usr/local/bin/page     12    0       1        never
! exec /usr/local/bin/page: /usr/local/bin/page failed: exit 1
";
        assert_eq!(alerts(&all, 260_000), expect);
    }

    #[test]
    fn nothing_and_nobody() {
        let text = alerts(&Alerts::default(), 0);
        assert!(text.starts_with("ok nothing is wrong\n") && text.contains("[[alert]]"), "{text}");
        assert!(alert_tests(&[]).contains("[[alert]]"));
    }

    #[test]
    fn what_became_of_tests() {
        let test = |error: Option<&str>| AlertTest {
            target: "https://h/…".into(),
            error: error.map(Into::into),
            took_ms: 7,
        };
        let expect =
            "ok https://h/… took it within 7 ms\n! https://h/… failed after 7 ms: HTTP 500\n";
        assert_eq!(alert_tests(&[test(None), test(Some("HTTP 500"))]), expect);
    }
}
