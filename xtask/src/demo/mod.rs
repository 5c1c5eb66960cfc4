//! `cargo xtask demo`: the product at work on real HTTP, in `nat` and `dsr`, IPv4 and IPv6: spread, failure,
//! fail-over and fail-back, measured from the client's side.

mod scenario;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use lb_tests::{Family, Mode};
use serde_json::json;

use crate::{Output, product, setup, shell};
use scenario::Measured;

/// `lb`: an `lb` that is built already.
pub(crate) fn run(output: Output, lb: Option<PathBuf>) -> Result<()> {
    let lb = match lb {
        Some(lb) => lb,
        None => {
            setup::run(true)?;
            product::build_lb()?
        }
    };
    if !shell::is_root() {
        return run_as_root(output, &lb);
    }
    lb_tests::down_stale()?;

    let start = Instant::now();
    let mut results = Vec::new();
    for mode in [Mode::Nat, Mode::Dsr] {
        for family in [Family::V4, Family::V6] {
            let measured = scenario::run(mode, family, &lb)
                .with_context(|| format!("the demo failed in {mode}, {family}"))?;
            results.push(measured);
        }
    }
    let passed = results.iter().all(Measured::passed);
    match output {
        Output::Text => table(&results, start),
        Output::Json => {
            let report = json!({
                "passed": passed,
                "duration_s": start.elapsed().as_secs_f64(),
                "combinations": results,
            });
            println!("{}", serde_json::to_string_pretty(&report)?);
        }
    }
    if !passed {
        bail!("requests failed after detection, or connections to other backends broke");
    }
    Ok(())
}

/// Namespaces and XDP need root; set-up and build did not.
fn run_as_root(output: Output, lb: &Path) -> Result<()> {
    let own = std::env::current_exe()?;
    let mut command = shell::as_root("env")?;
    command.arg(own).arg("demo").arg("--lb").arg(lb);
    if matches!(output, Output::Json) {
        command.args(["-o", "json"]);
    }
    shell::run(&mut command)
}

fn table(results: &[Measured], start: Instant) {
    println!(
        "\n{:<4}  {:<6}  {:<23}  {:>8}  {:>15}  {:>6}  {:>9}  RESULT",
        "MODE", "FAMILY", "SPREAD, %", "DETECTED", "FAILED REQUESTS", "BROKEN", "FAIL-BACK"
    );
    println!(
        "{:<4}  {:<6}  {:<23}  {:>8}  {:>7} {:>7}  {:>6}  {:>9}",
        "", "", "", "ms", "until", "after", "others", "ms"
    );
    for m in results {
        println!(
            "{:<4}  {:<6}  {:<23}  {:>8.0}  {:>7} {:>7}  {:>6}  {:>9.0}  {}",
            m.mode,
            m.family,
            m.spread_text(),
            m.detection_ms,
            m.failed_until_detection,
            m.failed_after_detection,
            m.broken_to_others,
            m.fail_back_ms,
            if m.passed() { "ok" } else { "FAILED" }
        );
    }
    println!(
        "\nDetected: kill -9 to `lb status` saying down; at most {} ms are expected",
        scenario::EXPECTED_DETECTION_MS
    );
    println!(
        "(interval + 2 x fast interval + timeout). Fail-back: start of nginx to its first request."
    );
    println!("Took {:.0} s.", start.elapsed().as_secs_f64());
}
