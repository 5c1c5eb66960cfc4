//! `wrk` as the client: as many requests as are answered in some time.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail};
use lb_tests::Lab;
use serde::Deserialize;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Wrk {
    pub(crate) path: &'static str,
    pub(crate) connections: u32,
    /// A connection for each request.
    pub(crate) closes: bool,
    /// Whole seconds.
    pub(crate) time: Duration,
}

/// What it saw.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Answers {
    pub(crate) requests: u64,
    pub(crate) duration_us: f64,
    pub(crate) bytes: u64,
    /// From sending a request to the end of its answer.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) errors: u64,
}

/// Its own report is for people.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    '{"requests":%d,"duration_us":%d,"bytes":%d,"p50_us":%.1f,"p99_us":%.1f,"errors":%d}\n',
    summary.requests, summary.duration, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    e.connect + e.read + e.write + e.status + e.timeout))
end
"#;

impl Wrk {
    pub(crate) fn run(&self, lab: &Lab, target: SocketAddr) -> Result<Answers> {
        let script = lab.path("report.lua");
        fs::write(&script, SCRIPT)?;
        let mut wrk = lab.client().command("wrk");
        wrk.args(["-t", "1", "-c", &self.connections.to_string()]);
        wrk.args(["-d", &format!("{}s", self.time.as_secs().max(1))]);
        wrk.arg("-s").arg(&script);
        if self.closes {
            wrk.args(["-H", "Connection: close"]);
        }
        let output = wrk.arg(format!("http://{target}{}", self.path)).output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().find(|line| line.starts_with('{'));
        let line = line.with_context(|| {
            format!("wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr))
        })?;
        let answers: Answers = serde_json::from_str(line).context("wrk's report")?;
        if answers.requests == 0 {
            bail!("no request was answered: {line}");
        }
        Ok(answers)
    }
}
