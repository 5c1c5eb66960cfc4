//! An `[[alert]]`: who is told, of what, and how.

use std::ops::Range;

use toml::Spanned;

use super::Lowering;
use crate::alert::{Kind, Severity, Template};
use crate::config::model::{Alert, Target};
use crate::config::place::Place;
use crate::config::raw::RawAlert;

impl Lowering {
    /// `None` where there is no target to tell anything; that has been reported.
    pub(super) fn alert(&mut self, a: usize, raw: Spanned<RawAlert>) -> Option<Alert> {
        let span = raw.span();
        let mut raw = self.open(Place::Alert(a), raw);
        let key = |key| Place::AlertKey(a, key);
        let target = self.target(a, &span, &mut raw);
        let mut events = Vec::new();
        for text in raw.events {
            events.extend(self.read(key("events"), text, "a kind of alert", str::parse::<Kind>));
        }
        let template = raw.template.and_then(|text| match Template::read(text.get_ref()) {
            Ok(template) => Some(template),
            Err(error) => {
                self.find(text.span(), error.message, error.hint);
                None
            }
        });
        let min_severity = raw.min_severity.and_then(|text| {
            self.read(key("min_severity"), text, "a severity", str::parse::<Severity>)
        });
        let default = Alert::new(target?);
        Some(Alert {
            events,
            min_severity: min_severity.unwrap_or(default.min_severity),
            timeout: self.duration(key("timeout"), raw.timeout, default.timeout),
            // One below zero is as wrong as one too large, and is told so.
            retries: raw.retries.map_or(default.retries, |n| {
                u32::try_from(self.open(key("retries"), n)).unwrap_or(u32::MAX)
            }),
            repeat: self.duration(key("repeat"), raw.repeat, default.repeat),
            batch: self.duration(key("batch"), raw.batch, default.batch),
            template,
            ..default
        })
    }

    fn target(&mut self, a: usize, alert: &Range<usize>, raw: &mut RawAlert) -> Option<Target> {
        let key = |key| Place::AlertKey(a, key);
        let example = "add webhook = \"https://hooks.example.org/lb\", or \
                       exec = [\"/usr/local/bin/page\"]";
        match (raw.webhook.take(), raw.exec.take()) {
            (None, None) => {
                self.missing(alert, "the alert has no target", example);
                None
            }
            (Some(_), Some(exec)) => {
                let message = "`webhook` and `exec` are two targets".to_owned();
                let hint = "write an [[alert]] for each of them".to_owned();
                self.find(exec.span(), message, hint);
                None
            }
            (Some(url), None) => {
                let place = key("webhook");
                let mut file = |key: &'static str, raw: &mut Option<Spanned<String>>| {
                    raw.take().map(|path| self.open(Place::AlertKey(a, key), path))
                };
                let headers_file = file("headers_file", &mut raw.headers_file);
                let ca_file = file("ca_file", &mut raw.ca_file);
                let url = self.parse(place, &url)?;
                Some(Target::Webhook { url, headers_file, ca_file })
            }
            (None, Some(exec)) => {
                let files = [raw.headers_file.take(), raw.ca_file.take()];
                for file in files.into_iter().flatten() {
                    let message = "this belongs to a webhook, and there is none".to_owned();
                    let hint = "remove this key; arguments of a program are part of `exec`";
                    self.find(file.span(), message, hint.into());
                }
                Some(Target::Exec { command: self.open(key("exec"), exec) })
            }
        }
    }
}
