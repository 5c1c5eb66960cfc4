//! `cargo xtask doctor [IFACE]`: what this machine offers to Holdfast and what it lacks, each with its remedy.
//!
//! Only looks; changes nothing.

mod interface;
mod kernel;
mod tools;

use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use serde::Serialize;

use crate::Output;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    Warn,
    Fail,
}

/// One line of the report.
#[derive(Debug, Serialize)]
struct Finding {
    area: &'static str,
    item: String,
    level: Level,
    detail: String,
    /// What to do about it, unless it is ok.
    remedy: Option<String>,
}

impl Finding {
    fn ok(area: &'static str, item: &str, detail: impl Into<String>) -> Self {
        Self { area, item: item.into(), level: Level::Ok, detail: detail.into(), remedy: None }
    }

    fn warn(area: &'static str, item: &str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { level: Level::Warn, remedy: Some(remedy.into()), ..Self::ok(area, item, detail) }
    }

    fn fail(area: &'static str, item: &str, detail: impl Into<String>, remedy: &str) -> Self {
        Self { level: Level::Fail, remedy: Some(remedy.into()), ..Self::ok(area, item, detail) }
    }
}

/// 0 if nothing fails, 1 otherwise.
pub(crate) fn run(interface: Option<&str>, output: Output) -> ExitCode {
    let mut findings = kernel::findings();
    findings.extend(tools::findings());
    if let Some(name) = interface {
        findings.extend(interface::findings(name));
    }
    let printed = match output {
        Output::Text => print(&findings),
        Output::Json => serde_json::to_string_pretty(&findings)
            .map_err(io::Error::from)
            .and_then(|text| writeln!(io::stdout(), "{text}")),
    };
    let healthy = findings.iter().all(|finding| finding.level != Level::Fail);
    if healthy && printed.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn print(findings: &[Finding]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let colour = out.is_terminal();
    let mut area = "";
    for finding in findings {
        if finding.area != area {
            area = finding.area;
            writeln!(out, "{area}")?;
        }
        let (word, code) = match finding.level {
            Level::Ok => ("ok  ", 32),
            Level::Warn => ("warn", 33),
            Level::Fail => ("fail", 31),
        };
        let word = if colour { format!("\x1b[{code}m{word}\x1b[0m") } else { word.to_owned() };
        writeln!(out, "  {word}  {:<14} {}", finding.item, finding.detail)?;
        if let Some(remedy) = &finding.remedy {
            writeln!(out, "        {:<14} -> {remedy}", "")?;
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    writeln!(
        out,
        "{} ok, {} to look at, {} failing",
        count(Level::Ok),
        count(Level::Warn),
        count(Level::Fail)
    )
}
