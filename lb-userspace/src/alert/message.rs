//! What a target gets: one JSON object of a stable shape, or a template filled in.

use std::fs;

use serde::Serialize;

use super::engine::{Item, Message};
use super::{Clock, Kind, Severity, Template};
use crate::report::long_age;

/// Raised when a field changes its meaning; fields are only ever added.
const VERSION: u32 = 1;

/// The default body. Times are milliseconds, since the epoch if they are no durations.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Body {
    pub version: u32,
    /// The balancer's host name.
    pub node: String,
    pub sent_ms: u64,
    pub status: Status,
    /// Of the worst alert in it.
    pub severity: Severity,
    /// One line.
    pub title: String,
    /// A line for each alert, and one for the command to run next where there is one.
    pub message: String,
    pub alerts: Vec<Alert>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// At least one alert holds.
    Firing,
    /// All are over.
    Resolved,
    /// Of `lb alerts test`.
    Test,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Alert {
    /// The same for as long as it lasts, and whenever it comes back: `KIND:SUBJECT`.
    pub id: String,
    pub status: Status,
    pub kind: Kind,
    pub severity: Severity,
    /// `SERVICE`, `SERVICE/NAME`, or an interface.
    pub subject: String,
    pub service: Option<String>,
    pub backend: Option<String>,
    pub message: String,
    /// The command to run next.
    pub next: Option<String>,
    pub since_ms: u64,
    /// Of one that is over.
    pub lasted_ms: Option<u64>,
    /// It was told before, and holds still.
    pub repeated: bool,
}

impl Status {
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
            Self::Test => "test",
        }
    }
}

impl Body {
    /// What a message says, sent by `node` at `sent_ms`.
    #[must_use]
    pub fn new(message: &Message, node: &str, sent_ms: u64, clock: Clock) -> Self {
        let alerts: Vec<Alert> = message.items.iter().map(|i| Alert::new(i, clock)).collect();
        let firing = || alerts.iter().filter(|alert| alert.status == Status::Firing);
        let status = match firing().next() {
            Some(_) => Status::Firing,
            None => Status::Resolved,
        };
        let worst = |alerts: &mut dyn Iterator<Item = &Alert>| alerts.map(|a| a.severity).max();
        let severity = worst(&mut firing()).or(worst(&mut alerts.iter()));
        Self {
            version: VERSION,
            node: node.into(),
            sent_ms,
            status,
            severity: severity.unwrap_or(Severity::Info),
            title: title(&alerts, node),
            message: alerts.iter().map(Alert::line).collect::<Vec<_>>().join("\n"),
            alerts,
        }
    }

    /// What `lb alerts test` sends.
    #[must_use]
    pub fn test(node: &str, sent_ms: u64) -> Self {
        Self {
            version: VERSION,
            node: node.into(),
            sent_ms,
            status: Status::Test,
            severity: Severity::Info,
            title: format!("{node}: test"),
            message: "this is a test, sent by `lb alerts test`: nothing is wrong".into(),
            alerts: Vec::new(),
        }
    }

    /// The bytes to send.
    #[must_use]
    pub fn render(&self, template: Option<&Template>) -> String {
        match template {
            Some(template) => template.fill(|name| self.field(name)),
            // Nothing in it that JSON can't say.
            None => serde_json::to_string(self).unwrap_or_default(),
        }
    }

    /// The placeholders of templates, and what they stand for.
    pub(super) const FIELDS: [&'static str; 7] =
        ["title", "message", "status", "severity", "node", "count", "sent_ms"];

    /// The text of a placeholder.
    #[must_use]
    pub fn field(&self, name: &str) -> String {
        match name {
            "title" => self.title.clone(),
            "message" => self.message.clone(),
            "status" => self.status.name().into(),
            "severity" => self.severity.name().into(),
            "node" => self.node.clone(),
            "count" => self.alerts.len().to_string(),
            "sent_ms" => self.sent_ms.to_string(),
            _ => String::new(),
        }
    }
}

impl Alert {
    fn new(item: &Item, clock: Clock) -> Self {
        let condition = &item.condition;
        let (service, backend) = match condition.subject.split_once('/') {
            Some((service, backend)) => (Some(service), Some(backend)),
            None if condition.kind == Kind::GenericXdp => (None, None),
            None => (Some(condition.subject.as_str()), None),
        };
        let is_over = item.lasted_ms.is_some();
        Self {
            id: format!("{}:{}", condition.kind, condition.subject),
            status: if is_over { Status::Resolved } else { Status::Firing },
            kind: condition.kind,
            severity: condition.severity,
            subject: condition.subject.clone(),
            service: service.map(Into::into),
            backend: backend.map(Into::into),
            message: one_line(&condition.message),
            next: condition.next.clone().filter(|_| !is_over),
            since_ms: clock.epoch_of(item.began_ms),
            lasted_ms: item.lasted_ms,
            repeated: item.again && !is_over,
        }
    }

    fn line(&self) -> String {
        let Self { kind, subject, message, .. } = self;
        match (self.lasted_ms, &self.next) {
            (Some(lasted), _) => {
                format!("resolved: {subject} {kind}, after {}", long_age(lasted))
            }
            (None, None) => format!("{}: {subject} {message}", self.severity),
            (None, Some(next)) => format!("{}: {subject} {message}\n  next: {next}", self.severity),
        }
    }
}

/// `lb-1: web/web-02 backend-down, and 3 more`.
fn title(alerts: &[Alert], node: &str) -> String {
    let Some(first) = alerts.first() else { return node.into() };
    let state = if first.status == Status::Resolved { " resolved" } else { "" };
    let more = match alerts.len() - 1 {
        0 => String::new(),
        n => format!(", and {n} more"),
    };
    format!("{node}: {} {}{state}{more}", first.subject, first.kind)
}

/// What a server said may end up here: no line breaks, and nothing that a terminal obeys.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// This host's name.
#[must_use]
pub fn node_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".into(),
        name => name.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Warning;

    fn item(kind: Kind, subject: &str, severity: Severity, lasted_ms: Option<u64>) -> Item {
        let condition = Warning {
            kind,
            severity,
            subject: subject.into(),
            message: "is down for 3s: refused:\r\n\u{1b}[31m".into(),
            next: Some("nc -vz -w 5 10.0.0.12 80".into()),
            since_ms: Some(5_000),
        };
        Item { condition, began_ms: 5_000, lasted_ms, again: false }
    }

    #[test]
    fn the_default_body_has_a_stable_shape() {
        let down = item(Kind::BackendDown, "web/web-02", Severity::Warning, None);
        let over = item(Kind::CapacityLow, "api", Severity::Critical, Some(61_000));
        let body = Body::new(&Message { items: vec![down, over] }, "lb-1", 9_000, Clock::new());
        let expect = serde_json::json!({
            "version": 1,
            "node": "lb-1",
            "sent_ms": 9_000,
            "status": "firing",
            "severity": "warning",
            "title": "lb-1: web/web-02 backend-down, and 1 more",
            "message": "warning: web/web-02 is down for 3s: refused:   [31m\n  \
                        next: nc -vz -w 5 10.0.0.12 80\nresolved: api capacity-low, after 1m 1s",
            "alerts": [
                {
                    "id": "backend-down:web/web-02", "status": "firing", "kind": "backend-down",
                    "severity": "warning", "subject": "web/web-02", "service": "web",
                    "backend": "web-02", "message": "is down for 3s: refused:   [31m",
                    "next": "nc -vz -w 5 10.0.0.12 80", "since_ms": 5_000, "lasted_ms": null,
                    "repeated": false,
                },
                {
                    "id": "capacity-low:api", "status": "resolved", "kind": "capacity-low",
                    "severity": "critical", "subject": "api", "service": "api", "backend": null,
                    "message": "is down for 3s: refused:   [31m", "next": null,
                    "since_ms": 5_000, "lasted_ms": 61_000, "repeated": false,
                },
            ],
        });
        let read: serde_json::Value = serde_json::from_str(&body.render(None)).unwrap();
        assert_eq!(read, expect);
    }

    #[test]
    fn titles_say_whether_it_is_over() {
        let over = item(Kind::CapacityLow, "api", Severity::Critical, Some(61_000));
        let body = Body::new(&Message { items: vec![over] }, "lb-1", 9_000, Clock::new());
        assert_eq!(body.title, "lb-1: api capacity-low resolved");
        assert_eq!((body.status, body.severity), (Status::Resolved, Severity::Critical));
        assert_eq!(Body::test("lb-1", 9_000).status, Status::Test);
    }

    #[test]
    fn every_placeholder_stands_for_something() {
        let body = Body::test("lb-1", 9_000);
        for name in Body::FIELDS {
            assert!(!body.field(name).is_empty(), "{name}");
        }
    }
}
