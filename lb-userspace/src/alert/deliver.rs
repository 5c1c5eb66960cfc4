//! One attempt to hand one message to one target.
//!
//! Bounded in time by the alert's `timeout`, and in what is read of an answer. What went wrong is
//! one sentence for an operator, in which no secret is: neither a webhook's path nor its headers.

mod exec;
mod headers;
#[cfg(test)]
mod tests;
mod tls;
mod webhook;

use std::time::Duration;

use super::message::Body;
use crate::config::format_duration;
use crate::config::model::{Alert, Target};

/// Hands a message to an alert's target; why that failed.
pub async fn deliver(alert: &Alert, body: &Body) -> Result<(), String> {
    let bytes = body.render(alert.template.as_ref()).into_bytes();
    match &alert.target {
        Target::Webhook { url, headers_file, ca_file } => {
            let files = webhook::Files {
                headers: headers_file.as_deref(),
                authorities: ca_file.as_deref(),
            };
            let posted = webhook::post(url, files, bytes);
            let limited = tokio::time::timeout(alert.timeout, posted).await;
            limited.unwrap_or_else(|_| Err(late(&url.shown(), alert.timeout)))
        }
        Target::Exec { command } => exec::run(command, body, bytes, alert.timeout).await,
    }
}

fn late(who: &str, timeout: Duration) -> String {
    format!("no answer from {who} within {}", format_duration(timeout))
}
