//! What the parts of `cargo xtask bench` share.
//!
//! A part is a bench target of this package. It measures, prints progress to standard error, and
//! each result as one JSON object in one line to standard output; its field `part` is the part's
//! name. `cargo xtask bench` runs the parts, and makes tables and charts of the lines.
//!
//! Machines are shared and noisy. So variants are measured in turns ("rounds"), and a figure is
//! given by its least value, which noise can only raise, beside its 10th percentile and median.

use std::{
    env,
    io::{IsTerminal, Write, stderr, stdout},
    path::{Path, PathBuf},
    process::{ExitCode, exit},
};

use anyhow::Result;
use serde::Serialize;

/// What a part was asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Turns of every variant.
    pub rounds: usize,
    /// Fewer and smaller cases: to see whether it works, not how fast.
    pub quick: bool,
    /// Only cases whose name has one of these in it; all, if there are none.
    pub cases: Vec<String>,
}

impl Options {
    /// Turns, unless told otherwise.
    pub const ROUNDS: usize = 9;

    /// From the command line of a bench target: `[--rounds N] [--quick] [CASE…]`. Ends the process
    /// with code 2 if that is not what it says.
    #[must_use]
    pub fn from_command_line() -> Self {
        let mut options = Self { rounds: 0, quick: false, cases: Vec::new() };
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            match argument.as_str() {
                // `cargo bench` adds it.
                "--bench" => {}
                "--quick" => options.quick = true,
                "--rounds" => match arguments.next().and_then(|number| number.parse().ok()) {
                    Some(rounds) if rounds > 0 => options.rounds = rounds,
                    _ => usage("--rounds takes a number from 1 on"),
                },
                flag if flag.starts_with('-') => usage(&format!("unknown option {flag}")),
                case => options.cases.push(case.to_owned()),
            }
        }
        if options.rounds == 0 {
            options.rounds = if options.quick { 3 } else { Self::ROUNDS };
        }
        options
    }

    /// Whether a case of this name is wanted.
    #[must_use]
    pub fn wants(&self, case: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|part| case.contains(part.as_str()))
    }
}

/// The main function of a part that can fail: one line says why.
pub fn main(part: impl FnOnce(&Options) -> Result<()>) -> ExitCode {
    match part(&Options::from_command_line()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            progress_ends();
            eprintln!("error: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn usage(problem: &str) -> ! {
    eprintln!("error: {problem}\nusage: [--rounds N] [--quick] [CASE…]");
    exit(2);
}

/// The `lb` to measure: `LB_BIN`, or this workspace's release build.
#[must_use]
pub fn lb() -> PathBuf {
    let built = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/lb");
    env::var_os("LB_BIN").map_or_else(built, PathBuf::from)
}

/// One figure over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Figure {
    /// The least.
    pub min: f64,
    /// The 10th percentile.
    pub p10: f64,
    /// The middle.
    pub median: f64,
}

impl Figure {
    /// Of values in any order; zeroes of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Self {
        let [min, p10, median] = ranked(values, [0.0, 0.1, 0.5]);
        Self { min, p10, median }
    }
}

/// How a figure that differs by itself, and not by noise, is spread.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    pub min: f64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    /// Of values in any order; `None` of none.
    #[must_use]
    pub fn of(values: &[f64]) -> Option<Self> {
        let [min, p50, p99, max] = ranked(values, [0.0, 0.5, 0.99, 1.0]);
        (!values.is_empty()).then_some(Self { min, p50, p99, max })
    }
}

/// The values at these shares of the way from the least to the most.
fn ranked<const N: usize>(values: &[f64], shares: [f64; N]) -> [f64; N] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    shares.map(|share| {
        let place = (sorted.len().saturating_sub(1)) as f64 * share;
        sorted.get(place.round() as usize).copied().unwrap_or_default()
    })
}

/// Prints a result.
///
/// # Panics
///
/// If it is no JSON object, or nobody reads it.
#[expect(clippy::expect_used, reason = "a benchmark nobody reads may end")]
pub fn emit(result: &serde_json::Value) {
    assert!(result["part"].is_string(), "a result names its part: {result}");
    writeln!(stdout().lock(), "{result}").expect("standard output takes the result");
}

/// Says what is done now, over the line before on a terminal.
pub fn progress(text: &str) {
    let mut error = stderr().lock();
    // Progress that cannot be shown is no reason to stop.
    let _ = if error.is_terminal() {
        write!(error, "\r\x1b[K{text}").and_then(|()| error.flush())
    } else {
        writeln!(error, "{text}")
    };
}

/// Ends the progress line.
pub fn progress_ends() {
    if stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_by_rank() {
        let values: Vec<f64> = (0..=20).rev().map(f64::from).collect();
        assert_eq!(Figure::of(&values), Figure { min: 0.0, p10: 2.0, median: 10.0 });
        assert_eq!(Figure::of(&[7.0]), Figure { min: 7.0, p10: 7.0, median: 7.0 });
        assert_eq!(Figure::of(&[]), Figure { min: 0.0, p10: 0.0, median: 0.0 });
        let values: Vec<f64> = (0..=200).rev().map(f64::from).collect();
        let spread = Spread { min: 0.0, p50: 100.0, p99: 198.0, max: 200.0 };
        assert_eq!(Spread::of(&values), Some(spread));
        assert_eq!(Spread::of(&[]), None);
    }
}
